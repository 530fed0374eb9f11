"""Made losses of several arms on the same rows: skewed, and alike within a prompt group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from judge.prompting.verdict import Float

ALIKE = 0.1


def made_groups(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Return the group of each row, sorted; a group has 1 to 6 rows, 2 on average."""
    return np.repeat(np.arange(count), rng.geometric(0.5, count).clip(1, 6))


def made_losses(
    rng: np.random.Generator, groups: NDArray[np.int64], arms: int, spread: float = 0.3, opposite: bool = False
) -> Float:
    """Return losses of mean 1.6, shape (arms, rows); the difference of two arms has this standard deviation.

    The noise of each arm has an exponential law, to the left in odd arms if `opposite`, which makes their differences
    to the first skewed; two rows of a group have a correlation of `ALIKE` in the difference.
    """
    shape = (arms, int(groups.max()) + 1)
    skewed = [rng.exponential(1.0, shape)[:, groups] - 1, rng.exponential(1.0, (arms, len(groups))) - 1]
    noise = np.sqrt(ALIKE) * skewed[0] + np.sqrt(1 - ALIKE) * skewed[1]
    if opposite:
        noise[1::2] *= -1
    difficulty = rng.gamma(2.0, 0.3, shape[1])[groups]
    losses: Float = 1 + difficulty + spread / np.sqrt(2) * noise
    return losses


def named(losses: Float) -> dict[str, Float]:
    """Return the arms by the names `0` (the baseline), `1`, `2` ..."""
    return {str(number): one for number, one in enumerate(losses)}
