"""`judge merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from judge.cli.options import Base
from judge.cli.quiet import quiet_libraries
from judge.errors import RunInterrupted
from judge.models.bundle import open_model
from judge.runs.terminal import Terminal, duration
from quantize.merge_plan import Dtype


def merge(
    bundle: Annotated[Path, typer.Argument(help="Judge bundle or folder of a LoRA adapter.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the merged model.")],
    base: Base = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Number format of the merged weights. auto: each tensor as the base stores it.")
    ] = "auto",
    proof: Annotated[
        bool,
        typer.Option(
            help="Compare the verdicts of base, adapter and merged model on built-in rows, in float32 on the CPU."
        ),
    ] = True,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what another command left in OUT.parts.")] = False,
) -> None:
    """Merge a judge's adapter into its base model, in float32, and prove that the verdicts stayed."""
    run_merge(bundle, output, base, dtype, proof, restart)


def run_merge(bundle: Path, output: Path, base: Path | None, dtype: Dtype, proof: bool, restart: bool = False) -> None:
    """Merge a bundle's adapter into its base model; see `quantize.merge.merge`.

    Raises:
        JudgeError: any mistake in the input; nothing is written then.
        RunInterrupted: the user pressed Ctrl-C.
    """
    quiet_libraries()
    from quantize.merge import merge as merge_model

    model = open_model(bundle, base)
    terminal = Terminal()
    terminal.begin()
    try:
        figures = merge_model(model, output, dtype, terminal, proof, restart)
    except KeyboardInterrupt:
        raise RunInterrupted(f"stopped; nothing is written to {output}") from None
    finally:
        terminal.end()
    terminal.print_lines([*figure_lines(figures), f"wrote {output}"])


def figure_lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures of a merge as lines."""
    from quantize.merge_proof import MOST_ERROR

    trained = ", trained on 4-bit weights" if figures["trained_on_4bit_base"] else ""
    dtypes = figures["dtypes"]
    shares = ", ".join(f"{name} {count / figures['parameters']:.1%}" for name, count in sorted(dtypes.items()))
    lines = [
        ("adapter", f"{figures['adapter']}, rank {figures['rank']}{trained}"),
        ("merged", f"{figures['merged_matrices']:,} matrices of {figures['tensors']:,} tensors"),
        ("size", f"{figures['parameters']:,} values, {figures['bytes'] / 1e9:,.2f} GB ({shares})"),
    ]
    if figures["own_output_head"]:
        lines.append(("output head", "has its own matrix now, which it shared with the embeddings"))
    lines.append(("matrix check", f"largest error {figures['largest_check_error']:.2f} units of float32 rounding"))
    proof = figures["proof"]
    if isinstance(proof, str):
        lines.append(("proof", proof))
    else:
        lines += [
            ("effect", f"the adapter moves a verdict's log-probability by up to {proof['adapter_effect']:.3g}"),
            ("merging", f"moves it by up to {proof['merge_error']:.1e} in float32 (allowed: {MOST_ERROR:g})"),
            ("as stored", f"the merged model differs by up to {proof['rounding']:.1e}"),
        ]
    lines.append(("time", duration(figures["seconds"])))
    return [f"{name:14}{value}" for name, value in lines]
