"""The order of an epoch: every comparison once, at random, batches of like length, the same again for a seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from judge.training.batches import RowSampler

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=200).map(np.array)


@given(lengths=lengths, group=st.integers(1, 16), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_without_swapping_an_epoch_is_every_row_once(lengths: np.ndarray, group: int, seed: int, epoch: int) -> None:
    sampler = RowSampler(lengths, "off", group, seed)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


@given(lengths=lengths, group=st.integers(1, 16), seed=st.integers(0, 99))
def test_random_swapping_shows_one_order_of_each_comparison(lengths: np.ndarray, group: int, seed: int) -> None:
    sampler = RowSampler(lengths, "random", group, seed)
    assert sorted(row // 2 for row in sampler) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)


@given(lengths=lengths, group=st.integers(1, 16), seed=st.integers(0, 99))
def test_both_orders_follow_each_other(lengths: np.ndarray, group: int, seed: int) -> None:
    sampler = RowSampler(lengths, "both", group, seed)
    rows = list(sampler)
    assert sorted(rows) == list(range(2 * len(lengths)))
    assert len(sampler) == len(rows)
    assert all(b == a + 1 and a % 2 == 0 for a, b in zip(rows[::2], rows[1::2], strict=True))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = RowSampler(np.arange(100), "random", 4, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(RowSampler(np.arange(100), "random", 4, seed=4)) != first


def test_over_the_epochs_each_order_is_shown_about_equally_often() -> None:
    sampler = RowSampler(np.arange(50), "random", 4, seed=0)
    swapped = 0
    for epoch in range(40):
        sampler.set_epoch(epoch)
        swapped += sum(row % 2 for row in sampler)
    assert abs(swapped / 2000 - 0.5) < 0.05  # more than four standard deviations


def test_batches_hold_rows_of_like_length() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(50, 2000, 4000)
    order = np.array(list(RowSampler(lengths, "off", 8, seed=0)))
    padded = lengths[order].reshape(-1, 8).max(axis=1).sum() * 8
    assert padded / lengths.sum() < 1.05
    assert lengths[random.permutation(4000)].reshape(-1, 8).max(axis=1).sum() * 8 / lengths.sum() > 1.5
    # and the long ones are spread over the epoch
    means = lengths[order].reshape(8, -1).mean(axis=1)
    assert means.std() / means.mean() < 0.1
