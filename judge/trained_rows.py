"""The fingerprints of the rows that trained a judge, so that nothing is evaluated on them unnoticed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from judge.comparison import Comparison, Flag
from judge.errors import JudgeError
from judge.split import group_key, row_key

FILE = "trained_rows.npy"
# Of the comparison in either order, and of its prompt (`judge.split`).
_ROW = np.dtype([("row", np.uint64), ("group", np.uint64)])


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


def _holds(keys: NDArray[np.uint64], key: int) -> bool:
    place = int(np.searchsorted(keys, np.uint64(key)))
    return place < len(keys) and int(keys[place]) == key


def write_trained_rows(folder: Path, rows: NDArray[np.uint64], groups: NDArray[np.uint64]) -> None:
    """Write the keys of the training rows and of their prompts, each of shape (rows,)."""
    records = np.zeros(len(rows), dtype=_ROW)
    records["row"], records["group"] = rows, groups
    np.save(folder / FILE, np.sort(records, order=["row", "group"]), allow_pickle=False)


def read_trained_rows(folder: Path) -> TrainedRows | None:
    """Return what a bundle says about its training rows, or None where it says nothing.

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
    if records is None or records.dtype != _ROW:
        raise JudgeError(f"{path}: is damaged; train the judge again, or remove the file and lose the check")
    return TrainedRows(np.unique(records["row"]), np.unique(records["group"]))
