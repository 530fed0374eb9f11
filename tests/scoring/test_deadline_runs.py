"""Runs with a deadline: a real engine slowed down by sleeping, at deadlines from `at once` to `plenty`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from judge import Judge
from judge.errors import JudgeError, RunInterrupted
from judge.prompting.verdict import Float
from judge.runs.folder import RunFolder, read_run_record
from judge.runs.shards import Shard
from tests.kit.slowed_runs import BUDGET, ROWS, check_file, run, write_long_table

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def long_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_table(tmp_path_factory.mktemp("table") / "table.csv")


@pytest.fixture(scope="module")
def whole(tiny_model: Path, long_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without a deadline writes, many of its rows in both orders."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        run(tiny_model, long_table, folder, None, patch, swap="auto", shard_tokens=3000)
    return folder


@pytest.fixture(autouse=True)
def short_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 120 rows are written in a moment; runs of seconds cannot keep five for it."""
    monkeypatch.setattr("judge.scoring.reading.RESERVE_SECONDS", 1.5)


@pytest.mark.parametrize(
    ("seconds", "load", "token", "swap"),
    [
        pytest.param(3, 60, 0, "all", id="while-the-model-loads"),
        pytest.param(3, 0, 1, "off", id="while-the-engine-is-silent"),
        pytest.param(4, 0, 1e-3, "all", id="most-rows-get-priors"),
        pytest.param(5.5, 0, 2e-4, "auto", id="smaller-budgets"),
        pytest.param(7, 0, 6e-5, "all", id="some-exchanged-orders"),
    ],
)
def test_a_run_ends_in_time_and_its_flags_say_what_it_gave_up(
    tiny_model: Path,
    long_table: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    load: float,
    token: float,
    swap: str,
) -> None:
    left = run(tiny_model, long_table, tmp_path, seconds, monkeypatch, load=load, token=token, swap=swap)
    assert left > 0
    counts = check_file(tmp_path, long_table, whole)
    if load or token == 1:
        assert counts == {"prior": ROWS, "smaller": 0, "second": 0}


