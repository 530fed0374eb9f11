"""P-values of paired differences, without an assumption about their distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from judge.stats.resample import MOST_BLOCKS, Float

PERMUTATIONS = 10_000
_FLIPPED_AT_ONCE = 1 << 20
# Sums of the same numbers in another order differ in their last digits; they must count as equal.
_ROUNDING = 1e-12


def sign_flip_test(
    differences: NDArray[np.floating],
    groups: NDArray[np.integer],
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of the mean difference: how often chance alone gives one as large.

    If two judges are equally good, exchanging them on a prompt changes nothing but the sign of the difference. So the
    test flips the signs at random, and counts how often the sum is as large as the one found. It flips all rows of a
    prompt group together, because rows that share a prompt are not independent (the paired permutation test:
    R. A. Fisher, The Design of Experiments, 1935, section 21; A. C. Davison and D. V. Hinkley, Bootstrap Methods and
    their Application, 1997, section 4.4). It agrees with
    `scipy.stats.permutation_test(permutation_type="samples")` on the groups' sums.

    If there are more than `MOST_BLOCKS` groups, the test deals them at random into that many blocks and flips blocks.
    These flips are a part of all flips of groups, so the p-value is as valid, and the cost no longer grows.

    Args:
        differences: of each row, B minus A, shape (rows,).
        groups: the key of each row's group, any integers, shape (rows,).
        permutations: how many flips are drawn. If the groups have no more flips than that, the test takes each of
            them once, and the p-value is exact.
        seed: the same seed, rows and order of rows give the same p-value.

    Returns:
        The p-value, over 0, at most 1. A drawn one is (1 + count) / (1 + permutations), never 0 (B. Phipson and
        G. K. Smyth, Permutation P-values Should Never Be Zero, 2010).

    Raises:
        ValueError: no rows, another number of groups than rows, a difference that is NaN or infinite, or fewer than
            one permutation.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or np.shape(groups) != values.shape or not len(values):
        raise ValueError(f"expected a difference and a group for each row, found {values.shape} and {np.shape(groups)}")
    if not np.isfinite(values).all():
        raise ValueError("the differences hold NaN or infinity")
    if permutations < 1:
        raise ValueError(f"permutations={permutations}: expected at least 1")
    sums: Float = np.bincount(np.unique(groups, return_inverse=True)[1], weights=values).astype(np.float64)
    sums = sums[sums != 0]  # flipping a 0 changes nothing
    if len(sums) > MOST_BLOCKS:
        # the permutation is fixed, so that the blocks do not depend on the seed
        blocks = np.random.default_rng(0).permutation(len(sums)) % MOST_BLOCKS
        sums = np.bincount(blocks, weights=sums).astype(np.float64)
    reached = abs(float(sums.sum())) - _ROUNDING * float(np.abs(sums).sum())
    if len(sums) < permutations.bit_length():  # 2^groups <= permutations
        return _count_all(sums, reached) / (1 << len(sums))
    return (1 + _count_drawn(sums, reached, permutations, seed)) / (1 + permutations)


def _count_all(sums: Float, reached: float) -> int:
    """Return how many of all flips have a total of at least `reached`; the unflipped sums are one of them."""
    totals = np.zeros(1)
    for value in sums:
        totals = np.concatenate([totals + value, totals - value])
    return int((np.abs(totals) >= reached).sum())


def _count_drawn(sums: Float, reached: float, permutations: int, seed: int) -> int:
    """Return how many of `permutations` random flips have a total of at least `reached`."""
    rng = np.random.default_rng(seed)
    together = max(1, _FLIPPED_AT_ONCE // len(sums))
    count = 0
    for start in range(0, permutations, together):
        flipped = rng.integers(0, 2, (min(together, permutations - start), len(sums)), dtype=np.bool_)
        # not a matrix product: its last digit would depend on the number of threads
        totals = np.where(flipped, -sums, sums).sum(axis=1)
        count += int((np.abs(totals) >= reached).sum())
    return count


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number by Holm's method, in the same order; None stays None."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p))
        adjusted[i] = highest
    return adjusted
