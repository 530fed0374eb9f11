"""Labelled tables as training rows: token ids on disk, targets, weights, and the split by prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted, printable
from judge.prompting.builder import PromptBuilder
from judge.runs.prepared import Prepared, prepare
from judge.runs.progress import Progress
from judge.tables.comparison import VERDICTS, Comparison
from judge.tables.split import first_prompt, folds, group_key, hold_out, parse_fold, row_key, stratum
from judge.tables.table import Table
from judge.training.settings import TrainSettings

if TYPE_CHECKING:
    import pyarrow as pa

IGNORED = -100  # transformers and TRL give this label to positions that carry no loss

# What is kept of each row besides its token ids. `target` is NaN if the row has no soft label.
_ROW = np.dtype(
    [
        ("row_key", np.uint64),
        ("group", np.uint64),
        ("label", np.int8),
        ("stratum", np.int8),
        ("target", np.float32, 3),
        ("weight", np.float32),
        ("source", np.int32),
    ]
)


class _Collecting(Table):
    """A table that keeps what training needs to know of each row while somebody reads it."""

    def chunks(self) -> Iterator[list[Comparison]]:
        self.records: list[tuple[Any, ...]] = []
        self.sources: dict[str, int] = {}
        self.prompts: list[str] = []
        for chunk in super().chunks():
            for row in chunk:
                source = self.sources.setdefault(row.source or Path(self.name).stem, len(self.sources))
                target = row.target or (np.nan,) * 3
                self.records.append((row_key(row), group_key(row), row.label, stratum(row), target, row.weight, source))
                self.prompts.append(first_prompt(row))
            yield chunk


@dataclass(frozen=True)
class TrainingRows:
    """All rows of one or more labelled tables.

    Attributes:
        prepared: each table's token ids, on disk.
        records: one record for each row (see `_ROW`), table after table.
        ids: the rows' ids as text; with several tables, the table's name stands before each.
        sources: names of the sources, by the number in the records.
        digests: hashes of the tables.
        prompts: each row's first prompt, normalised, to compare prompts with.
    """

    prepared: tuple[Prepared, ...]
    records: NDArray[np.void]
    ids: list[str]
    sources: list[str]
    prompts: list[str]
    digests: list[str]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each prompt, shape (rows,)."""
        return np.concatenate([p.lengths for p in self.prepared])

    @property
    def strata(self) -> NDArray[np.int64]:
        """The label of each row, else the most probable verdict of its soft label, shape (rows,)."""
        strata: NDArray[np.int64] = self.records["stratum"].astype(np.int64)
        return strata

    def id_column(self, rows: NDArray[np.int64]) -> pa.Array:
        """Return the ids of some rows: in their table's type, or with several tables as text, `TABLE:ID`."""
        import pyarrow as pa

        if len(self.prepared) > 1:
            return pa.array([self.ids[row] for row in rows.tolist()], pa.string())
        return self.prepared[0].ids().take(pa.array(rows))

    def tokens(self, rows: NDArray[np.int64], swapped: bool) -> list[NDArray[np.int32]]:
        """Return the token ids of some rows' prompts."""
        starts = np.cumsum([0, *(len(p.rows) for p in self.prepared)])
        places = np.searchsorted(starts, rows, side="right") - 1
        return [
            self.prepared[place].prompt(int(row - starts[place]), swapped)
            for row, place in zip(rows, places, strict=True)
        ]


def read_rows(
    paths: Sequence[str],
    settings: TrainSettings,
    builder: PromptBuilder,
    folder: Path,
    both_orders: bool,
    progress: Progress,
) -> TrainingRows:
    """Read labelled tables strictly and write their prompts' token ids below `folder`.

    Raises:
        JudgeError: a table cannot be read, or a row has no clear label.
    """
    prepared: list[Prepared] = []
    records: list[NDArray[np.void]] = []
    ids: list[str] = []
    prompts: list[str] = []
    digests: list[str] = []
    sources: dict[str, int] = {}
    for number, path in enumerate(paths):
        table = _Collecting.open(path, settings.cells, labels="required")
        assert isinstance(table, _Collecting)
        place = folder / f"table-{number}"
        place.mkdir(parents=True, exist_ok=True)
        prepared.append(prepare(table, builder, place, both_orders, progress))
        part = np.array(table.records, dtype=_ROW)
        renamed = np.array([sources.setdefault(name, len(sources)) for name in table.sources], dtype=np.int32)
        part["source"] = renamed[part["source"]]
        records.append(part)
        before = f"{table.name}:" if len(paths) > 1 else ""
        ids += [f"{before}{printable(i, 80)}" for i in prepared[-1].ids().to_pylist()]
        prompts += table.prompts
        digests.append(table.digest())
    return TrainingRows(tuple(prepared), np.concatenate(records), ids, list(sources), prompts, digests)