def test_a_deadline_that_has_passed_gives_priors_at_once(
    tiny_model: Path, long_table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    run(tiny_model, long_table, tmp_path, 0.0, monkeypatch, load=60, swap="10%")
    assert time.monotonic() - began < 20
    assert check_file(tmp_path, long_table, whole)["prior"] == ROWS
    with pytest.raises(JudgeError, match=r"its deadline had passed before anything was read.*pass --restart"):
        run(tiny_model, long_table, tmp_path, 600, monkeypatch, load=60, swap="10%")


def test_a_run_that_is_never_in_danger_writes_the_same_bytes(
    tiny_model: Path, long_table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_model, long_table, tmp_path, 7200, monkeypatch, swap="auto", shard_tokens=3000)
    assert (tmp_path / "p.csv").read_bytes() == (whole / "p.csv").read_bytes()
    assert (tmp_path / "submission.csv").read_bytes() == (whole / "submission.csv").read_bytes()
    counts = check_file(tmp_path, long_table, whole)
    assert counts["prior"] == counts["smaller"] == 0
    assert counts["second"] > 0


def test_an_interrupted_run_keeps_what_was_read_with_a_smaller_budget(
    tiny_model: Path,
    long_table: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write, groups = RunFolder.write_shard, list[str]()

    def interrupt(self: RunFolder, group: str, number: int, shard: Shard, logprobs: Float) -> None:
        write(self, group, number, shard, logprobs)
        groups.append(group)
        if group.startswith("late") and group != f"late{BUDGET}":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_shard", interrupt)
        with pytest.raises(RunInterrupted, match="what is finished is kept"):
            run(tiny_model, long_table, tmp_path, 6, monkeypatch, token=3e-4, swap="all")
    run(tiny_model, long_table, tmp_path, 3600, monkeypatch, swap="all")
    counts = check_file(tmp_path, long_table, whole)
    assert counts["prior"] == counts["second"] == 0
    assert counts["smaller"] > 0
    # it is finished: the same command says what it lacks, and reads nothing
    capsys.readouterr()
    run(tiny_model, long_table, tmp_path, None, monkeypatch, swap="all")
    said = capsys.readouterr().err
    assert f"is complete, but {ROWS} rows lack the exchanged order; {counts['smaller']} rows were cut to fewer" in said
    assert "pass --restart to score again" in said


def fails_for_good(model: Path, table: Path, folder: Path, patch: pytest.MonkeyPatch, load: float = 0) -> None:
    """Run with an engine that dies after two shards, and whenever it is started anew."""
    with patch.context() as context:
        context.setattr("judge.engine.pool.RETRY_SECONDS", 0)
        run(model, table, folder, 600, patch, mark=folder / "dies", load=load, shard_tokens=2000)


def test_an_engine_that_fails_for_good_leaves_a_file_and_what_was_read(
    tiny_model: Path,
    long_table: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails_for_good(tiny_model, long_table, tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert "warning: the engine failed 6 times in a row" in said
    assert "the same command goes on with it" in said
    assert 0 < check_file(tmp_path, long_table, whole, goes_on=True)["prior"] < ROWS
    result = read_run_record(tmp_path / "p.csv.run.json")["result"]
    assert "6 times in a row" in result["given_up"]["failed"]
    assert result["tokens"] > 0
    assert result["seconds"] > 0
    # an engine that does not even start changes nothing
    before = (tmp_path / "p.csv").read_bytes()
    with pytest.raises(JudgeError, match="the engine failed while it loaded the model"):
        fails_for_good(tiny_model, long_table, tmp_path, monkeypatch, load=1)
    assert (tmp_path / "p.csv").read_bytes() == before
    # nor does a deadline that passes before the run is taken up again take away what was read
    kept = sorted(path.name for path in (tmp_path / "p.csv.parts").glob("shard-*"))
    began = time.monotonic()
    assert "the time was up before anything was read; all rows get the class priors" in on_a_slow_disk(
        tiny_model, long_table, tmp_path
    )
    assert time.monotonic() - began < 60
    assert check_file(tmp_path, long_table, whole, goes_on=True)["prior"] == ROWS
    assert sorted(path.name for path in (tmp_path / "p.csv.parts").glob("shard-*")) == kept
    capsys.readouterr()
    run(tiny_model, long_table, tmp_path, 600, monkeypatch, shard_tokens=2000)
    assert "going on with the unfinished run" in capsys.readouterr().err
    assert check_file(tmp_path, long_table, whole) == {"prior": 0, "smaller": 0, "second": 0}


# `judge score` on a disk so slow that hashing the model takes two minutes.
SLOW_DISK = """
import time
import judge.models.bundle, judge.scoring.reading
from judge.cli.main import main

judge.scoring.reading.RESERVE_SECONDS = 1.5
judge.models.bundle.file_digest = lambda path: time.sleep(120)
main()
"""


def on_a_slow_disk(model: Path, table: Path, folder: Path) -> str:
    """Run `judge score` where hashing the model outlasts the deadline; return what it says.

    It must end in good order, and none of its engines outlive it.
    """
    files = ["-o", str(folder / "p.csv"), "--submission", str(folder / "submission.csv")]
    options = ["--readout=transformers", "--device=cpu", f"--max-tokens={BUDGET}", "--shard-tokens=2000"]
    arguments = ["score", str(model), str(table), *files, *options, "--deadline=5s"]
    with subprocess.Popen([sys.executable, "-c", SLOW_DISK, *arguments], stderr=subprocess.PIPE, text=True) as process:
        said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            words = path.read_bytes().split(b"\0")
            assert not (b"judge.engine.worker" in words and str(process.pid).encode() in words)
    return said


def test_a_judge_whose_engine_was_stopped_at_a_deadline_starts_it_again(tiny_model: Path, long_table: Path) -> None:
    frame = pd.read_csv(long_table, keep_default_na=False).head(8)
    with Judge(tiny_model, readout="transformers", device="cpu", max_tokens=BUDGET) as judge:
        late = judge.score(frame, deadline="2s")
        again = judge.score(frame, deadline="10m")
        without = judge.score(frame)
    assert late["flags"].str.contains("prior").all()
    assert not again["flags"].str.contains("prior").any()
    assert again["logprob_a"].notna().all()
    pd.testing.assert_frame_equal(again, without)
