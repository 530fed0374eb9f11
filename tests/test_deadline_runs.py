"""Runs with a deadline: a real engine slowed down by sleeping, at deadlines from `at once` to `plenty`."""

from __future__ import annotations

import csv
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.comparison import Flag
from judge.deadline import Deadline
from judge.engine.pool import Job, WorkerPool
from judge.errors import JudgeError, RunInterrupted
from judge.predictions_file import read_predictions
from judge.run_folder import RunFolder, read_run_record
from judge.score_command import SubmissionOptions, run_score
from judge.score_settings import ScoreSettings, make_pool
from judge.shards import Shard
from judge.submission import check_submission
from judge.table import read_ids
from judge.verdict import Float

pytestmark = pytest.mark.engine

ROWS, BUDGET = 120, 400
# An engine that loads and reads as slowly as it is told: seconds to load, seconds a token.
SLOW_WORKER = """
import sys, time
from multiprocessing.connection import Connection
import numpy as np
from judge.engine.worker import serve

class Slow:
    def __init__(self, engine):
        self.engine = engine
        time.sleep({load})

    def read(self, prompts, progress):
        results = []
        for prompt in prompts:
            time.sleep(len(prompt) * {token})
            results.append(self.engine.read([prompt], progress))
        return np.concatenate(results)

    def close(self):
        self.engine.close()

serve(Connection(int(sys.argv[1])), Slow)
"""


