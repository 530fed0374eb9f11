"""Whether a judge favours what certain models wrote, above all its own relatives; the table must name the models."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from judge.errors import JudgeError, printable
from judge.evaluation.bias_effects import (
    LEAST_GROUPS,
    MARGIN,
    Call,
    Effect,
    Mask,
    ScoredRows,
    Wording,
    call_of,
    not_measured,
)
from judge.prompting.verdict import Float
from judge.stats.permutation import holm
from judge.stats.resample import Estimate

# We measure at most so many models, those with the most rows, and count the others.
MOST_MODELS = 100
ERROR_RATE = 0.05
_STANDARD_ERRORS = 2 * 1.959964  # in the width of a 95% interval of the normal law
_WORDING = Wording(
    "self_preference",
    "self-preference",
    "Self-preference: the judge's own family scores {} points more with the judge than with people",
    "The judge's own family scores {} points less with the judge than with people",
)


@dataclass(frozen=True)
class ModelScore:
    """How the judge and people score a model's responses; a tie counts half.

    Attributes:
        rows: comparisons in which exactly one response is the model's.
        judge: the model's mean score with the judge.
        people: its mean score with people.
        difference: the judge's mean score minus people's.
        p_value: that there is no difference, from the normal law with the bootstrap's width, after Holm's correction
            for the number of models (S. Holm, Scand. J. Statist. 6, 1979); None without an interval.
        call: as `judge.evaluation.bias_effects.call_of` says, but present only where p_value < 0.05.
    """

    name: str
    rows: int
    judge: Estimate
    people: Estimate
    difference: Estimate
    p_value: float | None
    call: Call


def own_family(measured: ScoredRows, self_names: Sequence[str]) -> tuple[Effect, list[str]]:
    """Return by how much more than people the judge favours its own family, and the names of that family's models.

    Args:
        measured: the rows.
        self_names: parts of the names, for example `llama-3-8b`; case and punctuation do not matter.

    Raises:
        JudgeError: a name without a letter or digit.
    """
    names = _known_names(measured)
    wanted = [_plain(name) for name in self_names]
    for name, given in zip(wanted, self_names, strict=True):
        if not name:
            raise JudgeError(f"--self={printable(given)!r}: expected (a part of) a model's name")
    if not names:
        return not_measured(_WORDING, "the table does not say which models wrote the responses"), []
    if not wanted:
        return not_measured(_WORDING, "name the judge's own model or family with --self NAME"), []
    matching = [name for name in names if any(part in _plain(name) for part in wanted)]
    shown = ", ".join(printable(name, 40) for name in self_names)
    if not matching:
        return not_measured(_WORDING, f"no model's name in the table has {shown} in it"), []
    marked: Mask = np.isin(measured.rows.facts.models.astype(str), matching)
    reason = f"no row compares {shown} with another model"
    return measured.preference(_WORDING, marked, reason), matching


def model_scores(measured: ScoredRows) -> tuple[list[ModelScore], int]:
    """Return the models with at least `LEAST_GROUPS` prompt groups, and how many models have fewer.

    The models that the judge favours most come first. Read a model's difference beside its score with people: a judge
    that knows little scores every model near 50, so it favours weak models and slights strong ones without knowing who
    wrote what.
    """
    names = _known_names(measured)
    a, b = measured.rows.facts.models.T if names else (np.empty(0), np.empty(0))
    numbers = {name: int((((a == name) != (b == name)) & measured.scored).sum()) for name in names}
    often = sorted((name for name in names if numbers[name] >= LEAST_GROUPS), key=lambda name: (-numbers[name], name))
    measured_models = []
    for name in often[:MOST_MODELS]:
        sign: Float = (a == name).astype(np.float64) - (b == name)
        chosen: Mask = measured.scored & (sign != 0)
        if measured.resampler.groups_of(chosen) >= LEAST_GROUPS:
            measured_models.append((name, int(chosen.sum()), measured.scores(sign, chosen)))
    adjusted = holm([p_value(difference) for _, _, (_, _, difference) in measured_models])
    scores = [
        ModelScore(name, rows, *estimates, p, _call_after_holm(estimates[2], p))
        for (name, rows, estimates), p in zip(measured_models, adjusted, strict=True)
    ]
    return sorted(scores, key=lambda one: (-one.difference.value, one.name)), len(names) - len(measured_models)


def p_value(estimate: Estimate) -> float | None:
    """Return the two-sided p-value that a figure is 0, from a normal law as wide as its 95% interval."""
    if estimate.low is None or estimate.high is None:
        return None
    error = (estimate.high - estimate.low) / _STANDARD_ERRORS
    if error == 0:
        return float(estimate.value == 0)
    return math.erfc(abs(estimate.value) / error / math.sqrt(2))


def _call_after_holm(difference: Estimate, p: float | None) -> Call:
    call = call_of(difference, LEAST_GROUPS)
    if call == "absent":
        return call
    return "present" if p is not None and p < ERROR_RATE and abs(difference.value) >= MARGIN else "undecided"


def _known_names(measured: ScoredRows) -> list[str]:
    return sorted({str(name) for name in measured.rows.facts.models.ravel()} - {""})


def _plain(name: str) -> str:
    """Return a name in lower case; each run of other characters than letters and digits becomes a hyphen."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")
