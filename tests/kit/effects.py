"""Bias reports of rows, and their effects by their keys."""

from __future__ import annotations

from collections.abc import Sequence

from judge.evaluation.bias import Bias, bias_report
from judge.evaluation.bias_effects import Effect
from judge.evaluation.judged_rows import JudgedRows
from judge.stats.resample import RESAMPLES, Resampler


def bias_of(rows: JudgedRows, *, self_names: Sequence[str] = (), resamples: int = RESAMPLES) -> Bias:
    return bias_report(rows, Resampler(rows.groups, resamples), self_names)


def effect(bias: Bias, key: str) -> Effect:
    (found,) = [one for one in bias.effects if one.key == key]
    return found


def value(bias: Bias, key: str) -> float:
    estimate = effect(bias, key).estimate
    assert estimate is not None
    return estimate.value
