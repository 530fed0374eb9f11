"""`judge merge`: one merge with its progress, and its figures as aligned lines."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.errors import RunInterrupted
from judge.models.bundle import open_model
from judge.runs.terminal import Terminal, duration

if TYPE_CHECKING:
    from quantize.merge_plan import Dtype

# Set before torch and transformers are imported.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


class MergeTerminal(Terminal):
    """Shows the events of a merge."""

    first_task = "hashing the model"

    def working(self, what: str, done: int, total: int) -> None:
        """Show how much of a step is done."""
        self._show(what, done, total, f"{done / total:.0%}" if done else "")


def run_merge(bundle: Path, output: Path, base: Path | None, dtype: Dtype, proof: bool, restart: bool = False) -> None:
    """Merge a bundle's adapter into its base model; see `quantize.merge.merge`.

    Raises:
        JudgeError: any mistake in the input; nothing is written then.
        RunInterrupted: the user pressed Ctrl-C.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from transformers.utils.logging import disable_progress_bar

    from quantize.merge import merge

    disable_progress_bar()
    for name in ("peft", "bitsandbytes"):  # what they say while they load is not about this merge
        logging.getLogger(name).setLevel(logging.CRITICAL)
    model = open_model(bundle, base)
    events = MergeTerminal()
    events.begin()
    try:
        figures = merge(model, output, dtype, events, proof, restart)
    except KeyboardInterrupt:
        raise RunInterrupted(f"stopped; nothing is written to {output}") from None
    finally:
        events.end()
    events.print_lines([*figure_lines(figures), f"wrote {output}"])


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
