"""Scoring against a real `vllm serve`: the numbers of the local engine, the record, and how it may go away."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge import Judge
from judge.cli.score import run_score
from judge.deadline import Deadline
from judge.engine.choose import make_pool
from judge.engine.pool import Pool, Work
from judge.engine.protocol import EngineConfig
from judge.engine.server.pool import ServerPool
from judge.errors import JudgeError
from judge.predictions.submission import SubmissionOptions
from judge.scoring.settings import ScoreSettings
from tests.kit.server_doubles import Proxy, endpoint, vllm_serve

FRAME = pd.DataFrame(
    {
        "id": range(12),
        "prompt": [f"Question {i}?" for i in range(12)],
        "response_a": ["Yes. " * (i + 1) for i in range(12)],
        "response_b": ["北京, no." * (12 - i) for i in range(12)],
    }
)
COLUMNS = ["p_a", "p_b", "p_tie"]


def score(model: Path, table: Path, output: Path, deadline: Deadline | None = None, **settings: Any) -> pd.DataFrame:
    run_score(
        model, table, output, ScoreSettings(shard_tokens=1500, max_tokens=400, **settings), SubmissionOptions(),
        cells="auto", on_bad_row="error", restart=False, deadline=deadline,
    )  # fmt: skip
    return pd.read_csv(output)


@dataclass
class HerePool(Pool):
    """The local engine within this process, which has loaded torch already: a process of its own takes five seconds."""

    config: EngineConfig
    say: Callable[[str], None] = print
    failures: int = 0
    ready_at: float | None = 0.0
    engines: int = 1

    def start(self) -> None:
        pass

    def _run(self, work: Work) -> None:
        from judge.engine.transformers import TransformersEngine

        assert work.stop_at == math.inf
        engine = TransformersEngine(self.config)
        for job in work.jobs:
            prompts = [prompt.tolist() for prompt in job.load()]
            work.on_done(job.key, engine.read(prompts, partial(work.on_progress, job.key)))

    def close(self, at_once: bool = False) -> None:
        pass


def read_locally(model: Path, patch: pytest.MonkeyPatch, **settings: Any) -> pd.DataFrame:
    with patch.context() as context:
        context.setattr("judge.scoring.scorer.make_pool", lambda *args: HerePool(make_pool(*args).config))
        with Judge(model, readout="transformers", device="cpu", max_tokens=400, **settings) as judge:
            return judge.score(FRAME)


def once_a_shard_is_there(folder: Path, then: Callable[[], object]) -> threading.Thread:
    """Do something, in a thread, as soon as a run in the folder has read something."""

    def watch() -> None:
        while not list(folder.glob("p.csv.parts/shard-*.npy")):
            time.sleep(0.002)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def record_of(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(output.with_name(output.name + ".run.json").read_text())
    return record


@dataclass
class Served:
    """A running server, its model's folder, and an adapter that it serves too."""

    port: int
    group: int
    model: Path
    adapter: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from tests.kit.tiny_models import save_adapter

    folder = tmp_path_factory.mktemp("served")
    adapter = save_adapter(folder / "adapter", tiny_model)
    flags = ("--served-model-name", "base", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", 32)
    lora = ("--enable-lora", "--lora-modules", f"strict={adapter}")
    with vllm_serve(folder / "server.log", tiny_model, *flags, *lora) as (port, group):
        yield Served(port, group, tiny_model, adapter, folder / "server.log")


@pytest.fixture(scope="module")
def undisturbed(served: Served, table: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return score(served.model, table, tmp_path_factory.mktemp("undisturbed") / "p.csv", server=served.url)


def test_settings_that_a_server_decides_are_refused(tiny_model: Path) -> None:
    changes: dict[str, Any] = {"dtype": "float32", "workers": 2, "readout": "transformers", "engine": "ray"}
    for name, value in changes.items():
        judge = Judge(tiny_model, server="http://127.0.0.1:9", **{name: value})
        with pytest.raises(JudgeError, match=f"the server decides these by itself; leave out --{name}"):
            judge.score(FRAME)


def test_no_server_is_one_clear_line_and_leaves_nothing(tiny_model: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"127.0.0.1:9: no answer \(connection refused\); is vllm serve running there"):
        score(tiny_model, table, tmp_path / "p.csv", server="http://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.engine
def test_a_server_gives_the_numbers_of_the_local_engine(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = read_locally(served.model, monkeypatch, swap="all")
    without_weights = tmp_path / "tokenizer-only"
    shutil.copytree(served.model, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    with Judge(without_weights, server=served.url, swap="all", max_tokens=400) as judge:
        remote = judge.score(FRAME)
    assert list(remote.columns) == list(local.columns)
    numbers = [name for name in local.columns if local[name].dtype.kind == "f"]
    assert set(COLUMNS) < set(numbers)
    for name in numbers:
        np.testing.assert_allclose(remote[name], local[name], atol=2e-5, rtol=2e-4, err_msg=name)
    assert local["p_a"].nunique() == len(FRAME)


@pytest.mark.engine
def test_an_adapter_is_read_by_its_own_name(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    local = read_locally(served.adapter, monkeypatch)
    with Judge(served.adapter, server=served.url, max_tokens=400) as judge:
        remote = judge.score(FRAME)
    np.testing.assert_allclose(remote[COLUMNS], local[COLUMNS], atol=2e-5)
    with Judge(served.model, server=served.url, max_tokens=400) as judge:
        base = judge.score(FRAME)
    assert (base[COLUMNS] - remote[COLUMNS]).abs().max().max() > 0.01


@pytest.mark.engine
def test_the_record_says_that_the_numbers_are_a_servers(served: Served, table: Path, tmp_path: Path) -> None:
    score(served.model, table, tmp_path / "p.csv", server=served.url)
    settings = record_of(tmp_path / "p.csv")["settings"]
    assert settings["engine"] == "server"
    assert settings["server_model"] == "base"
    assert re.fullmatch(r"vllm-\d+\.\d+\.\d+.*-[0-9a-f]{8}", settings["server"])
    assert str(served.port) not in json.dumps(record_of(tmp_path / "p.csv"))


@pytest.mark.engine
def test_a_model_with_another_tokenizer_is_refused(served: Served, table: Path, tmp_path: Path) -> None:
    from tests.kit.tiny_models import save_llama

    other = save_llama(tmp_path / "other", style="gemma")
    with pytest.raises(JudgeError, match=r"its tokenizer is not MODEL's|out-of-vocab"):
        score(other, table, tmp_path / "p.csv", server=served.url)
    with pytest.raises(JudgeError, match="takes 1,024 tokens, and a budget of 1,024 needs one more"):
        ServerPool(endpoint(served.url, max_prompt_tokens=1024))
    assert not list(tmp_path.glob("p.csv*"))


@pytest.mark.engine
def test_answers_that_break_off_leave_no_trace(
    served: Served, table: Path, undisturbed: pd.DataFrame, tmp_path: Path
) -> None:
    with Proxy(served.port, cut=5) as proxy:
        found = score(served.model, table, tmp_path / "p.csv", server=proxy.url, server_requests=2)
        assert proxy.cuts > 0
    np.testing.assert_allclose(found[COLUMNS], undisturbed[COLUMNS], atol=1e-6)
    assert record_of(tmp_path / "p.csv")["result"]["not_scored_rows"] == 0


@pytest.mark.engine
def test_a_server_that_goes_away_loses_nothing(
    served: Served, table: Path, undisturbed: pd.DataFrame, tmp_path: Path
) -> None:
    output, parts = tmp_path / "p.csv", tmp_path / "p.csv.parts"
    with Proxy(served.port) as proxy:
        settings: dict[str, Any] = {"server": proxy.url, "server_requests": 1, "server_patience": 1.0}
        once_a_shard_is_there(tmp_path, proxy.refuse)
        with pytest.raises(JudgeError, match=r"no answer for \d+ s \(connection re.*give the same command again"):
            score(served.model, table, output, **settings)
        kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("shard-*.npy")}
        assert kept
        assert not output.exists()
        proxy.accept()
        found = score(served.model, table, output, **settings)
    np.testing.assert_allclose(found[COLUMNS], undisturbed[COLUMNS], atol=1e-6)
    assert not parts.exists()


@pytest.mark.engine
def test_a_server_that_hangs_is_waited_for(
    served: Served, undisturbed: pd.DataFrame, table: Path, tmp_path: Path
) -> None:
    def hang() -> None:
        os.killpg(served.group, signal.SIGSTOP)
        time.sleep(1.5)
        os.killpg(served.group, signal.SIGCONT)

    thread = once_a_shard_is_there(tmp_path, hang)
    found = score(served.model, table, tmp_path / "p.csv", server=served.url, server_requests=1, server_timeout=0.6)
    thread.join()
    np.testing.assert_allclose(found[COLUMNS], undisturbed[COLUMNS], atol=1e-6)


@pytest.mark.engine
def test_a_server_lost_before_a_deadline_leaves_a_file_and_goes_on(
    served: Served, table: Path, undisturbed: pd.DataFrame, tmp_path: Path
) -> None:
    output = tmp_path / "p.csv"
    with Proxy(served.port) as proxy:
        settings: dict[str, Any] = {"server": proxy.url, "server_requests": 1, "server_patience": 0.5}
        once_a_shard_is_there(tmp_path, proxy.refuse)
        found = score(served.model, table, output, Deadline(time.monotonic() + 600, "10m"), **settings)
        prior = found["flags"].fillna("").str.contains("prior")
        assert 0 < prior.sum() < len(found)
        np.testing.assert_allclose(found[COLUMNS][~prior], undisturbed[COLUMNS][~prior], atol=1e-6)
        assert "no answer for" in record_of(output)["result"]["given_up"]["failed"]
        proxy.accept()
        found = score(served.model, table, output, Deadline(time.monotonic() + 600, "10m"), **settings)
    np.testing.assert_allclose(found[COLUMNS], undisturbed[COLUMNS], atol=1e-6)
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.engine
def test_with_a_deadline_a_server_that_hangs_is_not_waited_for(
    served: Served, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("judge.scoring.reading.RESERVE_SECONDS", 1.5)
    once_a_shard_is_there(tmp_path, lambda: os.killpg(served.group, signal.SIGSTOP))
    deadline = Deadline(time.monotonic() + 5, "5s")
    try:
        found = score(served.model, table, tmp_path / "p.csv", deadline, server=served.url, server_requests=1)
    finally:
        os.killpg(served.group, signal.SIGCONT)
    assert deadline.left() > 0
    assert 0 < found["flags"].fillna("").str.contains("prior").sum() < len(found)
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.engine
def test_a_server_that_is_killed_ends_in_one_clear_line(served: Served, table: Path, tmp_path: Path) -> None:
    """The last test of this file: it kills the server."""

    once_a_shard_is_there(tmp_path, lambda: os.killpg(served.group, signal.SIGKILL))
    with pytest.raises(JudgeError, match=r"no answer for \d+ s \(connection"):
        score(served.model, table, tmp_path / "p.csv", server=served.url, server_requests=1, server_patience=0.5)
    assert list(tmp_path.glob("p.csv.parts/shard-*.npy"))
