"""`JudgedRows` made from arrays, without a table or a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.evaluation.judged_rows import JudgedRows
from judge.evaluation.row_facts import Facts
from judge.prompting.verdict import Float
from judge.tables.comparison import Flag


def made_rows(
    p: Any,
    labels: Sequence[int] | np.ndarray,
    *,
    first: Any = None,
    second: Any = None,
    groups: Any = None,
    lengths: Any = None,
    models: Any = None,
    refusal: Any = None,
    empty: Any = None,
    identical: Any = None,
    unscored: Any = None,
) -> JudgedRows:
    """Return labelled rows; without `first` and `second` no order is known, without `groups` each row is one.

    Args:
        p: probabilities of A, B and tie, (rows, 3).
        labels: 0, 1 or 2.
        first: of the order with A first.
        second: of the other order, mapped back.
        groups: keys, (rows,).
        lengths: characters of A and B, (rows, 2).
        models: names, (rows, 2).
        refusal: (rows, 2).
        empty: (rows, 2).
        identical: (rows,).
        unscored: rows with the flag NOT_SCORED, (rows,).
    """
    n = len(labels)
    given = {
        "first": (first, (n, 3), np.float64),
        "second": (second, (n, 3), np.float64),
        "groups": (groups, (n,), np.uint64),
        "models": (models, (n, 2), object),
        "refusal": (refusal, (n, 2), np.bool_),
        "empty": (empty, (n, 2), np.bool_),
        "identical": (identical, (n,), np.bool_),
    }
    fields: dict[str, Any] = {
        name: np.array(values, dtype=kind).reshape(shape)
        for name, (values, shape, kind) in given.items()
        if values is not None
    }
    if lengths is not None:
        fields["characters"] = np.column_stack([np.full(n, 10), lengths]).astype(np.int64)
    if unscored is not None:
        fields["flags"] = np.where(unscored, np.uint32(Flag.NOT_SCORED), np.uint32(0)).astype(np.uint32)
    return rows_of(np.reshape(p, (n, 3)), np.array(labels), **fields)


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
        "verdict_mass": np.full(n, np.nan),
        "first": np.full((n, 3), np.nan),
        "second": np.full((n, 3), np.nan),
        "cut": np.zeros(n, dtype=np.bool_),
    }
    return JudgedRows(**(fields | more), facts=Facts(**facts))


def probabilities_of(lead: Any, tie: Any = 0.3) -> Float:
    """Return probabilities with P(A) - P(B) = lead and P(tie) = tie, shape (rows, 3)."""
    lead = np.asarray(lead, dtype=np.float64)
    tied = np.broadcast_to(np.asarray(tie, dtype=np.float64), lead.shape)
    return np.column_stack([(1 - tied + lead) / 2, (1 - tied - lead) / 2, tied])


def certain(verdicts: Sequence[str]) -> Float:
    """Return probabilities whose highest is the verdict given as `A`, `B` or `T`, shape (rows, 3)."""
    return np.array([0.2 + 0.4 * np.eye(3)["ABT".index(verdict)] for verdict in verdicts])


def sampled(p: Float, rng: np.random.Generator) -> np.ndarray:
    """Return a label for each row, drawn from its probabilities."""
    return np.asarray((rng.random(len(p))[:, np.newaxis] > p.cumsum(axis=1)).sum(axis=1).clip(max=2))
