"""The reading order and the shards: every prompt exactly once, neighbours share what they can."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from judge.runs.shards import make_shards, reading_order

tables = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 5)), min_size=1, max_size=60)


@given(tables)
def test_the_order_is_a_permutation_that_keeps_equal_prompts_together(table: list[tuple[int, int]]) -> None:
    lengths = np.array([length for length, _ in table], dtype=np.int32)
    hashes = np.array([h for _, h in table], dtype=np.uint64)
    order = reading_order(lengths, hashes)
    assert sorted(order.tolist()) == list(range(len(table)))
    runs = [h for i, h in enumerate(hashes[order]) if i == 0 or h != hashes[order][i - 1]]
    assert len(runs) == len(set(runs))
    longest = [max(lengths[hashes == h]) for h in runs]
    assert longest == sorted(longest, reverse=True)


def test_without_shared_prompts_the_longest_come_first() -> None:
    order = reading_order(np.array([5, 9, 2, 9], np.int32), np.array([1, 2, 3, 4], np.uint64))
    assert order.tolist() == [1, 3, 0, 2]


@given(tables, st.integers(1, 2000), st.sampled_from([[False], [True], [False, True]]))
def test_shards_hold_every_prompt_once_and_stay_within_their_tokens(
    table: list[tuple[int, int]], shard_tokens: int, orders: list[bool]
) -> None:
    lengths = np.array([length for length, _ in table], dtype=np.int32)
    rows = list(range(len(table)))[::-1]
    shards = make_shards(rows, orders, lengths, shard_tokens)
    read = [(int(r), bool(s)) for shard in shards for r, s in zip(shard.rows, shard.swapped, strict=True)]
    assert read == [(row, order) for row in rows for order in orders]
    for shard in shards:
        assert shard.tokens == lengths[shard.rows].sum()
        assert shard.tokens <= shard_tokens or len(set(shard.rows.tolist())) == 1


def test_no_rows_make_no_shards() -> None:
    assert make_shards([], [False], np.array([], np.int32), 10) == []
    assert reading_order(np.array([], np.int32), np.array([], np.uint64)).tolist() == []
