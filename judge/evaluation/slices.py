"""Figures of parts of the rows: where a judge is better or worse than elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.evaluation.judged_rows import JudgedRows
from judge.stats.metrics import hits, log_losses
from judge.stats.resample import Estimate, Float, Resampler

# The commonest values of a dimension have a slice each; all others share one.
MOST_SLICES = 8
# A slice of fewer prompt groups says too little.
FEWEST_GROUPS = 10
# Characters of the prompt and both responses over all turns, where a new slice begins.
LENGTH_EDGES = (1_000, 2_000, 4_000, 8_000)
_REST = "others"
_EDGES = (0, *LENGTH_EDGES)
# Dimensions whose slices stand in a given order, not by how common they are.
_ORDERS: dict[str, list[str]] = {
    "turns": ["1", "2", "3", "4 or more"],
    "length": [f"{low:,} to {high - 1:,}" for low, high in zip(_EDGES, LENGTH_EDGES, strict=False)]
    + [f"{LENGTH_EDGES[-1]:,} and more"],
    "responses": ["ordinary", "identical", "one or both empty"],
}


@dataclass(frozen=True)
class Slice:
    """The figures of the rows that have one value of a dimension.

    Attributes:
        difference: the log loss of these rows minus that of all other rows, nats; it has no interval where the other
            rows have fewer than `FEWEST_GROUPS` prompt groups.
        few: whether these rows have fewer than `FEWEST_GROUPS` prompt groups.
    """

    dimension: str
    name: str
    rows: int
    groups: int
    log_loss: Estimate
    accuracy: Estimate
    difference: Estimate
    few: bool


def slices_of(rows: JudgedRows, resampler: Resampler) -> list[Slice]:
    """Return the slices of every dimension in which the rows differ, in a fixed order.

    The dimensions are language, turns, length (characters of prompt and responses), whether the budget cut the prompt,
    source, empty and identical responses, and the pair of models, whichever of the two wrote A.
    """
    losses, right = log_losses(rows.p, rows.labels), hits(rows.p, rows.labels)
    return [_slice(*part, losses, right, resampler) for part in parts_of(rows)]


def parts_of(rows: JudgedRows) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Yield the dimension, the name and the rows of each slice, in a fixed order; a mask has shape (rows,)."""
    for dimension, values in _dimensions(rows):
        for name, inside in _parts(values, _ORDERS.get(dimension)):
            yield dimension, name, inside


def _dimensions(rows: JudgedRows) -> Iterator[tuple[str, NDArray[np.object_]]]:
    """Yield each dimension's name and the rows' values in it, shape (rows,); an empty value is in no slice."""
    facts = rows.facts
    yield "language", facts.language
    yield "turns", np.where(facts.turns >= 4, "4 or more", facts.turns.astype(str)).astype(object)
    length = np.searchsorted(LENGTH_EDGES, facts.characters.sum(axis=1), side="right")
    yield "length", np.array(_ORDERS["length"], dtype=object)[length]
    yield "budget", np.where(rows.cut, "cut", "whole").astype(object)
    yield "source", facts.source
    names = np.where(facts.empty.any(axis=1), "one or both empty", "ordinary")
    yield "responses", np.where(facts.identical, "identical", names).astype(object)
    pairs = [" / ".join(sorted(pair)) if all(pair) else "" for pair in facts.models.tolist()]
    yield "models", np.array(pairs, dtype=object)


def _parts(values: NDArray[np.object_], in_order: list[str] | None) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the name and the rows of each slice: in the given order, or common values first and one for all others."""
    names, counts = np.unique(values[values != ""].astype(str), return_counts=True)
    if len(names) < 2:
        return
    common = counts >= FEWEST_GROUPS
    by_count = names[np.lexsort((names, -counts))][: int(common.sum())].tolist()
    shown = in_order or by_count[:MOST_SLICES]
    for name in shown:
        inside = np.asarray(values == name, dtype=np.bool_)
        if inside.any():
            yield name, inside
    rest = np.asarray((values != "") & ~np.isin(values.astype(str), shown), dtype=np.bool_)
    if rest.any() and not rest.all():
        yield _REST, rest


def _slice(
    dimension: str,
    name: str,
    inside: NDArray[np.bool_],
    losses: Float,
    right: Float,
    resampler: Resampler,
) -> Slice:
    def figures(totals: Float, counts: Float) -> Float:
        loss, correct, number, all_loss = totals
        elsewhere = (all_loss - loss) / (counts - number)
        return np.stack([loss / number, correct / number, loss / number - elsewhere])

    columns = np.column_stack([losses * inside, right * inside, inside, losses])
    loss, accuracy, difference = resampler.estimate(columns, figures, about=inside, shares=[False, True, False])
    groups = resampler.groups_of(inside)
    if resampler.groups_of(~inside) < FEWEST_GROUPS:
        difference = Estimate(difference.value, None, None)
    return Slice(dimension, name, int(inside.sum()), groups, loss, accuracy, difference, groups < FEWEST_GROUPS)
