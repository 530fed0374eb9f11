"""`judge rehearse`."""

from __future__ import annotations

import json
import signal
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from judge.cli.commands import Flags
from judge.cli.options import AsJson, Base, CellsOption, Duration, Model, OnBadRowOption, TableFile
from judge.deadline import parse_deadline
from judge.engine.choose import usable_gpus
from judge.errors import JudgeError, RunInterrupted
from judge.models.bundle import open_model
from judge.planning.rehearsal import Rehearsal, decide, drift_of, lines, reading_time, total_time
from judge.planning.rehearsal_rows import WatchedTable
from judge.planning.rehearse import rehearse as measure
from judge.runs.terminal import Terminal
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings

# Rows of the random sample: about a minute and a half of a 135M model on two slow cores, or of an 8B on a T4.
CPU_SAMPLE, GPU_SAMPLE = 48, 256


def rehearse(
    model: Model,
    table: TableFile,
    settings: Annotated[
        ScoreSettings,
        Flags(
            "template max_tokens truncation swap readout dtype weights device parallel workers gpu_memory_utilization "
            "batch_tokens"
        ),
    ],
    deadline: Duration = None,
    sample: Annotated[int | None, typer.Option(help="Rows of the random sample. [default: 256, on a CPU 48]")] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other rows.")] = 0,
    base: Base = None,
    cells: CellsOption = "auto",
    on_bad_row: OnBadRowOption = "error",
    as_json: AsJson = False,
) -> None:
    """Run the real engine on the longest, the odd and some random rows: memory, speed, and how long the whole takes.

    Nothing is left behind. Exit status 1 if the whole table would not fit the deadline.
    """
    if sample is not None and sample < 1:
        raise JudgeError(f"--sample={sample}: expected at least 1 row")
    seconds = parse_deadline(deadline).left() if deadline is not None else None
    rows = WatchedTable.open(table, cells, on_bad_row)
    assert isinstance(rows, WatchedTable)
    folder, terminal = open_model(model, base), Terminal()
    with tempfile.TemporaryDirectory(prefix="judge-rehearsal-") as name:
        try:
            with Scorer(folder, settings, Path(name)) as scorer:
                count = sample or (GPU_SAMPLE if scorer.pool.config.device == "cuda" else CPU_SAMPLE)
                with terminal:
                    found, costs = measure(scorer, rows, Path(name), count, seed, terminal)
                fits, verdict = decide(found, costs, scorer.budget.max_tokens, seconds)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping the engines takes some seconds
            raise RunInterrupted("stopped; a rehearsal leaves nothing behind") from None
        except JudgeError as error:
            raise JudgeError(str(error).split(" (its log: ")[0]) from None  # the log goes with the folder
    assert found.model is not None
    total, reading = total_time(found, costs), reading_time(found.model, drift_of(found.points), costs)
    ids, cards = rows.ids().to_pylist(), [gpu.name for gpu in usable_gpus(settings)]
    if as_json:
        figures = figures_of(found, ids, cards)
        figures |= {"reading_seconds": asdict(reading), "total_seconds": asdict(total)}
        typer.echo(json.dumps({**figures, "fits": fits, "verdict": verdict}, indent=1))
    else:
        for label, text in (*lines(found, total, reading, ids, cards), ("verdict", verdict)):
            typer.echo(f"{label:14}{text}")
    if not fits:
        raise typer.Exit(1)


def figures_of(found: Rehearsal, ids: list[Any], cards: list[str]) -> dict[str, Any]:
    """Return what a rehearsal measured as plain values for JSON; times in seconds, memory in bytes."""
    assert found.model is not None
    return {
        **found.ran_with,
        "rows": found.rows,
        "mean_tokens": found.mean_tokens,
        "longest_tokens": found.longest_tokens,
        "read_rows": found.read_rows,
        "awkward_rows": {kind: [ids[row] for row in rows] for kind, rows in found.chosen.awkward.items()},
        "failed_ids": [ids[row] for row in found.failed],
        "engine_failures": found.engine_failures,
        "notes": found.notes,
        "batch_tokens": {"start": found.batch_tokens[0], "end": found.batch_tokens[1]},
        "memory": [memory for _, memory in sorted(found.memory.items())],
        "free_before": found.free_before,
        "cards": cards,
        "tokens_per_second": found.tokens_per_second,
        "load_seconds": found.load_seconds,
        "prepare_seconds": found.prepare_seconds,
        "setup_seconds": found.setup_seconds,
        "write_seconds": found.write_seconds,
        "points": [asdict(point) for point in found.points],
        "time_model": asdict(found.model),
    }
