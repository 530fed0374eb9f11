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
from judge.models.trained_rows import TrainedRows, joined, trained_rows_of
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import NO_LABEL, VERDICTS, Cells, Comparison, Flag, Target
from judge.tables.table import Table
from judge.tables.table_files import VERDICT_COLUMNS


@dataclass(frozen=True)
class CalibrationPrompts:
    """Prompts to calibrate on.

    Attributes:
        ids: token ids of each prompt with its verdict behind it.
        verdicts: how many prompts have the verdict A, B and tie.
        wanted: how many prompts were asked for.
        tables: names and hashes of the tables that they come from.
        trained_only: whether they come from the rows that trained the judge (else from all labelled rows).
        cut: prompts that the budget has cut.
        warning: how the prompts differ from those of training, or None.
    """

    ids: list[list[int]]
    verdicts: tuple[int, int, int]
    wanted: int
    tables: tuple[dict[str, str], ...]
    trained_only: bool
    cut: int
    warning: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all prompts together."""
        return sum(map(len, self.ids))

    def figures(self) -> dict[str, Any]:
        """Return the numbers for a record."""
        return {
            "samples": len(self.ids),
            "tokens": self.tokens,
            "longest": max(map(len, self.ids)),
            "verdicts": list(self.verdicts),
            "tables": list(self.tables),
            "trained_rows_only": self.trained_only,
            "cut": self.cut,
        }


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
    cells = cells or _trained_with(model, "cells", "auto")
    tables = _tables(model, data, cells)
    trained = joined(trained_rows_of(model))
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
    counts = (labels.count(0), labels.count(1), labels.count(2))
    record = tuple({"file": table.name, "digest": table.digest()} for table in tables)
    cut = sum(any(prompt.cut) for prompt in prompts)
    return CalibrationPrompts(ids, counts, samples, record, trained is not None, cut, warning)


def shortfall(prompts: CalibrationPrompts) -> str | None:
    """Return a warning if there were fewer rows than asked for, or if a verdict is missing; else None."""
    if len(prompts.ids) < prompts.wanted:
        found = counted(len(prompts.ids), "row")
        return f"calibrating on {found}: the tables have no more that fit ({prompts.wanted} were asked for)"
    missing = [name for name, count in zip(VERDICTS, prompts.verdicts, strict=True) if count == 0]
    return f"no calibration row has the verdict {' or '.join(missing)}" if missing else None


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


def _trained_with(model: ModelFolder, name: str, default: Any) -> Any:
    return model.judge.setting(name, default) if model.judge else default


def _tables(model: ModelFolder, data: Sequence[Path] | None, cells: Cells) -> list[Table]:
    if data:
        return [_open(path, cells) for path in data]
    paths = [Path(str(path)) for path in _trained_with(model, "data", ())]
    if not paths:
        raise JudgeError(f"{model.path}: does not say what trained it; give labelled comparisons with --data")
    recorded = _recorded_digests(model)
    tables = []
    for i, path in enumerate(paths):
        if not path.is_file():
            raise JudgeError(f"{path}: trained this judge and is not there any more; give it with --data")
        table = _open(path, cells)
        if i < len(recorded) and table.digest() != recorded[i]:
            raise JudgeError(f"{path}: is not the table that trained this judge (it has changed); give it with --data")
        tables.append(table)
    return tables


def _recorded_digests(model: ModelFolder) -> list[str]:
    """Return the hashes of the tables that trained a judge, in the order of its settings."""
    entries = model.judge.training.get("data", []) if model.judge else []
    return [str(entry.get("digest")) for entry in entries if isinstance(entry, dict)]


def _open(path: Path, cells: Cells) -> Table:
    return _LabelledRows.open(path, cells, labels="required")


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
        label = row_label(row)
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


def row_label(row: Comparison) -> int:
    """Return a row's hard verdict, else the likeliest of its soft one, else -1."""
    if row.label == NO_LABEL and row.target is not None:
        return int(np.argmax(row.target))
    return row.label


def _even_shares(available: Sequence[int], total: int) -> list[int]:
    """Share `total` out one by one among those that still have some."""
    shares = [0] * len(available)
    while sum(shares) < min(total, sum(available)):
        for i, most in enumerate(available):
            if shares[i] < most and sum(shares) < total:
                shares[i] += 1
    return shares
