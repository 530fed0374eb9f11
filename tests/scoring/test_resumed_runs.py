"""A run that was stopped with a deadline goes on without one, and the other way round: nothing is read twice."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.cli.score import run_score
from judge.deadline import Deadline
from judge.engine.choose import make_pool
from judge.engine.pool import Job
from judge.engine.protocol import EngineConfig
from judge.errors import RunInterrupted
from judge.predictions.submission import SubmissionOptions
from judge.prompting.verdict import Float
from judge.runs.folder import RunFolder
from judge.runs.shards import Shard
from judge.scoring.pacing import Pacer, Read
from judge.scoring.settings import ScoreSettings
from tests.kit.slowed_runs import write_long_table

NUMBERS = [f"{order}logprob_{name}" for order in ("", "swap_") for name in ("a", "b", "tie")]


class Engine:
    """A pool in this process: its numbers follow from the prompt alone. It counts the prompts that it gets.

    Attributes:
        stop: presses Ctrl-C in place of so many-th shard; 0 never.
        read: how often each prompt was read.
    """

    engines, failures = 1, 0

    def __init__(self, config: EngineConfig, read: Counter[bytes], stop: int) -> None:
        self.config, self.read, self.stop, self.say = config, read, stop, print
        self.ready_at: float | None = None

    def start(self) -> None:
        self.ready_at = self.ready_at or time.monotonic()

    def close(self, at_once: bool = False) -> None:
        del at_once
        self.ready_at = None

    def run(
        self,
        jobs: Iterable[Job],
        on_done: Callable[[int, Float], None],
        on_progress: Callable[[int, int], None],
        stop_at: float = math.inf,
    ) -> None:
        del stop_at
        self.start()
        for job in jobs:
            self.stop -= 1
            if self.stop == 0:
                raise KeyboardInterrupt
            prompts = [np.asarray(prompt).tobytes() for prompt in job.load()]
            self.read.update(prompts)
            on_progress(job.key, len(prompts))
            on_done(job.key, np.array([numbers_of(prompt) for prompt in prompts]))


def numbers_of(prompt: bytes) -> list[float]:
    digits = hashlib.sha256(prompt).digest()[:3]
    return [math.log((digit + 1) / 1000) for digit in digits]


def score(
    model: Path, table: Path, folder: Path, swap: str, timed: bool, stop: int = 0, read: Counter[bytes] | None = None
) -> Counter[bytes]:
    """Score a table with such an engine and return how often it read each prompt."""
    read = Counter[bytes]() if read is None else read

    def counting(*args: Any) -> Engine:
        return Engine(make_pool(*args).config, read, stop + 1 if stop else 0)

    settings = ScoreSettings(readout="transformers", device="cpu", max_tokens=400, swap=swap, shard_tokens=1500)
    deadline = Deadline(time.monotonic() + 3600, "1h") if timed else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("judge.scoring.scorer.make_pool", counting)
        run_score(
            model,
            table,
            folder / "p.csv",
            settings,
            SubmissionOptions(),
            cells="auto",
            on_bad_row="error",
            restart=False,
            deadline=deadline,
        )
    return read


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_table(tmp_path_factory.mktemp("table") / "table.csv")


Undisturbed = Callable[[str], tuple[Path, Counter[bytes]]]


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Give the output of a run that nobody stops, and how often it reads each prompt, for a swap policy."""
    found: dict[str, tuple[Path, Counter[bytes]]] = {}

    def of(swap: str) -> tuple[Path, Counter[bytes]]:
        if swap not in found:
            folder = tmp_path_factory.mktemp("undisturbed")
            found[swap] = folder / "p.csv", score(tiny_model, table, folder, swap, timed=False)
        return found[swap]

    return of


@pytest.mark.parametrize(("swap", "stop"), [("off", 4), ("all", 4), ("all", 15), ("40%", 15), ("auto", 15)])
@pytest.mark.parametrize("timed_first", [True, False], ids=["deadline-first", "deadline-second"])
def test_a_stopped_run_goes_on_the_other_way_and_reads_no_row_again(
    tiny_model: Path,
    table: Path,
    undisturbed: Undisturbed,
    tmp_path: Path,
    swap: str,
    timed_first: bool,
    stop: int,
) -> None:
    whole, expected = undisturbed(swap)
    read = Counter[bytes]()
    with pytest.raises(RunInterrupted, match="what is finished is kept"):
        score(tiny_model, table, tmp_path, swap, timed_first, stop, read)
    assert 0 < read.total() < expected.total()
    assert not (tmp_path / "p.csv").exists()
    score(tiny_model, table, tmp_path, swap, not timed_first, read=read)
    assert read == expected
    assert (tmp_path / "p.csv").read_bytes() == whole.read_bytes()


def test_shards_cut_near_a_deadline_count_without_one(
    tiny_model: Path, table: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    output, expected = undisturbed("off")
    read = Counter[bytes]()
    with pytest.raises(RunInterrupted):
        score(tiny_model, table, tmp_path, "off", timed=True, stop=3, read=read)
    # what a session near its deadline leaves: rows of several planned shards, at the full budget and at a smaller one
    whole = pd.read_csv(output)
    numbers = whole[NUMBERS[:3]].to_numpy()
    with RunFolder(tmp_path / "p.csv.parts") as folder:
        known = {row for _, _, shard, _ in folder.shards() for row in shard.rows.tolist()}
        left = [row for row in range(len(whole)) if row not in known]
        for budget, rows in ((400, left[5:40:3]), (320, left[:4])):
            part = Shard(np.array(rows, np.int32), np.zeros(len(rows), np.bool_), 0)
            folder.write_shard(f"late{budget}", 7, part, numbers[rows] if budget == 400 else numbers[rows] - 1)
    score(tiny_model, table, tmp_path, "off", timed=False, read=read)
    assert expected.total() - read.total() == len(left[5:40:3])
    assert (tmp_path / "p.csv").read_bytes() == output.read_bytes()


def test_a_deadline_at_infinity_hands_out_planned_shards_in_order() -> None:
    lengths = np.arange(40, 0, -1).astype(np.int32)
    pacer = Pacer(lengths, lambda n: n.astype(np.float64), 50, 10, 1, math.inf, 1.0, slow=1e-9)
    rows = np.arange(40)
    shards = [Shard(part.astype(np.int32), np.zeros(10, np.bool_), 0) for part in np.split(rows[:30], 3)]
    pacer.begin(rows, list(enumerate(shards)), 30, False)
    steps: list[Read] = []
    while isinstance(step := pacer.next(1e9), Read):  # none is finished meanwhile
        steps.append(step)
    assert [step.number for step in steps] == [0, 1, 2, *[None] * (len(steps) - 3)]
    assert len(steps) > 4
    assert np.concatenate([step.rows for step in steps]).tolist() == rows.tolist()
    assert not any(step.probe for step in steps)
    assert pacer.budget_now == 50
