"""The loss at the verdict's position against closed forms."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from judge.training.trainer import row_losses, verdict_logprobs

IDS = torch.tensor([5, 2, 9])
seeds = st.integers(0, 10_000)


def made(seed: int, rows: int = 4, vocabulary: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(0, 3, (rows, vocabulary)), dtype=torch.float32)
    target = torch.tensor(random.dirichlet([1, 1, 1], rows), dtype=torch.float32)
    return logits, target


@given(seeds)
def test_over_the_vocabulary_it_is_torchs_cross_entropy_of_the_verdict(seed: int) -> None:
    logits, _ = made(seed)
    labels = torch.tensor(np.random.default_rng(seed).integers(0, 3, 4))
    ours = row_losses(logits, IDS, torch.eye(3)[labels], "vocabulary")
    expected = torch.nn.functional.cross_entropy(logits, IDS[labels], reduction="none")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@given(seeds)
def test_over_the_verdicts_it_is_torchs_cross_entropy_on_three_logits(seed: int) -> None:
    logits, target = made(seed)
    ours = row_losses(logits, IDS, target, "verdicts")
    expected = torch.nn.functional.cross_entropy(logits[:, IDS], target, reduction="none")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@given(seeds)
def test_the_two_losses_differ_by_the_verdict_mass(seed: int) -> None:
    logits, target = made(seed)
    mass = verdict_logprobs(logits, IDS).exp().sum(dim=1)
    difference = row_losses(logits, IDS, target, "vocabulary") - row_losses(logits, IDS, target, "verdicts")
    torch.testing.assert_close(difference, -mass.log(), rtol=1e-4, atol=1e-4)


@given(seeds)
def test_a_prediction_equal_to_the_target_costs_the_targets_entropy(seed: int) -> None:
    _, target = made(seed)
    logits = torch.full((4, 12), -50.0)
    logits[:, IDS] = target.log()
    expected = -(target * target.log()).sum(dim=1)
    torch.testing.assert_close(row_losses(logits, IDS, target, "verdicts"), expected, rtol=1e-4, atol=1e-4)


def test_a_verdict_that_is_impossible_and_not_asked_for_costs_nothing() -> None:
    logits = torch.zeros(1, 12)
    logits[0, 9] = float("-inf")
    loss = row_losses(logits, IDS, torch.tensor([[0.5, 0.5, 0.0]]), "verdicts")
    torch.testing.assert_close(loss, torch.tensor([np.log(2)], dtype=torch.float32))


def test_half_precision_logits_are_read_in_float32() -> None:
    logits, target = made(1)
    exact = row_losses(logits.half().float(), IDS, target, "vocabulary")
    torch.testing.assert_close(row_losses(logits.half(), IDS, target, "vocabulary"), exact)
