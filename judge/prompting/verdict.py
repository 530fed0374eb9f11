"""Verdicts: the three tokens, their log-probabilities, and figures of them.

All arrays have shape (rows, 3) in the order A, B, tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError

Float = NDArray[np.float64]
NAMES = ("a", "b", "tie")
# Indices that exchange the columns of A and B, as in mapping back from the exchanged order.
SWAPPED = [1, 0, 2]
# With this floor, a confident mistake in a submission costs at most ln(1e4) = 9.2 nats.
DEFAULT_FLOOR = 1e-4

_ALTERNATIVES = (
    (" A", " B", " Tie"),
    ("A", "B", "Tie"),
    (" A", " B", " C"),
    ("A", "B", "C"),
    (" 1", " 2", " 3"),
    ("1", "2", "3"),
    (" first", " second", " tie"),
    ("a", "b", "c"),
)


def resolve_verdicts(
    encode: Callable[[str], list[int]],
    describe: Callable[[list[int]], list[str]],
    endings: Sequence[str],
    verdicts: tuple[str, str, str],
) -> tuple[int, int, int]:
    """Find the token id of each verdict in context.

    Args:
        encode: encodes the ending of a prompt, with or without a verdict behind it.
        describe: returns ids as the tokenizer's pieces, for the error text.
        endings: the fixed last text of the prompt, in each form that it takes.
        verdicts: the strings for A, B and tie.

    Returns:
        The three ids, for which `encode(ending + verdict) == encode(ending) + [id]` everywhere.

    Raises:
        JudgeError: a verdict is not exactly one token after every ending, or two verdicts are the same token.
    """
    token_ids = _single_tokens(encode, endings, verdicts)
    if token_ids is not None:
        return token_ids
    ending = endings[0]
    base = encode(ending)
    pieces = []
    for verdict in verdicts:
        ids = encode(ending + verdict)
        kept = ids[: len(base)] == base
        shown = describe(ids[len(base) :] if kept else ids[max(len(base) - 1, 0) :])
        pieces.append(f"{verdict!r} becomes {shown}" + ("" if kept else " (joined with the cue)"))
    working = [v for v in _ALTERNATIVES if v != verdicts and _single_tokens(encode, endings, v)]
    advice = f"; verdicts that work: {', '.join(map(str, working[:3]))}" if working else ""
    raise JudgeError(f"each verdict must be one token of its own after the cue, but {'; '.join(pieces)}{advice}")


def _single_tokens(
    encode: Callable[[str], list[int]], endings: Sequence[str], verdicts: tuple[str, str, str]
) -> tuple[int, int, int] | None:
    """Return the ids of the verdicts if each is one token after every ending, and the three differ; None otherwise."""
    of_endings: set[tuple[int, ...]] = set()
    for ending in endings:
        base = encode(ending)
        ids = []
        for verdict in verdicts:
            joined = encode(ending + verdict)
            if len(joined) != len(base) + 1 or joined[:-1] != base:
                return None
            ids.append(joined[-1])
        of_endings.add(tuple(ids))
    if len(of_endings) != 1:
        return None
    a, b, tie = of_endings.pop()
    return (a, b, tie) if len({a, b, tie}) == 3 else None


def probabilities(logprobs: NDArray[np.floating]) -> Float:
    """Return the softmax over the three verdicts, float64, rows summing to 1.

    Args:
        logprobs: (rows, 3) log-probabilities or logits; a row with NaN gives NaN.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    result: Float = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def as_three(values: NDArray[np.floating]) -> tuple[float, float, float]:
    """Return three numbers of a row, shape (3,), as a tuple."""
    a, b, tie = (float(value) for value in values)
    return a, b, tie


def unread(logprobs: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which rows have no numbers (NaN), shape (rows,)."""
    missing: NDArray[np.bool_] = np.isnan(logprobs).any(axis=1)
    return missing


def verdict_mass(logprobs: NDArray[np.floating]) -> Float:
    """Return the full-vocabulary probability of the three verdicts together, shape (rows,)."""
    mass: Float = np.exp(np.asarray(logprobs, dtype=np.float64)).sum(axis=1)
    return mass


def mean_of_read(first: NDArray[np.floating], second: NDArray[np.floating]) -> Float:
    """Return the mean of two orders' probabilities, shape (rows, 3).

    If one order of a row was not read (NaN), the row has the other order's; NaN if neither was read.
    """
    of_first, of_second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    no_first, no_second = (np.isnan(p).any(axis=1, keepdims=True) for p in (of_first, of_second))
    result: Float = (np.where(no_first, of_second, of_first) + np.where(no_second, of_first, of_second)) / 2
    return result


def entropy(p: NDArray[np.floating]) -> Float:
    """Return the entropy of each row in nats, shape (rows,); a row with NaN gives NaN."""
    values = np.asarray(p, dtype=np.float64)
    result: Float = np.sum(np.where(values == 0, 0.0, -values * np.log(np.maximum(values, 1e-300))), axis=1)
    return result


def divergence(p: NDArray[np.floating], q: NDArray[np.floating]) -> Float:
    """Return KL(p || q) of each row in nats, shape (rows,); q must be positive where p is. NaN gives NaN."""
    p64, q64 = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    terms = np.where(p64 == 0, 0.0, p64 * (np.log(np.maximum(p64, 1e-300)) - np.log(np.maximum(q64, 1e-300))))
    result: Float = terms.sum(axis=1)
    return result


def floored(p: NDArray[np.floating], floor: float = DEFAULT_FLOOR) -> Float:
    """Mix in the uniform distribution so that no probability is below `floor`; rows still sum to 1.

    Mixing keeps the order of the three, unlike clipping, and needs no second normalisation.
    """
    if not 0 <= floor <= 1 / 3:
        raise ValueError(f"floor must lie between 0 and 1/3, not {floor}")
    values = np.asarray(p, dtype=np.float64)
    result: Float = values / values.sum(axis=1, keepdims=True) * (1 - 3 * floor) + floor
    return result
