"""Calibration prompts: the judge's own prompts with their verdicts, from the one prompt builder.

AWQ scales the channels that matter for the inputs it sees. So it sees what the judge will read: comparisons that
trained it, cut and framed as in training, with the verdict token behind them.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from judge.errors import JudgeError, counted
from judge.models.bundle import ModelFolder
from judge.models.prompting import choose_budget, choose_template, differs_from_training
from judge.models.trained_rows import TrainedRows, trained_rows_of
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import NO_LABEL, VERDICTS, Cells, Comparison, Flag, Target
from judge.tables.split import stratum
from judge.tables.table import Table
from judge.tables.table_files import VERDICT_COLUMNS


@dataclass(frozen=True)
class CalibrationPrompts:
    """Prompts to calibrate on.

    Attributes:
        ids: token ids of each prompt with its verdict behind it.
        figures: what `judge.json` says of them, such as `samples`, `tokens` and `verdicts` (of A, B and tie).
        warnings: what a user should know of them.
    """

    ids: list[list[int]]
    figures: dict[str, Any]
    warnings: list[str]


class _LabelledRows(Table):
    """A table that passes over rows without a verdict. An unclear verdict is an error, as in training."""

    def _verdict(self, values: dict[str, Any]) -> tuple[int, Target | None, float, str]:
        cells = [values.get(name) for name in VERDICT_COLUMNS]
        if all(cell is None or cell != cell or not str(cell).strip() for cell in cells):
            return NO_LABEL, None, 1.0, ""
        return super()._verdict(values)


def calibration_prompts(
    model: ModelFolder,
    data: Sequence[Path] | None,
    samples: int,
    sample_tokens: int,
    seed: int = 0,
    template: str | None = None,
    cells: Cells | None = None,
) -> CalibrationPrompts:
    """Return prompts to calibrate a model on: as many of each verdict, and the same for the same seed.

    Args:
        data: labelled tables; None for those that trained the judge, if they are still there and unchanged.
        samples: how many prompts; fewer if the tables have fewer.
        sample_tokens: longest prompt, in tokens; the judge's own budget holds if it is smaller.
        template: another prompt template than the bundle's; a model that is no judge has `side-by-side` by default.
        cells: how cells are read; None as in training, otherwise `auto`.

    Raises:
        JudgeError: no tables, unreadable ones, none of their rows trained the judge, or prompts cannot be built.
    """
    builder, warning = _builder(model, sample_tokens, template)
    tables = _tables(model, data, cells or (model.judge.setting("cells", "auto") if model.judge else "auto"))
    trained = trained_rows_of(model)
    rows = pick_rows(tables, samples, seed, trained)
    if not rows:
        names = ", ".join(table.name for table in tables)
        if trained is not None:
            raise JudgeError(
                f"{names}: none of its labelled rows trained this judge; calibrate on a table that did (--data), so "
                "that no row is left to evaluate on that the judge has seen"
            )
        raise JudgeError(f"{names}: no row has a verdict; calibration wants labelled comparisons")
    prompts = builder.build([row for row, _ in rows])
    labels = [label for _, label in rows]
    ids = [[*map(int, p.ids), builder.verdict_ids[label]] for p, label in zip(prompts, labels, strict=True)]
    counts = [labels.count(label) for label in range(3)]
    figures = {
        "samples": len(ids),
        "tokens": sum(map(len, ids)),
        "longest": max(map(len, ids)),
        "verdicts": counts,
        "tables": [{"file": table.name, "digest": table.digest()} for table in tables],
        "trained_rows_only": trained is not None,
        "cut": sum(any(prompt.cut) for prompt in prompts),
    }
    warnings = [warning] if warning else []
    missing = [name for name, count in zip(VERDICTS, counts, strict=True) if count == 0]
    if len(ids) < samples:
        found = counted(len(ids), "row")
        warnings.append(f"calibrating on {found}: the tables have no more that fit ({samples} were asked for)")
    elif missing:
        warnings.append(f"no calibration row has the verdict {' or '.join(missing)}")
    return CalibrationPrompts(ids, figures, warnings)


def _builder(model: ModelFolder, sample_tokens: int, template: str | None) -> tuple[PromptBuilder, str | None]:
    """Return the builder with the shorter of the judge's budget and `sample_tokens`.

    The judge's own budget is tried first: it shows whether the tokenizer still builds the prompts of training.
    """
    settings = ScoreSettings(template=template)
    encoder = TextEncoder(load_tokenizer(model.path))
    budget = choose_budget(model, settings)
    builder = PromptBuilder(encoder, choose_template(model, settings), budget)
    warning = differs_from_training(model, settings, builder)
    if budget.max_tokens > sample_tokens:
        shorter = Budget(sample_tokens, budget.policy, budget.shares)
        try:
            builder = PromptBuilder(encoder, builder.template, shorter)
        except JudgeError as error:
            raise JudgeError(f"--sample-tokens={sample_tokens}: {error}") from None
    return builder, warning


def _tables(model: ModelFolder, data: Sequence[Path] | None, cells: Cells) -> list[Table]:
    """Return the given tables, else those that trained the judge, if they are still what they were."""
    trained_on = model.judge.setting("data", ()) if model.judge and not data else ()
    paths = data or [Path(str(path)) for path in trained_on]
    if not paths:
        raise JudgeError(f"{model.path}: does not say what trained it; give labelled comparisons with --data")
    gone = next((path for path in paths if trained_on and not path.is_file()), None)
    if gone:
        raise JudgeError(f"{gone}: trained this judge and is not there any more; give it with --data")
    tables: list[Table] = [_LabelledRows.open(path, cells, labels="required") for path in paths]
    entries = model.judge.training.get("data", []) if model.judge and trained_on else []
    recorded = [str(entry.get("digest")) for entry in entries if isinstance(entry, dict)]
    for path, table, digest in zip(paths, tables, recorded, strict=False):
        if table.digest() != digest:
            raise JudgeError(f"{path}: is not the table that trained this judge (it has changed); give it with --data")
    return tables


def pick_rows(
    tables: Sequence[Table], samples: int, seed: int, trained: TrainedRows | None
) -> list[tuple[Comparison, int]]:
    """Return rows with their labels, as many of each verdict, in the order of the tables.

    Every row gets a random number, and the rows of each verdict with the smallest numbers are kept. So one pass
    suffices, and memory does not grow with the tables. If a verdict has too few rows, the others fill up.

    Args:
        trained: take only rows that trained the judge.
    """
    random = np.random.default_rng(seed)
    # for each verdict a heap of its rows with the smallest numbers; the largest of these comes first
    kept: list[list[tuple[float, int, Comparison]]] = [[], [], []]
    for place, row in enumerate(row for table in tables for chunk in table.chunks() for row in chunk):
        number = float(random.random())
        label = stratum(row)
        if label == NO_LABEL or (trained is not None and Flag.TRAINED_ON not in trained.flags(row)):
            continue
        heap, entry = kept[label], (-number, place, row)
        if len(heap) < samples:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            heapq.heapreplace(heap, entry)
    ordered = [sorted(heap, key=lambda entry: -entry[0]) for heap in kept]
    chosen = [
        (place, row, label)
        for label, count in enumerate(_even_shares([len(rows) for rows in ordered], samples))
        for _, place, row in ordered[label][:count]
    ]
    return [(row, label) for _, row, label in sorted(chosen, key=lambda entry: entry[0])]


def _even_shares(available: Sequence[int], total: int) -> list[int]:
    """Share `total` out one by one among those that still have some."""
    turns = sorted((turn, i) for i, most in enumerate(available) for turn in range(min(most, total)))[:total]
    return [sum(place == i for _, place in turns) for i in range(len(available))]
