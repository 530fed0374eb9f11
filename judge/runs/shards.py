"""The order in which prompts are read, and the shards into which they are cut.

Rows with the same first prompt run next to each other, and so do a row's two orders, because the engine
reuses the cache of a shared prefix. Otherwise the longest come first: trouble with memory shows early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Shard:
    """Prompts that are read, written and resumed together.

    Attributes:
        rows: row numbers, int32, shape (prompts,).
        swapped: whether A and B are exchanged, bool, shape (prompts,).
        tokens: tokens of all prompts together.
    """

    rows: NDArray[np.int32]
    swapped: NDArray[np.bool_]
    tokens: int


def reading_order(lengths: NDArray[np.int32], prompt_hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the row numbers in reading order, shape (rows,).

    Groups of rows with one prompt are sorted by their longest member, the rows of a group by length.
    """
    _, group = np.unique(prompt_hashes, return_inverse=True)
    longest = np.zeros(group.max(initial=-1) + 1, dtype=np.int64)
    np.maximum.at(longest, group, lengths)
    order: NDArray[np.int64] = np.lexsort((np.arange(len(lengths)), -lengths.astype(np.int64), group, -longest[group]))
    return order


def make_shards(
    rows: Sequence[int] | NDArray[np.int64],
    orders: Sequence[bool],
    lengths: NDArray[np.int32],
    shard_tokens: int,
) -> list[Shard]:
    """Cut rows, in the given order, into shards of about `shard_tokens` tokens and at least one row.

    Args:
        orders: the orders that each row is read in, next to each other: `[False]` as the table has it,
            `[True]` exchanged, `[False, True]` both.
        lengths: tokens of each row's prompt, the same in both orders.
    """
    shards: list[Shard] = []
    start = tokens = 0
    for end, row in enumerate(rows, start=1):
        tokens += int(lengths[row]) * len(orders)
        following = int(lengths[rows[end]]) * len(orders) if end < len(rows) else shard_tokens + 1
        if tokens + following > shard_tokens:
            part = np.asarray(rows[start:end], dtype=np.int32)
            flags = np.tile(np.asarray(orders, dtype=np.bool_), len(part))
            shards.append(Shard(np.repeat(part, len(orders)), flags, tokens))
            start, tokens = end, 0
    return shards
