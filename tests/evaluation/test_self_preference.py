"""Whether a judge favours its own family, and certain models."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from judge.errors import JudgeError
from judge.evaluation.judged_rows import JudgedRows
from judge.evaluation.self_preference import p_value
from judge.stats.permutation import holm
from judge.stats.resample import Estimate
from tests.kit.effects import bias_of, effect, value
from tests.kit.made_rows import made_rows, probabilities_of, sampled


def with_models(rng: np.random.Generator, taste: float) -> JudgedRows:
    """Return rows between three models and a rare one, whose judge adds `taste` to the score of Llama's responses."""
    names = np.array(["Meta/Llama-3-8B-Instruct", "gpt-4", "vicuna-13b"], dtype=object)
    places = np.array([rng.permutation(3)[:2] for _ in range(12_000)])
    models = names[places]
    models[:5, 0] = "rare"
    lead = 0.2 * (places[:, 0] == 1) - 0.2 * (places[:, 1] == 1)
    own = (places == 0).astype(np.float64) @ [1, -1]
    truth = probabilities_of(lead)
    return made_rows(probabilities_of(lead + 2 * taste * own), sampled(truth, rng), models=models)


def test_a_planted_taste_for_its_own_family_is_found() -> None:
    bias = bias_of(with_models(np.random.default_rng(7), 0.06), self_names=["llama_3 8b"], resamples=400)
    own = effect(bias, "self_preference")
    assert (own.call, bias.own_family) == ("present", ["Meta/Llama-3-8B-Instruct"])
    assert own.sentence.startswith("Self-preference: the judge's own family scores ")
    assert value(bias, "self_preference") == pytest.approx(0.06, abs=0.02)
    assert bias.models[0].name == "Meta/Llama-3-8B-Instruct"
    assert bias.models[0].difference.value == pytest.approx(value(bias, "self_preference"))
    assert bias.models[0].call == "present"
    assert bias.models_left_out == 1  # the rare one


def test_a_judge_without_a_taste_has_none() -> None:
    bias = bias_of(with_models(np.random.default_rng(8), 0.0), self_names=["llama"], resamples=400)
    assert effect(bias, "self_preference").call == "absent"
    assert {model.call for model in bias.models} == {"absent"}
    assert all(model.p_value is not None and model.p_value > 0.05 for model in bias.models)


@pytest.mark.parametrize(
    ("models", "names", "reason"),
    [
        (None, ["x"], "the table does not say which models wrote the responses"),
        ([["a", "b"]] * 2, [], "name the judge's own model or family with --self NAME"),
        ([["a", "b"]] * 2, ["q\x1b"], "no model's name in the table has q\\x1b in it"),
        ([["a", "a"]] * 2, ["A"], "no row compares A with another model"),
    ],
)
def test_self_preference_says_why_it_is_not_measured(models: Any, names: list[str], reason: str) -> None:
    bias = bias_of(made_rows(probabilities_of([0.1, 0.2]), [0, 1], models=models), self_names=names)
    assert effect(bias, "self_preference").sentence == f"Not measured: {reason}."


def test_a_self_name_without_a_letter_is_refused() -> None:
    rows = made_rows(probabilities_of([0.1]), [0], models=[["a", "b"]])
    with pytest.raises(JudgeError, match=re.escape("--self='--': expected (a part of) a model's name")):
        bias_of(rows, self_names=["--"])


def test_p_values_follow_the_normal_law_and_holm_corrects_them() -> None:
    assert p_value(Estimate(1.959964, 0.0, 2 * 1.959964)) == pytest.approx(0.05, abs=1e-6)
    assert p_value(Estimate(0.1, None, None)) is None
    assert p_value(Estimate(0.1, 0.1, 0.1)) == 0
    assert p_value(Estimate(0.0, 0.0, 0.0)) == 1
    # the textbook's way: 0.01 * 4, 0.02 * 3, then never below what came before
    assert holm([0.04, 0.01, None, 0.02, 0.03]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
