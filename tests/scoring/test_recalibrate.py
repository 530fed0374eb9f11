"""Another calibration for finished predictions: what a fresh run would have written, without an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import judge.scoring.recalibrate
from judge.cli.score import run_score
from judge.engine.pool import WorkerPool
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.calibration import Calibration
from judge.models.judge_file import store_calibration
from judge.predictions.predictions import Predictions, predictions_table, summary, write_predictions
from judge.predictions.submission import SubmissionOptions
from judge.prompting.verdict import Float
from judge.runs.folder import RunFolder, read_run_record, without_calibration, write_run_record
from judge.runs.prepared import Prepared, prepare
from judge.runs.progress import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Flag
from judge.tables.table import Table
from tests.kit.judge_bundles import save_judge
from tests.kit.labelled_tables import labelled_rows, write_table

VECTOR = Calibration(method="vector", scale=(0.4, 0, 1.3), bias=(0.3, -0.1, -0.2))
POSITION = Calibration(method="position", scale=(0.7, 0.7, 0.7), bias=(-0.5, 0.4, 0.1))
SETTINGS = ScoreSettings(readout="transformers", device="cpu", swap="auto")


def settings_with(**values: Any) -> ScoreSettings:
    return SETTINGS.model_copy(update=values)


@pytest.fixture
def bundle(tiny_model: Path, tmp_path: Path) -> Path:
    return save_judge(tiny_model, tmp_path / "bundle")


def refuse(pool: WorkerPool) -> None:
    raise AssertionError(f"an engine was started: {pool.config}")


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerPool, "start", refuse)


def logprobs(rows: int, seed: int) -> Float:
    values = np.log(np.random.default_rng(seed).dirichlet([1, 1, 1], rows)) - 0.2
    values[seed] = np.nan  # not read
    values[seed + 2, 1] = -np.inf
    return values


def files_of_a_run(
    folder: Path, table: Path, bundle: Path, name: str, calibration: Calibration | None = None, **values: Any
) -> tuple[Path, Path]:
    """Write what a run with this calibration writes; the engine's log-probabilities are drawn instead."""
    store_calibration(bundle, calibration)
    output, record = folder / name, folder / f"{name}.run.json"
    (folder / "work").mkdir(exist_ok=True)
    with Scorer(open_model(bundle), settings_with(**values), folder / "logs") as scorer:
        source = Table.open(table)
        prepared: Prepared = prepare(source, scorer.builder, folder / "work", True, Silent())
        prepared.rows["flags"][7] |= Flag.TRAINED_ON
        rows = len(prepared.rows)
        second = logprobs(rows, 1)
        second[10:20] = np.nan
        second[0] = np.nan
        found = Predictions(prepared, logprobs(rows, 0), second, True, 3.25, 1000, scorer.calibration)
        write_predictions(output, predictions_table(found))
        write_run_record(record, scorer.manifest(source), summary(found))
    return output, record


