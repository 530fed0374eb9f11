"""Drift: what is measured between the stages of a judge, and when it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss

from judge.cli.drift import drift_lines
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.calibration import Calibration
from judge.models.judge_file import store_calibration
from judge.models.trained_rows import FILE as TRAINED_ROWS
from judge.runs.progress import Silent
from judge.scoring.settings import ScoreSettings
from judge.stats.metrics import log_losses
from judge.stats.resample import Resampler
from judge.tables.split import group_key
from judge.tables.table import Table
from quantize.drift import FILE, PREDICTIONS, reference_of, run_drift
from quantize.drift_figures import Limits, changes, kind_of

JUDGE = Path(sys.executable).parent / "judge"
SETTINGS = ScoreSettings(readout="transformers", device="cpu", dtype="float32")


def test_changes_of_known_probabilities() -> None:
    before = np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2]])
    after = np.array([[0.25, 0.5, 0.25], [0.2, 0.6, 0.2]])
    found = changes(before, after)
    assert found["mean_kl"] == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert found["largest_change"] == 0.25
    assert found["flips"] == 0.5
    assert changes(before, before) == {"mean_kl": 0, "largest_change": 0, "flips": 0}


def test_a_probability_of_zero_gives_a_finite_divergence() -> None:
    found = changes(np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 0.0, 0.0]]))
    assert np.isfinite(found["mean_kl"])
    assert found["mean_kl"] > 100


@pytest.fixture(scope="module")
def noisy(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The judge merged into its base, with noise on every weight as a bad quantiser would leave it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("stages") / "noisy"
    base = AutoModelForCausalLM.from_pretrained(trained["base"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, trained["bundle"]).merge_and_unload()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    for path in (*trained["base"].glob("token*"), *trained["base"].glob("chat*")):
        shutil.copy(path, folder)
    for name in ("judge.json", TRAINED_ROWS):
        shutil.copy(trained["bundle"] / name, folder)
    return folder


@pytest.mark.training
def test_the_first_judge_is_the_reference_and_what_kind_each_stage_is(trained: dict[str, Path], noisy: Path) -> None:
    stages = [open_model(folder) for folder in (trained["base"], trained["bundle"], noisy)]
    assert reference_of(stages) == 1
    assert reference_of(stages[:1]) == 0
    assert [kind_of(stage) for stage in stages] == ["base", "adapter", "model"]


@pytest.mark.training
def test_figures_are_those_of_the_scored_rows_that_did_not_train(
    trained: dict[str, Path], noisy: Path, tmp_path: Path
) -> None:
    last = shutil.copytree(noisy, tmp_path / "last")
    table = trained["table.csv"]
    drift = run_drift([trained["base"], trained["bundle"], last], table, SETTINGS, Limits(), Silent())
    # the same, from files that judge score wrote
    held_out = trained["held_out.csv"]
    read = {}
    for name, folder in (("bundle", trained["bundle"]), ("last", last)):
        output = tmp_path / f"{name}.parquet"
        command = [str(JUDGE), "score", str(folder), str(held_out), "-o", str(output), "--readout=transformers"]
        subprocess.run(command, check=True, capture_output=True)
        read[name] = pd.read_parquet(output)[["p_a", "p_b", "p_tie"]].to_numpy()
    rows = [row for chunk in Table.open(held_out).chunks() for row in chunk]
    labels = np.array([row.label for row in rows])
    assert (drift.rows, drift.labelled_rows, drift.reference) == (len(rows), len(rows), 1)
    base, bundle, other = drift.stages
    assert bundle.log_loss is not None
    assert bundle.log_loss.value == pytest.approx(sklearn_log_loss(labels, read["bundle"]), abs=1e-6)
    assert bundle.log_loss_change is None
    change = log_losses(read["last"], labels) - log_losses(read["bundle"], labels)
    groups = np.array([group_key(row) for row in rows], dtype=np.uint64)
    expected = Resampler(groups).estimate(np.column_stack([change, change]))[0]
    assert other.log_loss_change is not None
    found = (other.log_loss_change.value, other.log_loss_change.low, other.log_loss_change.high)
    assert found == pytest.approx((expected.value, expected.low, expected.high), abs=1e-6)
    assert other.flips == (read["last"].argmax(1) != read["bundle"].argmax(1)).mean()
    assert other.largest_change == pytest.approx(abs(read["last"] - read["bundle"]).max(), abs=1e-6)
    kl = (read["bundle"] * np.log(read["bundle"] / read["last"])).sum(axis=1).mean()
    assert other.mean_kl == pytest.approx(kl, abs=1e-6)
    # a base is shown, and never fails
    assert base.kind == "base"
    assert base.failed == []
    assert other.failed
    assert not drift.passed
    lines = list(drift_lines(drift))
    assert any(line.startswith("FAIL last: ") for line in lines)
    assert any("that trained the judge left out" in line for line in lines)
    kept = json.loads((last / FILE).read_text())
    assert kept["passed"] is False
    assert kept["stages"][2]["flips"] == other.flips
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.training
def test_a_calibrated_copy_has_no_drift_and_the_same_identity(trained: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(trained["bundle"], tmp_path / "copy")
    hot = Calibration(method="temperature", scale=(0.5, 0.5, 0.5), bias=(0, 0, 0))
    store_calibration(copy, hot)  # drift is about the weights
    digest = open_model(copy).digest()
    drift = run_drift([trained["bundle"], copy], trained["held_out.csv"], SETTINGS, Limits(0.0, 0.0), Silent())
    assert drift.passed
    assert (drift.stages[1].flips, drift.stages[1].largest_change, drift.stages[1].mean_kl) == (0, 0, 0)
    assert open_model(copy).digest() == digest  # the record is no part of the model


@pytest.mark.training
def test_rows_are_drawn_by_seed_and_limited(trained: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(trained["bundle"], tmp_path / "copy")
    drift = run_drift([trained["bundle"], copy], trained["held_out.csv"], SETTINGS, Limits(), Silent(), rows=5)
    assert drift.rows == 5
    assert any("drawn at random" in note for note in drift.notes)


@pytest.mark.training
def test_an_interrupted_run_takes_over_finished_stages(trained: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(trained["bundle"], tmp_path / "copy")
    broken = shutil.copytree(trained["bundle"], tmp_path / "broken")
    config = broken / "adapter_config.json"
    good = config.read_text()
    config.write_text(json.dumps({**json.loads(good), "unknown_to_peft": True}))
    with pytest.raises(JudgeError, match="unknown_to_peft"):
        run_drift([copy, broken], trained["held_out.csv"], SETTINGS, Limits(), Silent())
    assert not (broken / FILE).exists()
    finished = tmp_path / "broken.drift.parts" / "stage-1" / PREDICTIONS
    table = pd.read_parquet(finished)
    table["p_a"], table["p_b"] = table["p_b"], table["p_a"].copy()  # to see that it is what is read
    table.to_parquet(finished)
    config.write_text(good)
    drift = run_drift([copy, broken], trained["held_out.csv"], SETTINGS, Limits(), Silent())
    assert drift.stages[1].largest_change is not None
    assert drift.stages[1].largest_change > 1e-3
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.training
@pytest.mark.parametrize(
    ("data", "message"),
    [("table", "every row trained this judge"), ("none", "No such file")],
)
def test_data_that_shows_nothing_is_refused(trained: dict[str, Path], tmp_path: Path, data: str, message: str) -> None:
    held_out = set(pd.read_csv(trained["held_out.csv"])["id"])
    frame = pd.read_csv(trained["table.csv"])
    path = tmp_path / f"{data}.csv"
    if data == "table":
        frame[~frame["id"].isin(held_out)].to_csv(path, index=False)
    done = subprocess.run(
        [JUDGE, "drift", trained["bundle"], trained["bundle"], "--data", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(trained["bundle"].parent.glob("*.parts"))


@pytest.mark.training
def test_another_tokenizer_cannot_be_compared(trained: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(trained["base"], tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("message.role + '\\n'", "message.role + ' '"))
    with pytest.raises(JudgeError, match="builds other prompts"):
        run_drift([other, trained["bundle"]], trained["held_out.csv"], SETTINGS, Limits(), Silent())