@pytest.fixture(scope="module")
def long_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 40 to 400 tokens, a few odd ones among them."""
    words, chance = ["alpha", "beta", "gamma", "delta", "one", "two"], random.Random(1)  # noqa: S311
    path = tmp_path_factory.mktemp("table") / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"])
        for row in range(ROWS):
            texts = [" ".join(chance.choices(words, k=chance.randrange(1, most))) for most in (10, 60, 60)]
            if row % 40 == 7:
                texts[1] = texts[2] = ""
            label = row % 3
            writer.writerow([f"r{row:04d}", *texts, *(int(label == k) for k in range(3))])
    return path


def run(
    model: Path, table: Path, folder: Path, seconds: float | None, patch: pytest.MonkeyPatch, **options: Any
) -> float:
    """Score the table with a slow engine and a deadline; return the seconds left at the end.

    An engine that does not load slowly has loaded before the time begins: that takes 3 to 15 s, as busy as the machine
    is.
    """
    load, token = options.pop("load", 0), options.pop("token", 0)
    deadline = Deadline(time.monotonic() + seconds, f"{seconds}s") if seconds is not None else None

    def make_slow(*args: Any) -> Any:
        pool = make_pool(*args)
        assert isinstance(pool, WorkerPool)
        pool.command = (sys.executable, "-c", SLOW_WORKER.format(load=load, token=token))
        if deadline is not None and seconds and not load:
            pool.run([Job(0, 1, lambda: [np.arange(5, 6, dtype=np.int32)])], lambda *_: None, lambda *_: None)
            object.__setattr__(deadline, "at", time.monotonic() + seconds)
        return pool

    settings = ScoreSettings(readout="transformers", device="cpu", max_tokens=BUDGET, **options)
    with patch.context() as context:
        context.setattr("judge.score.make_pool", make_slow)
        run_score(
            model,
            table,
            folder / "p.csv",
            settings,
            SubmissionOptions(folder / "submission.csv"),
            cells="auto",
            on_bad_row="error",
            restart=False,
            deadline=deadline,
        )
    return deadline.left() if deadline else 0.0


@pytest.fixture(scope="module")
def whole(tiny_model: Path, long_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without a deadline writes, in both orders."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        run(tiny_model, long_table, folder, None, patch, swap="all")
    return folder


def check_file(folder: Path, table: Path, whole: Path) -> dict[str, int]:
    """Check a finished file against the table, the run without a deadline and its own flags; return the counts."""
    written = pd.read_csv(folder / "p.csv", keep_default_na=False, na_values=[""], dtype={"flags": str})
    full = pd.read_csv(whole / "p.csv")
    assert list(written["id"]) == list(pd.read_csv(table)["id"])
    assert not (folder / "p.csv.parts").exists()
    assert check_submission(folder / "submission.csv", read_ids(table)).problems == []
    stored = read_predictions(folder / "p.csv")
    assert stored.flags is not None
    assert stored.first is not None
    assert stored.second is not None
    flags = stored.flags
    first, second = (np.isfinite(v).all(axis=1) for v in (stored.first, stored.second))
    given_up_flags = (Flag.PRIOR, Flag.SMALLER_BUDGET, Flag.SWAP_LEFT_OUT)
    prior, smaller, no_swap = (np.bitwise_and(flags, np.uint32(flag)).astype(bool) for flag in given_up_flags)
    # the flags say what the numbers show
    assert (prior == ~first).all()
    assert not (prior & second).any()
    assert (no_swap <= ~second).all()
    expected_first = full[["logprob_a", "logprob_b", "logprob_tie"]].to_numpy()
    same = (np.abs(stored.first - expected_first) <= 1e-6).all(axis=1)
    assert same[first & ~smaller].all()
    tokens = written["prompt_tokens"].to_numpy()
    assert (tokens[smaller] < full["prompt_tokens"].to_numpy()[smaller]).all()
    assert (tokens[~smaller] == full["prompt_tokens"].to_numpy()[~smaller]).all() or prior.all()
    # the order of giving up: no exchanged order beside a prior or a cut prompt
    assert not (second.any() and (prior.any() or smaller.any()))
    # all priors are one, and count in the record
    assert len(np.unique(stored.p[prior], axis=0)) <= 1
    result = read_run_record(folder / "p.csv.run.json")["result"]
    given_up = result["given_up"]
    assert given_up["prior_rows"] == prior.sum()
    assert given_up["smaller_budget_rows"] == smaller.sum()
    assert given_up["swap_left_out_rows"] == no_swap.sum()
    if prior.any():
        expected = (stored.p[~prior].sum(axis=0) + 100 / 3) / ((~prior).sum() + 100)
        np.testing.assert_allclose(stored.p[prior][0], expected, atol=1e-9)
    return {"prior": int(prior.sum()), "smaller": int(smaller.sum()), "second": int(second.sum())}


@pytest.fixture(autouse=True)
def short_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 120 rows are written in a moment; runs of seconds cannot keep five for it."""
    monkeypatch.setattr("judge.paced_reading.RESERVE_SECONDS", 1.5)


@pytest.mark.parametrize(
    ("seconds", "load", "token", "swap"),
    [
        pytest.param(4, 60, 0, "all", id="while-the-model-loads"),
        pytest.param(4, 0, 1, "off", id="while-the-engine-is-silent"),
        pytest.param(5, 0, 1e-3, "all", id="most-rows-get-priors"),
        pytest.param(7, 0, 2e-4, "auto", id="smaller-budgets"),
        pytest.param(9, 0, 8e-5, "all", id="some-exchanged-orders"),
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
        run(tiny_model, long_table, tmp_path, 600, monkeypatch, swap="10%")


def test_a_run_that_is_never_in_danger_writes_the_same_bytes(
    tiny_model: Path, long_table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "auto").mkdir()
    run(tiny_model, long_table, tmp_path / "auto", None, monkeypatch, swap="auto", shard_tokens=3000)
    run(tiny_model, long_table, tmp_path, 7200, monkeypatch, swap="auto", shard_tokens=3000)
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "auto" / "p.csv").read_bytes()
    assert (tmp_path / "submission.csv").read_bytes() == (tmp_path / "auto" / "submission.csv").read_bytes()
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
            run(tiny_model, long_table, tmp_path, 8, monkeypatch, token=3e-4, swap="all")
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
