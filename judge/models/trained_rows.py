"""The fingerprints of the rows that trained a judge: evaluations on such rows are noticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.models.bundle import ModelFolder, file_digest
from judge.models.judge_file import read_judge_file
from judge.tables.comparison import Comparison, Flag
from judge.tables.split import group_key, row_key

FILE = "trained_rows.npy"
# A key of a comparison in either order, or of a prompt (`judge.tables.split`).
_KEY = np.dtype([("key", np.uint64), ("is_group", np.bool_)])


@dataclass(frozen=True)
class TrainedRows:
    """What a judge was trained on: keys of the comparisons and of their prompts, each sorted, without repetition."""

    rows: NDArray[np.uint64]
    groups: NDArray[np.uint64]

    def flags(self, row: Comparison) -> Flag:
        """Return whether this row trained the judge, in either order, or another one with its prompt did."""
        if _holds(self.rows, row_key(row)):
            return Flag.TRAINED_ON
        return Flag.TRAINED_PROMPT if _holds(self.groups, group_key(row)) else Flag(0)


def joined(parts: Sequence[TrainedRows]) -> TrainedRows:
    """Return one or more lists as one."""
    rows, groups = [part.rows for part in parts], [part.groups for part in parts]
    return TrainedRows(np.unique(np.concatenate(rows)), np.unique(np.concatenate(groups)))


def _holds(keys: NDArray[np.uint64], key: int) -> bool:
    place = int(np.searchsorted(keys, np.uint64(key)))
    return place < len(keys) and int(keys[place]) == key


def write_trained_rows(folder: Path, trained: TrainedRows) -> None:
    """Write the keys of training rows, and of their prompts."""
    records = np.zeros(len(trained.rows) + len(trained.groups), dtype=_KEY)
    records["key"] = np.concatenate([trained.rows, trained.groups])
    records["is_group"][len(trained.rows) :] = True
    np.save(folder / FILE, records, allow_pickle=False)


def trained_rows_of(*models: ModelFolder) -> TrainedRows | None:
    """Return the rows that trained any of the models, adapters and their bases; None if no file lists any.

    Raises:
        JudgeError: a file is damaged, missing, or another one than `judge.json` names.
    """
    found = []
    for model in models:
        for folder in [model.adapter.path, model.path] if model.adapter else [model.path]:
            rows = read_trained_rows(folder)
            judge = model.judge if folder == model.folder else read_judge_file(folder)
            expected = judge.training.get("trained_rows_sha256") if judge else None
            if expected and (rows is None or file_digest(folder / FILE) != expected):
                raise JudgeError(
                    f"{folder / FILE}: is missing or not the file that this judge was written with; without it, nobody "
                    "could tell which rows it was trained on"
                )
            found += [rows] if rows is not None else []
    return joined(found) if found else None


def read_trained_rows(folder: Path) -> TrainedRows | None:
    """Return what a bundle's file says about its training rows, or None if it has no such file.

    Raises:
        JudgeError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        records = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        records = None
    if records is None or records.dtype != _KEY:
        raise JudgeError(f"{path}: is damaged; copy the bundle again")
    keys, is_group = records["key"], records["is_group"]
    return TrainedRows(np.unique(keys[~is_group]), np.unique(keys[is_group]))
