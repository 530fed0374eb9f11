"""Labelled rows with predictions, made without files, for tests of figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.judged_rows import JudgedRows
from judge.row_facts import Facts


def rows_of(p: NDArray[np.floating], labels: NDArray[np.integer], **more: Any) -> JudgedRows:
    """Return rows with these probabilities and labels, each its own prompt group unless `groups` says otherwise.

    Other keywords are fields of `JudgedRows`, or of `Facts` (the others are dull: one turn, English, no names).
    """
    n = len(labels)
    facts: dict[str, Any] = {
        "turns": np.ones(n, dtype=np.int64),
        "characters": np.full((n, 3), 100),
        "language": np.full(n, "en", dtype=object),
        "source": np.full(n, "", dtype=object),
        "models": np.full((n, 2), "", dtype=object),
        "empty": np.zeros((n, 2), dtype=np.bool_),
        "refusal": np.zeros((n, 2), dtype=np.bool_),
        "identical": np.zeros(n, dtype=np.bool_),
    }
    facts |= {name: more.pop(name) for name in list(more) if name in facts}
    fields: dict[str, Any] = {
        "ids": np.array([f"{i:06}" for i in range(n)], dtype=object),
        "p": np.asarray(p, dtype=np.float64),
        "labels": np.asarray(labels, dtype=np.int64),
        "groups": np.arange(n, dtype=np.uint64),
        "flags": np.zeros(n, dtype=np.uint32),
        "mass": np.full(n, np.nan),
        "first": np.full((n, 3), np.nan),
        "second": np.full((n, 3), np.nan),
        "cut": np.zeros(n, dtype=np.bool_),
    }
    return JudgedRows(**(fields | more), facts=Facts(**facts))


def drawn_labels(p: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a label for each row, drawn with its probabilities."""
    return np.asarray((rng.random((len(p), 1)) > np.cumsum(p, axis=1)[:, :2]).sum(axis=1), dtype=np.int64)