@dataclass(frozen=True)
class Split:
    """Which rows train and which are held out: row numbers, sorted."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_rows(rows: TrainingRows, settings: TrainSettings) -> Split:
    """Split by whole prompts: a prompt, its swapped copies and its other comparisons stay on one side.

    Raises:
        JudgeError: too few prompts to split.
    """
    groups = rows.records["group"]
    if settings.fold is not None:
        number, count = parse_fold(settings.fold)
        held_out = folds(groups, rows.strata, count, settings.seed) == number - 1
    else:
        held_out = hold_out(groups, rows.strata, settings.holdout, settings.seed)
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def check_rows(rows: TrainingRows, train: NDArray[np.int64], settings: TrainSettings, rows_per_step: int) -> None:
    """Check before any weight is loaded that the training rows can be trained on.

    Args:
        train: the training rows' numbers.
        rows_per_step: rows of one optimizer step, over all devices.

    Raises:
        JudgeError: a row without a label that the loss uses, a class that never occurs, fewer rows than one step
            takes, an unknown source, or weights that are all zero.
    """
    records = rows.records[train]
    has_soft = ~np.isnan(records["target"]).any(axis=1)
    if settings.soft_weight > 0 and not has_soft.any():
        raise JudgeError(f"soft_weight={settings.soft_weight:g}, but no row has soft labels (columns p_a, p_b, p_tie)")
    lost = (records["label"] < 0) & ((settings.soft_weight == 0) | ~has_soft)
    if lost.any():
        first = rows.ids[train[np.flatnonzero(lost)[0]]]
        raise JudgeError(
            f"{counted(int(lost.sum()), 'row')} (first: id {first}) have only soft labels, which are not used: "
            "pass --soft-weight=1"
        )
    if len(train) * (2 if settings.swap == "both" else 1) < rows_per_step:
        raise JudgeError(
            f"{counted(len(train), 'training row')}, but one optimizer step takes {rows_per_step} (batch size x "
            "accumulation x devices); lower them or give more data"
        )
    mass = targets(rows, train, settings)[0].sum(axis=0)
    absent = [VERDICTS[i] for i in range(3) if mass[i] == 0]
    if absent and not settings.allow_missing_class and not (settings.label_smoothing and mass.min() > 0):
        raise JudgeError(
            f"no training row has the verdict {' or '.join(absent)}: the judge would learn never to give it; "
            "if that is meant (a table without ties), pass --allow-missing-class"
        )
    unknown = [name for name in settings.source_weights if name not in rows.sources]
    if unknown:
        known = ", ".join(map(printable, rows.sources))
        raise JudgeError(f"source_weights: no source {printable(unknown[0])!r}; the data has {known}")
    if not row_weights(rows, train, settings).sum() > 0:
        raise JudgeError("all rows have the weight 0: there is nothing to learn from")


def targets(
    rows: TrainingRows, chosen: NDArray[np.int64], settings: TrainSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what the loss compares with: the mixed target, shape (rows, 3), and what KL subtracts, shape (rows,).

    The target is (1 - w) x the smoothed hard label + w x the soft label. A row with only one of the two labels gets
    that one whole. One target serves both losses: the cross-entropy with a mixture is the mixture of cross-entropies.
    """
    records = rows.records[chosen]
    has_soft = ~np.isnan(records["target"]).any(axis=1)
    share = np.where(has_soft, settings.soft_weight, 0.0)
    share = np.where(records["label"] < 0, np.where(has_soft, 1.0, 0.0), share)
    hard = np.eye(3)[np.maximum(records["label"], 0)]
    hard = hard * (1 - settings.label_smoothing) + settings.label_smoothing / 3
    soft = np.nan_to_num(records["target"].astype(np.float64))
    mixed = (1 - share)[:, np.newaxis] * hard + share[:, np.newaxis] * soft
    entropy = -np.sum(np.where(soft > 0, soft * np.log(np.maximum(soft, 1e-300)), 0.0), axis=1)
    offset = share * entropy if settings.soft_loss == "kl" else np.zeros(len(chosen))
    return mixed.astype(np.float32), offset.astype(np.float32)


def row_weights(rows: TrainingRows, chosen: NDArray[np.int64], settings: TrainSettings) -> NDArray[np.float32]:
    """Return each row's weight in the loss, column `weight` times its source's, with mean 1; shape (rows,)."""
    by_source = np.array([settings.source_weights.get(name, 1.0) for name in rows.sources], dtype=np.float64)
    records = rows.records[chosen]
    weights = records["weight"] * by_source[records["source"]]
    total = weights.sum()
    result: NDArray[np.float32] = (weights * len(weights) / total if total > 0 else weights).astype(np.float32)
    return result
