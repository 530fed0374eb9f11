"""`judge calibrate` around the fitting: what is stored where, what is printed, and whose predictions are refused."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.calibration.bundle import read_without_content, remove_calibration
from judge.calibration.calibrate import CalibrateSettings
from judge.cli.calibrate import calibrate
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.calibration import Calibration
from judge.models.judge_file import read_judge_file, store_calibration
from judge.predictions.file import read_predictions
from judge.prompting.verdict import NAMES, probabilities
from tests.kit.calibrated_rows import AS_IT_IS, simulated
from tests.kit.judge_bundles import save_judge

HOT = Calibration(method="temperature", scale=(0.5, 0.5, 0.5), bias=(0, 0, 0))
QUICK = CalibrateSettings(resamples=200, method="temperature")


@pytest.fixture
def bundle(tiny_model: Path, tmp_path: Path) -> Path:
    return save_judge(tiny_model, tmp_path / "bundle")


def files(folder: Path, truth: Calibration = HOT, model: Path | None = None, rows: int = 400) -> tuple[Path, Path]:
    """Write predictions, their table, and the record of a run of `model` where one is given."""
    stored, frame = simulated(rows, truth)
    assert stored.first is not None
    columns = {"id": frame["id"]} | {f"p_{name}": stored.p[:, i] for i, name in enumerate(NAMES)}
    columns |= {f"logprob_{name}": stored.first[:, i] for i, name in enumerate(NAMES)}
    predictions, table = folder / "p.parquet", folder / "t.csv"
    pd.DataFrame({**columns, "flags": ""}).to_parquet(predictions)
    frame.to_csv(table, index=False)
    if model is not None:
        folder_of = open_model(model)
        assert folder_of.judge is not None
        record: dict[str, Any] = {"settings": {}, "result": {}, "prompt": "a prompt"}
        record |= {"model": folder_of.digest(), "template": folder_of.judge.template_digest}
        (folder / "p.parquet.run.json").write_text(json.dumps(record))
    return predictions, table


def lines(predictions: Path, table: Path, settings: CalibrateSettings = QUICK, **values: Any) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        calibrate(settings, predictions, table, **values)
    return printed.getvalue().removesuffix("\n")


def stored_in(bundle: Path) -> Calibration | None:
    content = read_judge_file(bundle)
    assert content is not None
    return content.calibration


def test_what_helps_is_stored_and_said_in_words(bundle: Path, tmp_path: Path) -> None:
    predictions, table = files(tmp_path, model=bundle)
    before = open_model(bundle).digest()
    shown = lines(predictions, table, bundle=bundle)
    calibration = stored_in(bundle)
    assert calibration is not None
    assert calibration.fitted is not None
    assert calibration.fitted.prompt == "a prompt"
    assert f"temperature: {calibration.in_words()}" in shown
    assert "the judge was over-confident" in shown
    assert f"stored in {bundle / 'judge.json'}; judge score applies it from now on" in shown
    assert "warning" not in shown
    loss = calibration.fitted.log_loss
    assert f"log loss {loss[0]:.4f} -> {loss[1]:.4f}, ECE " in shown
    # the bundle is still the judge that wrote the predictions
    assert open_model(bundle).digest() == before
    text = (bundle / "judge.json").read_bytes()
    again = lines(predictions, table, bundle=bundle)
    assert "in place of the one that was there" in again
    assert (bundle / "judge.json").read_bytes() == text


def test_no_gain_stores_nothing_and_keeps_what_was_there(bundle: Path, tmp_path: Path) -> None:
    predictions, table = files(tmp_path, AS_IT_IS, bundle)
    text = (bundle / "judge.json").read_bytes()
    shown = lines(predictions, table, bundle=bundle)
    assert "no gain: the interval of its gain does not lie above zero; nothing is stored" in shown
    assert (bundle / "judge.json").read_bytes() == text
    store_calibration(bundle, HOT)
    shown = lines(predictions, table, bundle=bundle)
    assert "keeps the calibration that it has (temperature 2.00: the judge was over-confident); --remove" in shown
    assert stored_in(bundle) == HOT


def test_without_a_bundle_it_is_only_printed(tmp_path: Path) -> None:
    predictions, table = files(tmp_path)
    shown = lines(predictions, table, QUICK.model_copy(update={"method": "auto"}))
    assert "not stored: with --bundle FOLDER, judge score applies it from then on" in shown
    assert "position          left out: each row was read in one order only" in shown
    assert "contextual        left out: it needs the model: give --bundle" in shown
    assert "best, nested" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"p.parquet", "t.csv"}


def test_json_holds_every_figure_and_what_was_stored(bundle: Path, tmp_path: Path) -> None:
    predictions, table = files(tmp_path, model=bundle)
    content = json.loads(lines(predictions, table, bundle=bundle, as_json=True))
    calibration = stored_in(bundle)
    assert calibration is not None
    assert content["calibration"] == calibration.model_dump(mode="json")
    assert content["accepted"] is True
    assert content["methods"]["temperature"]["calibration"]["in_words"] == calibration.in_words()
    assert content["after"]["gain"]["low"] > 0
    assert content["rows"]["used"] == 400


def test_what_is_stored_gives_the_probabilities_that_were_measured(bundle: Path, tmp_path: Path) -> None:
    """Applied to the file's log-probabilities, it has the log loss of the calibration fitted to all rows."""
    predictions, table = files(tmp_path, model=bundle)
    lines(predictions, table, bundle=bundle)
    calibration, stored = stored_in(bundle), read_predictions(predictions)
    assert calibration is not None
    assert stored.first is not None
    p = probabilities(stored.first) ** calibration.scale[0]
    expected = p / p.sum(axis=1, keepdims=True)
    applied = calibration.apply(probabilities(stored.first), np.full((400, 3), np.nan))
    np.testing.assert_allclose(applied, expected, rtol=1e-9)


