"""Effects of a bias report, by their keys."""

from __future__ import annotations

from judge.evaluation.bias import Bias
from judge.evaluation.bias_effects import Effect


def effect(bias: Bias, key: str) -> Effect:
    (found,) = [one for one in bias.effects if one.key == key]
    return found


def value(bias: Bias, key: str) -> float:
    estimate = effect(bias, key).estimate
    assert estimate is not None
    return estimate.value
