"""A calibration: what it does to probabilities, how a bundle keeps it, and when scoring applies it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.calibration import METHODS, SMALLEST, Calibration, Fitted, Method, orders_read
from judge.models.judge_file import read_judge_file, store_calibration
from judge.predictions.predictions import Predictions
from judge.prompting.verdict import SWAPPED, Float, mean_of_read, probabilities
from judge.runs.prepared import _ROW, Prepared
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from tests.kit.judge_bundles import save_judge

unhurried = settings(deadline=None, max_examples=40)  # the cores are shared
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(0.05, 5)


def made(method: Method, scale: float = 0.7, bias: tuple[float, float] = (0.3, -0.1)) -> Calibration:
    a, b = (0.0, 0.0) if method == "temperature" else bias
    scales = {"vector": (scale, scale * 1.5, scale * 0.5), "contextual": (1.0, 1.0, 1.0)}
    return Calibration(method=method, scale=scales.get(method, (scale,) * 3), bias=(a, b, -a - b))


def readings(rows: int, seed: int = 0) -> tuple[Float, Float]:
    """Probabilities in both orders; a fifth of the rows lacks the second, a tenth the first."""
    rng = np.random.default_rng(seed)
    first, second = rng.dirichlet([1, 1, 1], rows), rng.dirichlet([1, 1, 1], rows)
    second[: rows // 5] = np.nan
    first[-(rows // 10) :] = np.nan
    return first, second


@unhurried
@given(seed=SEEDS, scale=SCALES)
def test_a_temperature_keeps_the_most_probable_verdict(seed: int, scale: float) -> None:
    p = np.random.default_rng(seed).dirichlet([1, 1, 1], 20)
    calibrated = made("temperature", scale).apply(p, np.full_like(p, np.nan))
    assert (calibrated.argmax(axis=1) == p.argmax(axis=1)).all()
    np.testing.assert_allclose(calibrated.sum(axis=1), 1, rtol=1e-12)
    raised = p**scale
    np.testing.assert_allclose(calibrated, raised / raised.sum(axis=1, keepdims=True), rtol=1e-9)


@unhurried
@given(seed=SEEDS, method=st.sampled_from(METHODS[3:]))
def test_exchanging_orders_exchanges_columns_where_the_prompt_counts(seed: int, method: Method) -> None:
    first, second = (np.random.default_rng(seed + k).dirichlet([1, 1, 1], 10) for k in range(2))
    calibration = made(method)
    there = calibration.apply(first, second)
    back = calibration.apply(second[:, SWAPPED], first[:, SWAPPED])
    np.testing.assert_array_equal(back, there[:, SWAPPED])


def test_a_bias_of_position_acts_on_what_is_shown_first_in_each_order() -> None:
    p = np.full((1, 3), 1 / 3)
    nothing = np.full((1, 3), np.nan)
    calibration = Calibration(method="position", scale=(1, 1, 1), bias=(1, -1, 0))
    first, second = calibration.apply(p, nothing)[0], calibration.apply(nothing, p)[0]
    np.testing.assert_allclose(first, np.exp([1, -1, 0]) / np.exp([1, -1, 0]).sum())
    np.testing.assert_array_equal(second, first[SWAPPED])
    np.testing.assert_allclose(calibration.apply(p, p)[0], (first + second) / 2)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_averaged_over_the_orders_that_were_read(method: Method) -> None:
    first, second = readings(40)
    unread = np.full((1, 3), np.nan)
    calibration = made(method)
    p = calibration.apply(first, second)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p[:8], calibration.apply(first[:8], np.full((8, 3), np.nan)))
    assert np.isnan(calibration.apply(unread, unread)).all()


def test_without_a_calibration_it_is_the_mean_that_scoring_always_took() -> None:
    first, second = (np.log(p) for p in readings(50))
    first[-5:] = np.log(1 / 3)
    mean = mean_of_read(probabilities(first), probabilities(second))
    p_first, both = probabilities(first), (probabilities(first) + probabilities(second)) / 2
    np.testing.assert_array_equal(mean, np.where(np.isnan(second).any(axis=1, keepdims=True), p_first, both))
    same = Calibration(method="vector", scale=(1, 1, 1), bias=(0, 0, 0)).apply(
        probabilities(first), probabilities(second)
    )
    np.testing.assert_allclose(same, mean, rtol=1e-12)


def test_a_probability_of_zero_counts_as_the_smallest() -> None:
    p = np.array([[1.0, 0.0, 0.0]])
    calibrated = made("temperature", 0.5).apply(p, np.full((1, 3), np.nan))[0]
    assert calibrated[1] == calibrated[2] == pytest.approx(np.sqrt(SMALLEST), rel=1e-6)


def test_orders_that_were_read() -> None:
    first, second = readings(10)
    assert orders_read(first, second) == "some"
    assert orders_read(first[2:9], second[2:9]) == "both"
    assert orders_read(first[:2], second[:2]) == "one"
    many, one_failed = np.full((200, 3), 1 / 3), np.full((200, 3), 1 / 3)
    one_failed[7] = np.nan
    assert orders_read(many, one_failed) == "both"


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (made("temperature", 1 / 1.42), "temperature 1.42: the judge was over-confident"),
        (made("temperature", 1.25), "temperature 0.80: the judge was under-confident"),
        (made("temperature", 1.0), "temperature 1.00: the judge was about as confident as it should be"),
        (made("temperature", 0.0), "temperature without end: the judge's probabilities say nothing about the labels"),
        (
            made("temperature+bias", 0.5, (0.3, -0.001)),
            "temperature 2.00: the judge was over-confident; bias A +0.30, B +0.00, tie -0.30 (the judge said tie too "
            "often)",
        ),
        (
            made("position", 0.5, (-0.3, 0.2)),
            "temperature 2.00: the judge was over-confident; bias first -0.30, second +0.20, tie +0.10 (the judge said "
            "first too often)",
        ),
        (made("vector", 0.5, (0, 0)), "scale A 0.50, B 0.75, tie 0.25; bias A +0.00, B +0.00, tie +0.00"),
        (
            Calibration(method="vector", scale=(0.41, 0, 0), bias=(0.34, -0.02, -0.32)),
            "scale A 0.41, B 0.00, tie 0.00; bias A +0.34, B -0.02, tie -0.32; only the judge's probability of A is "
            "used",
        ),
        (
            Calibration(method="vector", scale=(0, 0, 0), bias=(0, 0, 0)),
            "scale A 0.00, B 0.00, tie 0.00; bias A +0.00, B +0.00, tie +0.00; the judge's probabilities say nothing "
            "about the labels",
        ),
        (
            made("contextual", 1, (0.5, 0)),
            "log-probabilities without content subtracted: first +0.50, second +0.00, tie -0.50",
        ),
    ],
)
def test_its_parameters_in_words(calibration: Calibration, words: str) -> None:
    assert calibration.in_words() == words


@pytest.mark.parametrize(
    "change", [{"scale": (1, -0.1, 1)}, {"scale": (1, float("nan"), 1)}, {"bias": (0, 0, float("inf"))}, {"more": 1}]
)
def test_impossible_parameters_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Calibration.model_validate(made("vector").model_dump() | change)


def test_equal_numbers_are_equal_texts_and_different_ones_differ() -> None:
    texts = {made(method, scale).numbers() for method in METHODS for scale in (0.7, np.nextafter(0.7, 1))}
    assert len(texts) == 2 * len(METHODS) - 1  # contextual has no scale
    assert made("temperature", 0.7).numbers() == "temperature scale=0.7,0.7,0.7 bias=0.0,0.0,-0.0"


FITTED = Fitted(
    predictions="0" * 64,
    prompt=None,
    orders="one",
    rows=100,
    groups=90,
    log_loss=(1.1, 1.0),
    ece=(0.2, 0.1),
    gain=(0.1, 0.05, 0.15),
)


def test_a_bundle_keeps_it_and_stays_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    bundle = save_judge(tiny_model, tmp_path / "bundle")
    before, text = open_model(bundle).digest(), (bundle / "judge.json").read_bytes()
    calibration = made("vector").model_copy(update={"fitted": FITTED})
    store_calibration(bundle, calibration)
    content = read_judge_file(bundle)
    assert content is not None
    assert content.calibration == calibration
    assert open_model(bundle).digest() == before
    store_calibration(bundle, None)
    assert (bundle / "judge.json").read_bytes() == text
    # but not one with any other change
    (bundle / "judge.json").write_bytes(text.replace(b'"max_tokens": 256', b'"max_tokens": 257'))
    assert open_model(bundle).digest() != before


def test_a_damaged_calibration_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    bundle = save_judge(tiny_model, tmp_path / "bundle")
    content = json.loads((bundle / "judge.json").read_text())
    content["calibration"] = {**made("vector").model_dump(mode="json"), "scale": [1, -1, 1]}
    (bundle / "judge.json").write_text(json.dumps(content))
    with pytest.raises(JudgeError, match=r"judge\.json: is not a judge's file \(calibration\.scale\.1"):
        open_model(bundle)


def test_it_stays_with_merged_weights_and_goes_with_others(tiny_model: Path, tmp_path: Path) -> None:
    bundle = save_judge(tiny_model, tmp_path / "bundle")
    store_calibration(bundle, made("vector"))
    content = open_model(bundle).judge
    assert content is not None
    assert content.with_stage("merged").calibration == made("vector")
    assert content.uncalibrated().with_stage("quantized").calibration is None


def predictions(first: Float, second: Float, calibration: Calibration | None, folder: Path) -> Predictions:
    rows = np.zeros(len(first), dtype=_ROW)
    prepared = Prepared(folder, rows, both_orders=True, counts={}, _starts=np.zeros(len(first), dtype=np.int64))
    return Predictions(prepared, first, second, True, 0.0, 0, calibration)


@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_calibrated_and_unread_rows_stay_uniform(method: Method, tmp_path: Path) -> None:
    first, second = (np.log(p) - 0.1 for p in readings(30))
    first[0] = np.nan
    result = predictions(first, second, made(method), tmp_path)
    expected = made(method).apply(probabilities(first), probabilities(second))
    np.testing.assert_array_equal(result.p[1:], expected[1:])
    assert result.p[0].tolist() == [1 / 3] * 3
    plain = predictions(first, second, None, tmp_path).p
    assert np.abs(result.p - plain)[1:].max() > 0.01


@pytest.fixture
def calibrated(tiny_model: Path, tmp_path: Path) -> Path:
    bundle = save_judge(tiny_model, tmp_path / "bundle")
    store_calibration(bundle, made("temperature").model_copy(update={"fitted": FITTED}))
    return bundle


def scorer(bundle: Path, folder: Path, **values: Any) -> Scorer:
    return Scorer(open_model(bundle), ScoreSettings(readout="transformers", **values), folder / "logs")


def test_scoring_takes_the_bundles_calibration_unless_told_not_to(calibrated: Path, tmp_path: Path) -> None:
    assert scorer(calibrated, tmp_path).calibration is not None
    assert scorer(calibrated, tmp_path, calibration="off").calibration is None
    store_calibration(calibrated, None)
    assert scorer(calibrated, tmp_path).calibration is None


def test_a_run_with_another_calibration_is_another_run(calibrated: Path, tmp_path: Path, table: Path) -> None:
    from judge.runs.folder import differences
    from judge.tables.table import Table

    def manifest(**values: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            json.dumps(scorer(calibrated, tmp_path, **values).manifest(Table.open(table)))
        )
        return found

    one, off = manifest(), manifest(calibration="off")
    assert one["settings"]["calibration"] == made("temperature").numbers()
    assert off["settings"]["calibration"] == "off"
    assert one["model"] == off["model"]
    assert differences(one, manifest()) == []
    store_calibration(calibrated, made("temperature", 0.8))
    [difference] = differences(one, manifest())
    assert difference.startswith("calibration (temperature scale=0.7")


def test_a_run_unlike_the_one_it_was_fitted_on_is_warned_of(calibrated: Path, tmp_path: Path) -> None:
    assert scorer(calibrated, tmp_path).calibration_warning is None
    both = scorer(calibrated, tmp_path, swap="all").calibration_warning
    assert both is not None
    assert "it was fitted on one order, and this run reads both orders (--swap)" in both
    assert scorer(calibrated, tmp_path, swap="all", calibration="off").calibration_warning is None
    own = scorer(calibrated, tmp_path).builder.fingerprint()
    fitted = FITTED.model_copy(update={"prompt": own})
    store_calibration(calibrated, made("temperature").model_copy(update={"fitted": fitted}))
    assert scorer(calibrated, tmp_path).calibration_warning is None
    other = scorer(calibrated, tmp_path, max_tokens=200).calibration_warning
    assert other is not None
    assert "it was fitted on prompts of another template or budget" in other


def test_a_copy_of_the_bundle_has_it_too(calibrated: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(calibrated, tmp_path / "copy")
    content = open_model(copy).judge
    assert content is not None
    assert content.calibration is not None