def test_removing_leaves_the_file_as_it_was(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (bundle / "judge.json").read_bytes()
    calibrate(QUICK, bundle=bundle, remove=True)
    store_calibration(bundle, HOT)
    calibrate(QUICK, bundle=bundle, remove=True)
    assert capsys.readouterr().out.splitlines() == [
        f"{bundle} has no calibration",
        f"removed the calibration from {bundle} (temperature 2.00: the judge was over-confident)",
    ]
    assert (bundle / "judge.json").read_bytes() == text


def test_it_can_be_removed_from_an_adapter_whose_base_is_elsewhere(bundle: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    text = (bundle / "judge.json").read_text()
    (adapter / "judge.json").write_text(text)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    store_calibration(adapter, HOT)
    assert remove_calibration(adapter) == HOT
    assert (adapter / "judge.json").read_text() == text


def error_of(*arguments: Any, **values: Any) -> str:
    with pytest.raises(JudgeError) as caught:
        lines(*arguments, **values)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_predictions_of_another_model_are_refused(bundle: Path, tmp_path: Path) -> None:
    predictions, table = files(tmp_path, model=bundle)
    judge = bundle / "judge.json"
    judge.write_text(judge.read_text().replace('"max_tokens": 256', '"max_tokens": 255'))
    text = judge.read_bytes()
    shown = error_of(predictions, table, bundle=bundle)
    assert shown.startswith(f"p.parquet: was written by another model than {bundle}")
    assert judge.read_bytes() == text


def test_without_a_record_there_is_a_warning(bundle: Path, tmp_path: Path) -> None:
    predictions, table = files(tmp_path)
    shown = lines(predictions, table, bundle=bundle)
    assert "warning: there is no p.parquet.run.json, so it is not known whether bundle wrote these predictions" in shown
    assert stored_in(bundle) is not None


@pytest.mark.parametrize("content", ["{", "[]", '{"model": 3}', "\xff", '{"prompt": 3}', '{"settings": []}'])
def test_a_damaged_record_is_refused_where_it_matters(bundle: Path, tmp_path: Path, content: str) -> None:
    predictions, table = files(tmp_path, model=bundle)
    path = tmp_path / "p.parquet.run.json"
    if ":" in content:
        content = json.dumps(json.loads(path.read_text()) | json.loads(content))
    path.write_bytes(content.encode("latin-1"))
    assert "p.parquet.run.json: " in error_of(predictions, table, bundle=bundle)
    assert "not stored" in lines(predictions, table)  # a blend of several judges has another record, for example


def test_a_model_that_is_no_judge_and_a_submission_are_refused(bundle: Path, tiny_model: Path, tmp_path: Path) -> None:
    predictions, table = files(tmp_path)
    assert "holds no judge.json, so it is a model that judge did not train" in error_of(
        predictions, table, bundle=tiny_model
    )
    with pytest.raises(JudgeError, match=r"holds no judge\.json"):
        remove_calibration(tiny_model)
    frame = pd.read_parquet(predictions)[["id", "p_a", "p_b", "p_tie"]]
    frame.columns = pd.Index(["id", "winner_model_a", "winner_model_b", "winner_tie"])
    frame.to_csv(tmp_path / "s.csv", index=False)
    assert "s.csv: has no log-probabilities" in error_of(tmp_path / "s.csv", table, bundle=bundle)
    assert "stored" in lines(tmp_path / "s.csv", table)


def test_a_bundle_that_cannot_be_written_to_is_one_clear_line(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="the calibration cannot be stored"):
        store_calibration(tmp_path / "nowhere", HOT)
    (bundle / "judge.json").write_text("[]")
    with pytest.raises(JudgeError, match="the calibration cannot be stored"):
        store_calibration(bundle, HOT)
    assert (bundle / "judge.json").read_text() == "[]"


def test_a_model_that_cannot_run_here_leaves_its_method_out_or_is_said(bundle: Path, tmp_path: Path) -> None:
    predictions, table = files(tmp_path, model=bundle)
    record = json.loads((tmp_path / "p.parquet.run.json").read_text())
    record["settings"] = {"readout": "transformers", "dtype": "float8"}
    (tmp_path / "p.parquet.run.json").write_text(json.dumps(record))
    shown = lines(predictions, table, QUICK.model_copy(update={"method": "auto"}), bundle=bundle)
    assert "contextual        left out: the model cannot be run here (dtype=float8: " in shown
    assert "dtype=float8: " in error_of(
        predictions, table, QUICK.model_copy(update={"method": "contextual"}), bundle=bundle
    )
    record["template"] = "another"
    (tmp_path / "p.parquet.run.json").write_text(json.dumps(record))
    shown = lines(predictions, table, QUICK.model_copy(update={"method": "auto"}), bundle=bundle)
    assert "contextual        left out: the predictions were made with another template" in shown


@pytest.mark.engine
def test_scoring_applies_what_was_stored_but_not_to_empty_prompts(bundle: Path) -> None:
    from judge.api import Judge

    frame = pd.DataFrame({"id": [1, 2], "prompt": "Hi", "response_a": ["yes", "no"], "response_b": ["no", "yes"]})
    store_calibration(bundle, HOT)
    with Judge(bundle, readout="transformers", swap="all") as judge:
        scored = judge.score(frame)
    first, second = (
        probabilities(scored[[f"{prefix}logprob_{name}" for name in NAMES]].to_numpy()) for prefix in ("", "swap_")
    )
    np.testing.assert_array_equal(scored[["p_a", "p_b", "p_tie"]].to_numpy(), HOT.apply(first, second))
    without = read_without_content(bundle, None, {"readout": "transformers"})
    assert sum(without) == pytest.approx(1)
    assert without != pytest.approx((1 / 3,) * 3, abs=1e-4)
