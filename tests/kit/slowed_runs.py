"""Runs with a deadline and an engine as slow, or as broken, as a test wants it; what must be true of their files."""

from __future__ import annotations

import csv
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.cli.score import run_score
from judge.deadline import Deadline
from judge.engine.choose import make_pool
from judge.engine.pool import Job, WorkerPool
from judge.predictions.file import read_predictions
from judge.predictions.submission import SubmissionOptions, check_submission
from judge.runs.folder import read_run_record
from judge.scoring.settings import ScoreSettings
from judge.tables.comparison import Flag
from judge.tables.table import read_ids
from tests.kit.workers import worker

ROWS, BUDGET = 120, 400


def write_long_table(path: Path) -> Path:
    """Write rows of 40 to 400 tokens, a few odd ones among them."""
    words, chance = ["alpha", "beta", "gamma", "delta", "one", "two"], random.Random(1)  # noqa: S311
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
    load, token, mark = (options.pop(name, default) for name, default in (("load", 0), ("token", 0), ("mark", "")))
    deadline = Deadline(time.monotonic() + seconds, f"{seconds}s") if seconds is not None else None

    def make_slow(*args: Any) -> Any:
        pool = make_pool(*args)
        assert isinstance(pool, WorkerPool)
        # from a second a token on it reads nothing, so there need not be a model behind it
        pool.command = worker("slow", load, 0, token, mark) if token < 1 else worker("stuck", "takes-nothing")
        if deadline is not None and seconds and not load and token < 1:
            pool.run([Job(0, 1, lambda: [np.arange(5, 6, dtype=np.int32)])], lambda *_: None, lambda *_: None)
            object.__setattr__(deadline, "at", time.monotonic() + seconds)
        return pool

    settings = ScoreSettings(readout="transformers", device="cpu", max_tokens=BUDGET, **options)
    with patch.context() as context:
        context.setattr("judge.scoring.scorer.make_pool", make_slow)
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


def check_file(folder: Path, table: Path, whole: Path, goes_on: bool = False) -> dict[str, int]:
    """Check a finished file against the table, the run without a deadline and its own flags; return the counts.

    Args:
        goes_on: what was read is kept for another run.
    """
    written = pd.read_csv(folder / "p.csv", keep_default_na=False, na_values=[""], dtype={"flags": str})
    full = pd.read_csv(whole / "p.csv")
    assert list(written["id"]) == list(pd.read_csv(table)["id"])
    assert (folder / "p.csv.parts").exists() == goes_on
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
