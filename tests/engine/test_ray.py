"""Scoring on Ray: a local Ray of two CPU workers, with real engines (transformers on a tiny model, vLLM once)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.deadline import DeadlinePassed
from judge.engine.pool import WORKER_COMMAND, Job
from judge.engine.protocol import EngineConfig
from judge.engine.ray.connection import check_address
from judge.engine.ray.pool import RayPool, cores_each
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.predictions.predictions import Predictions
from judge.runs.folder import RunFolder
from judge.runs.progress import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.parquet_folder import read_table
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows, write_table
from tests.kit.workers import worker

PROMPTS = [np.arange(5, 5 + n, dtype=np.int32) for n in (9, 4, 17)]


def slow(seconds: float) -> tuple[str, ...]:
    return worker("slow", 0, seconds, 0, "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray that is there already, as on a cluster: the pools connect to it and leave it running."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20)
    yield
    assert ray.is_initialized()
    ray.shutdown()


class Watch(Silent):
    """Keeps the notes; calls back when prompts were scored."""

    def __init__(self, on_progress: Callable[[int], None] = lambda _: None) -> None:
        self.notes: list[str] = []
        self.on_progress = on_progress

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        del rate
        if what == "scoring":
            prompts, all_prompts = (int(word) for word in text.split() if word.isdecimal())
            assert prompts <= all_prompts
            assert (done or 0) <= (total or 0)
            self.on_progress(prompts)


def scorer(model: Path, folder: Path, command: Sequence[str] = WORKER_COMMAND, **values: Any) -> Scorer:
    settings = {"readout": "transformers", "max_tokens": 300, "shard_tokens": 700, "engine": "ray", "workers": 2}
    return Scorer(open_model(model), ScoreSettings.model_validate(settings | values), folder, command)


def score(scorer: Scorer, table: Path, folder: Path, events: Silent) -> Predictions:
    with RunFolder(folder) as run, scorer:
        run.begin(scorer.manifest(Table.open(table)), False)
        return scorer.score(Table.open(table), run, events)


def same_bytes(one: Predictions, other: Predictions) -> bool:
    return one.first.tobytes() == other.first.tobytes() and one.second.tobytes() == other.second.tobytes()


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def engines_of(pids: Sequence[int]) -> list[int]:
    """Return the engine processes that these actors started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) in pids:
                found.append(int(stat.parent.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def local(tiny_model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictions:
    """What the local engine gives in both orders."""
    folder = tmp_path_factory.mktemp("local")
    return score(scorer(tiny_model, folder, engine="local", workers=1, swap="all"), table, folder, Silent())


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_every_pass_of_a_run_gives_the_bytes_of_the_local_engine(
    tiny_model: Path, table: Path, local: Predictions, tmp_path: Path
) -> None:
    watch = Watch()
    on_ray = scorer(tiny_model, tmp_path, swap="auto")  # up to eleven passes, through the same engines
    predictions = score(on_ray, table, tmp_path, watch)
    read = ~np.isnan(predictions.second[:, 0])
    assert predictions.first.tobytes() == local.first.tobytes()
    assert read.any()
    assert predictions.second[read].tobytes() == local.second[read].tobytes()
    assert isinstance(on_ray.pool, RayPool)
    pids = [place.pid for place in on_ray.pool.places]
    assert len(pids) == 2
    assert not on_ray.pool.failures
    assert predictions.seconds > 0
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith("prompts")]
    wait_until(lambda: not any(map(alive, pids)))


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_a_worker_killed_in_mid_run_changes_no_byte(
    tiny_model: Path, table: Path, local: Predictions, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(_: int) -> None:
        assert isinstance(on_ray.pool, RayPool)
        if not killed:
            killed.append(on_ray.pool.places[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    watch = Watch(kill)
    on_ray = scorer(tiny_model, tmp_path, slow(0.3), swap="all")
    predictions = score(on_ray, table, tmp_path, watch)
    assert same_bytes(predictions, local)
    assert on_ray.pool.failures == 1
    assert [note for note in watch.notes if "its shard is read again" in note]


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_an_interrupted_run_goes_on_by_shard_and_leaves_no_engine(
    tiny_model: Path, table: Path, local: Predictions, tmp_path: Path
) -> None:
    pids: list[int] = []

    def interrupt(_: int) -> None:
        if len(list(tmp_path.glob("shard-*"))) >= 3:
            assert isinstance(first.pool, RayPool)
            pids.extend(place.pid for place in first.pool.places)
            pids.extend(engines_of(pids))
            raise KeyboardInterrupt

    first = scorer(tiny_model, tmp_path, slow(0.3), swap="all")
    with pytest.raises(KeyboardInterrupt):
        score(first, table, tmp_path, Watch(interrupt))
    assert len(pids) >= 4  # two actors and their engines
    wait_until(lambda: not any(map(alive, pids)))
    assert not list(tmp_path.glob("prompts-*"))
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    # the local engine takes the run up where Ray's left it: the manifest is the same
    predictions = score(scorer(tiny_model, tmp_path, engine="local", swap="all"), table, tmp_path, Silent())
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(tmp_path.glob("shard-*"))) > len(finished)
    assert same_bytes(predictions, local)


def pool_of(model: Path, command: Sequence[str] = WORKER_COMMAND, workers: int = 1) -> RayPool:
    config = EngineConfig(
        model=str(model), readout="transformers", verdict_ids=(10, 11, 12), max_prompt_tokens=64, max_batch_tokens=2048
    )
    return RayPool(config, workers, {}, command=command)


def run(pool: RayPool, **values: Any) -> dict[int, Any]:
    result: dict[int, Any] = {}
    jobs = [Job(7, len(PROMPTS), lambda: PROMPTS)]
    try:
        pool.run(jobs, result.__setitem__, lambda *_: None, **values)
    finally:
        pool.close()
    return result


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_a_deadline_ends_engines_that_are_reading(tiny_model: Path, tmp_path: Path) -> None:
    pool = pool_of(tiny_model, worker("broken", 17, f"pid:{tmp_path}", ""))
    pool.run([Job(0, 2, lambda: PROMPTS[:2])], lambda *_: None, lambda *_: None)  # the engine is ready then
    stop_at = time.monotonic() + 2
    with pytest.raises(DeadlinePassed):
        run(pool, stop_at=stop_at)
    assert time.monotonic() - stop_at < 10
    (engine,) = tmp_path.iterdir()
    wait_until(lambda: not alive(int(engine.name)))


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_progress_inside_a_shard_is_told(tiny_model: Path) -> None:
    told: list[int] = []
    pool = pool_of(tiny_model, worker("slow", 0, 0, 0.1, ""))
    try:
        # 3 seconds of reading, and news every half second
        pool.run([Job(0, 3, lambda: PROMPTS)], lambda *_: told.append(0), lambda _, rows: told.append(rows))
    finally:
        pool.close()
    assert sum(told) == 3
    assert len(told) > 2  # in parts


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_a_model_that_is_not_there_is_one_line_that_names_the_machine(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(JudgeError) as caught:
        run(pool_of(tmp_path / "nowhere"))
    message = str(caught.value)
    assert message.startswith("on ")
    assert f"{tmp_path}/nowhere: there is no such folder here; the model must be at one path on all nodes" in message
    assert "\n" not in message
    assert time.monotonic() - began < 60  # it is not tried again and again


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_an_engine_that_cannot_load_is_one_line_that_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="the engine failed while it loaded the model: ") as caught:
        run(pool_of(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    log = Path(message.rpartition("(its log: ")[2].removesuffix(")"))
    assert "Traceback" in log.read_text()


@pytest.mark.engine
@pytest.mark.usefixtures("cluster")
def test_more_engines_than_cores_are_refused(tiny_model: Path) -> None:
    with pytest.raises(JudgeError, match="--workers=3: the cluster has 2 CPU cores; each engine needs one of its own"):
        run(pool_of(tiny_model, workers=3))


def test_without_ray_there_is_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what Python takes for a package that is not there
    with pytest.raises(JudgeError, match=r'Ray is not installed \(pip install "judge\[ray\]"\)'):
        pool_of(tiny_model).start()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "--ray-address=127.0.0.1:1: no Ray cluster answers there ("),
        ("cluster", "--ray-address=cluster: no Ray cluster answers there ("),
        ("ray://127.0.0.1:10001", "start judge on a machine of the cluster, and give HOST:PORT or auto"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_one_line(address: str, message: str) -> None:
    with pytest.raises(JudgeError) as caught:
        check_address(address)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(0, 64), max_size=6), st.integers(1, 32))
def test_each_engine_gets_as_many_cores_as_its_machine_can_give(nodes: list[int], workers: int) -> None:
    def fits(cores: int) -> bool:
        return sum(node // cores for node in nodes) >= workers

    if sum(nodes) < workers:
        with pytest.raises(JudgeError):
            cores_each(nodes, workers)
    else:
        cores = cores_each(nodes, workers)
        assert fits(cores)
        assert not fits(cores + 1)


@pytest.mark.engine
def test_vllm_on_a_ray_of_its_own_writes_what_the_local_engine_writes(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    rows = labelled_rows(40)
    write_table(tmp_path / "table" / "a.parquet", rows[:25])
    write_table(tmp_path / "table" / "b.parquet", rows[25:])
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "temporary").mkdir()
    for engine in ("ray", "local"):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("score_a_folder.py")), str(tiny_model), engine, engine],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "ray log level" not in done.stderr
        assert "WARNING" not in done.stderr
    assert read_table(tmp_path / "ray").equals(read_table(tmp_path / "local"))
    assert (tmp_path / "ray" / "part-00000.parquet").read_bytes() == (
        tmp_path / "local" / "part-00000.parquet"
    ).read_bytes()
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names == {"table", "temporary", "ray", "ray.run.json", "local", "local.run.json"}
    assert not [entry.name for entry in (tmp_path / "temporary").iterdir() if entry.name.startswith("judge-")]