def score(bundle: Path, table: Path, output: Path, submission: Path | None = None, **values: Any) -> None:
    options = SubmissionOptions(submission)
    run_score(bundle, table, output, settings_with(**values), options, cells="auto", on_bad_row="error", restart=False)


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_another_calibration_writes_what_a_fresh_run_would(
    bundle: Path, table: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, kept = {}, [None, VECTOR, POSITION]
    for number, calibration in enumerate(kept):
        files = files_of_a_run(tmp_path, table, bundle, f"{number}{suffix}", calibration)
        expected[number] = [path.read_bytes() for path in files]
    assert len({content[0] for content in expected.values()}) == 3
    output = tmp_path / f"0{suffix}"
    for number in (1, 2, 0, 1):
        store_calibration(bundle, kept[number])
        score(bundle, table, output, tmp_path / "s.csv")
        written = [output.read_bytes(), output.with_name(f"{output.name}.run.json").read_bytes()]
        assert written == expected[number]
        shown = capsys.readouterr().err
        assert "nothing was read again; log loss 1." in shown
        assert ("are now as read, without a calibration" if number == 0 else "are now calibrated (") in shown
        submitted = pd.read_csv(tmp_path / "s.csv")
        read = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
        np.testing.assert_allclose(submitted["winner_model_a"], read["p_a"] * (1 - 3e-4) + 1e-4, rtol=1e-12)
    score(bundle, table, output)
    assert "is complete already" in capsys.readouterr().err
    score(bundle, table, output, calibration="off")
    assert output.read_bytes() == expected[0][0]
    assert not output.with_name(f"{output.name}.parts").exists()


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_ids_of_any_text_stay_as_they_are(bundle: Path, tmp_path: Path, suffix: str) -> None:
    rows = labelled_rows(24)
    names = ['a,"b"', "007", "NA", " x ", "1e3", "", "#", "'", "é\t", "None"]
    for i, row in enumerate(rows):
        row["id"] = (names[i] if i < len(names) else "") or f"row {i}"
    table = write_table(tmp_path / "t.csv", rows)
    expected = [path.read_bytes() for path in files_of_a_run(tmp_path, table, bundle, f"expected{suffix}", VECTOR)]
    output, record = files_of_a_run(tmp_path, table, bundle, f"p{suffix}")
    store_calibration(bundle, VECTOR)
    score(bundle, table, output)
    assert [output.read_bytes(), record.read_bytes()] == expected


@pytest.mark.usefixtures("no_engine")
def test_an_older_record_without_a_calibration_means_that_there_was_none(
    bundle: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = files_of_a_run(tmp_path, table, bundle, "e.parquet", VECTOR)[0].read_bytes()
    output, record = files_of_a_run(tmp_path, table, bundle, "p.parquet")
    content = json.loads(record.read_text())
    del content["settings"]["calibration"], content["result"]["calibration"]
    record.write_text(json.dumps(content))
    store_calibration(bundle, VECTOR)
    score(bundle, table, output)
    assert output.read_bytes() == expected
    assert "warning" not in capsys.readouterr().err


@pytest.mark.usefixtures("no_engine")
def test_stopped_between_two_files_it_goes_on(
    bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, record = files_of_a_run(tmp_path, table, bundle, "p.parquet")
    before = output.read_bytes()
    store_calibration(bundle, VECTOR)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("_rewrite", "write_predictions"):
        with monkeypatch.context() as patch:
            patch.setattr(judge.scoring.recalibrate, name, stopped)
            with pytest.raises(KeyboardInterrupt):
                score(bundle, table, output)
        assert output.read_bytes() == before
    # the record is of neither calibration, so both are brought about
    score(bundle, table, output, calibration="off")
    assert output.read_bytes() == before
    assert json.loads(record.read_text())["settings"]["calibration"] == "off"
    assert not (tmp_path / "p.parquet.parts").exists()


@pytest.mark.usefixtures("no_engine")
def test_another_process_on_the_same_output_is_not_disturbed(bundle: Path, table: Path, tmp_path: Path) -> None:
    output, _ = files_of_a_run(tmp_path, table, bundle, "p.parquet")
    before = output.read_bytes()
    store_calibration(bundle, VECTOR)
    with RunFolder(tmp_path / "p.parquet.parts"), pytest.raises(JudgeError, match="another judge process is working"):
        score(bundle, table, output)
    assert output.read_bytes() == before


def no_logprobs(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=["swap_logprob_a"])


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_logprobs, "has not all columns that judge score wrote"),
        (lambda frame: frame.drop(columns="flags"), "has not all columns that judge score wrote"),
        (lambda frame: frame.iloc[::-1], "has not the rows of table.csv in their order"),
        (lambda frame: frame.iloc[1:], "has not the rows of table.csv in their order"),
        (lambda frame: frame.assign(p_a=2.0), "p_a"),
    ],
)
def test_a_file_that_is_not_what_the_run_wrote_is_refused_and_left_alone(
    bundle: Path, table: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    output, record = files_of_a_run(tmp_path, table, bundle, "p.parquet")
    change(pd.read_parquet(output)).to_parquet(output)
    before = [output.read_bytes(), record.read_bytes()]
    store_calibration(bundle, VECTOR)
    with pytest.raises(JudgeError, match=message):
        score(bundle, table, output)
    assert [output.read_bytes(), record.read_bytes()] == before
    assert not (tmp_path / "p.parquet.parts").exists()


@pytest.mark.usefixtures("no_engine")
def test_any_other_difference_is_still_refused(bundle: Path, table: Path, tmp_path: Path) -> None:
    output, record = files_of_a_run(tmp_path, table, bundle, "p.parquet")
    store_calibration(bundle, VECTOR)
    with pytest.raises(JudgeError) as caught:
        score(bundle, table, output, swap="all", max_tokens=200)
    assert "holds the result of another max-tokens (256 before, 200 now), swap (auto before, all now);" in str(
        caught.value
    )
    record.write_text("{")
    with pytest.raises(JudgeError, match=r"p\.parquet\.run\.json: cannot be read"):
        score(bundle, table, output)


@pytest.mark.engine
def test_what_an_engine_read_is_calibrated_later_as_if_it_had_been_at_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "t.csv", labelled_rows(12))
    score(bundle, table, tmp_path / "later.parquet")
    manifest = read_run_record(tmp_path / "later.parquet.run.json")
    del manifest["result"]
    with RunFolder(tmp_path / "once.parquet.parts") as unfinished:
        unfinished.begin(without_calibration(manifest), restart=False)
    store_calibration(bundle, POSITION)
    score(bundle, table, tmp_path / "once.parquet", tmp_path / "once.csv")
    assert "going on with the unfinished run" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, "start", refuse)
        score(bundle, table, tmp_path / "later.parquet", tmp_path / "later.csv")
    for name in ("{}.parquet", "{}.csv"):
        once, later = (tmp_path / name.format(which) for which in ("once", "later"))
        assert once.read_bytes() == later.read_bytes()
    records = [json.loads((tmp_path / f"{which}.parquet.run.json").read_text()) for which in ("once", "later")]
    for record in records:
        record["result"].pop("seconds")
    assert records[0] == records[1]
