"""The worker pool outlives the deaths of its engines; the engines are real (transformers on a tiny model)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from judge.deadline import DeadlinePassed
from judge.engine.pool import WORKER_COMMAND, Job, WorkerPool, cpu_environments, gpu_environments
from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError
from judge.hardware.machine import Gpu
from tests.kit.workers import worker

PROMPTS = [np.arange(5, 5 + n, dtype=np.int32) for n in (9, 4, 17, 6, 11, 8)]
BAD_LENGTH = 17  # the prompt that the broken workers below fail on

pytestmark = pytest.mark.engine


def make_pool(model: Path, folder: Path, workers: int = 1, command: Sequence[str] = WORKER_COMMAND) -> WorkerPool:
    config = EngineConfig(
        model=str(model), readout="transformers", verdict_ids=(10, 11, 12), max_prompt_tokens=64, max_batch_tokens=2048
    )
    return WorkerPool(config, cpu_environments(workers, [0], 1), folder, command)


def broken(failure: str, length: int = BAD_LENGTH, mark: Path | str = "") -> tuple[str, ...]:
    return worker("broken", length, failure, mark)


def run(pool: WorkerPool, job_size: int = 3) -> NDArray[np.float64]:
    result = np.zeros((len(PROMPTS), 3))
    progress: list[int] = []

    def done(key: int, logprobs: NDArray[np.float64]) -> None:
        result[key * job_size : (key + 1) * job_size] = logprobs

    def job(key: int) -> Job:
        part = PROMPTS[key * job_size : (key + 1) * job_size]
        return Job(key, len(part), lambda: part)

    try:
        pool.run([job(k) for k in range(len(PROMPTS) // job_size)], done, lambda _, rows: progress.append(rows))
    finally:
        pool.close()
    assert sum(progress) >= np.isfinite(result).all(axis=1).sum()
    return result


@pytest.fixture(scope="module")
def expected(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float64]:
    result = run(make_pool(tiny_model, tmp_path_factory.mktemp("pool")))
    assert np.isfinite(result).all()
    assert len(np.unique(result[:, 0])) == len(PROMPTS)
    return result


def test_two_workers_share_the_jobs_and_give_the_same_bytes_as_one(
    tiny_model: Path, tmp_path: Path, expected: NDArray[np.float64]
) -> None:
    # a second a job, so that the later of the two workers finds some left
    pool = make_pool(tiny_model, tmp_path, workers=2, command=broken("sleep:1", length=0))
    assert run(pool, job_size=1).tobytes() == expected.tobytes()
    assert sum(pool.last_jobs_done) == len(PROMPTS)
    assert min(pool.last_jobs_done) >= 1


@pytest.mark.parametrize("failure", ["memory", "killed", "error"])
def test_a_prompt_that_kills_the_engine_gets_nan_and_no_other_does(
    tiny_model: Path, tmp_path: Path, expected: NDArray[np.float64], failure: str
) -> None:
    pool = make_pool(tiny_model, tmp_path, command=broken(failure))
    result = run(pool)
    bad = np.array([len(p) == BAD_LENGTH for p in PROMPTS])
    assert np.isnan(result[bad]).all()
    assert result[~bad].tobytes() == expected[~bad].tobytes()
    assert pool.failures == 3  # the job, the job again, the prompt alone
    # what the kernel kills with SIGKILL has most likely run out of memory
    assert pool.config.max_batch_tokens == (2048 if failure == "error" else 512)


def test_an_engine_that_dies_once_costs_nothing(
    tiny_model: Path, tmp_path: Path, expected: NDArray[np.float64]
) -> None:
    pool = make_pool(tiny_model, tmp_path, command=broken("exit", mark=tmp_path / "died"))
    assert run(pool).tobytes() == expected.tobytes()
    assert pool.failures == 1
    assert pool.last_failure == "the engine process ended with status 7"


def test_memory_that_runs_out_once_changes_the_cache_and_no_number(
    tiny_model: Path, tmp_path: Path, expected: NDArray[np.float64]
) -> None:
    pool = make_pool(tiny_model, tmp_path, command=broken("memory", mark=tmp_path / "died"))
    assert run(pool).tobytes() == expected.tobytes()
    assert pool.failures == 1
    assert pool.config.max_batch_tokens == 2048
    assert pool.config.gpu_memory_utilization == pytest.approx(0.83)


def test_an_engine_that_cannot_load_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    pool = make_pool(tmp_path / "nowhere", tmp_path)
    with pytest.raises(JudgeError, match=r"the engine failed while it loaded the model: .*worker-0\.log"):
        run(pool)


def test_an_engine_that_keeps_failing_ends_the_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("judge.engine.pool.MAX_FAILURES", 3)  # each costs a start
    pool = make_pool(tiny_model, tmp_path, command=broken("error", length=0))
    with pytest.raises(JudgeError, match="the engine failed 3 times in a row: RuntimeError: CUDA error"):
        run(pool)
    assert "RuntimeError: CUDA error" in (tmp_path / "worker-0.log").read_text()


def test_a_run_that_was_broken_off_leaves_nothing_to_the_next_one(
    tiny_model: Path, tmp_path: Path, expected: NDArray[np.float64]
) -> None:
    pool = make_pool(tiny_model, tmp_path)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run([Job(k, 3, lambda: PROMPTS[3:]) for k in range(2)], interrupt, lambda *_: None)
    assert run(pool).tobytes() == expected.tobytes()


@pytest.mark.parametrize("then", ["takes-nothing", "hangs-up"])
def test_an_engine_stuck_in_a_message_does_not_hold_up_a_deadline(tmp_path: Path, then: str) -> None:
    pool = make_pool(tmp_path / "nowhere", tmp_path, command=worker("stuck", then))
    long = [np.full(500_000, 12_345, dtype=np.int32)]  # more than a socket takes
    began = time.monotonic()
    with pytest.raises(DeadlinePassed):
        pool.run([Job(0, 1, lambda: long)], lambda *_: None, lambda *_: None, began + 1)
    assert time.monotonic() - began < 8


def test_workers_die_with_their_parent_even_when_it_is_killed(tiny_model: Path, tmp_path: Path) -> None:
    program = Path(__file__).with_name("run_two_workers.py")  # both sit in a long read when their parent is killed
    environment = {**os.environ, "PYTHONPATH": str(program.parents[2])}
    parent = subprocess.Popen([sys.executable, str(program), str(tiny_model), str(tmp_path)], env=environment)
    deadline = time.monotonic() + 60
    while len(pids := [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert all(_alive(pid) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return status != "Z"


def test_each_gpu_worker_sees_only_its_own_cards() -> None:
    gpus = [Gpu(str(i), "T4", 16 << 30, (7, 5)) for i in range(4)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in gpu_environments(gpus, 4, 1)] == ["0", "1", "2", "3"]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in gpu_environments(gpus, 2, 2)] == ["0,1", "2,3"]


def test_cpu_workers_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    environments = cpu_environments(2, [0, 1, 2, 3], 3)
    assert [e["VLLM_CPU_OMP_THREADS_BIND"] for e in environments] == ["0,1", "2,3"]
    assert {e["VLLM_CPU_KVCACHE_SPACE"] for e in environments} == {"3"}
    assert {e["OMP_NUM_THREADS"] for e in environments} == {"2"}
    assert os.environ.get("VLLM_CPU_OMP_THREADS_BIND") is None  # or the lines above would not hold
