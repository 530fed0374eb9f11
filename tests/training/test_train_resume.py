"""Runs that are killed, interrupted or spread over processes come out as if they were not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from judge.models.judge_file import read_judge_file
from judge.training.callbacks import WHOLE, last_checkpoint, read_metrics

pytestmark = pytest.mark.training

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
JUDGE = [sys.executable, "-m", "judge"]


def arguments(base: Path, table: Path, output: Path, *more: str) -> list[str]:
    flags = {
        "model": base,
        "data": table,
        "template": "minimal",
        "holdout": 0.2,
        "batch-size": 4,
        "learning-rate": 1e-3,
        "lora-rank": 4,
        "lora-dropout": 0.1,
        "evaluations": 3,
        "log-every": 1,
    }
    return ["train", "-o", str(output), *(f"--{name}={value}" for name, value in flags.items()), *more]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=300)


def assert_same_bundle(one: Path, two: Path, atol: float) -> None:
    a, b = load_file(one / "adapter_model.safetensors"), load_file(two / "adapter_model.safetensors")
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], atol=atol, err_msg=name)
    first, second = read_judge_file(one), read_judge_file(two)
    assert first is not None
    assert second is not None
    for name, figures in first.metrics.items():
        assert second.metrics[name] == pytest.approx(figures, abs=1e-3)


def test_a_killed_run_resumes_to_the_same_judge(base: Path, table: Path, tmp_path: Path) -> None:
    steps = "--max-steps=90"
    whole = run([*JUDGE, *arguments(base, table, tmp_path / "whole", steps)])
    assert whole.returncode == 0, whole.stderr

    assert (tmp_path / "whole" / "loss.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")

    killed = tmp_path / "killed"
    parts = tmp_path / "killed.parts"
    process = subprocess.Popen(
        [*JUDGE, *arguments(base, table, killed, steps)],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while last_checkpoint(parts / "checkpoints") is None and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = last_checkpoint(parts / "checkpoints")
    assert checkpoint is not None, "it ended before the first checkpoint"
    assert not killed.exists()
    # a checkpoint that was being written when the power went is not gone on from
    broken = parts / "checkpoints" / "checkpoint-9999"
    broken.mkdir()
    (broken / "trainer_state.json").write_text("{")

    again = run([*JUDGE, *arguments(base, table, killed, steps)])
    assert again.returncode == 2
    assert "holds an unfinished run; pass --resume to go on with it, or --restart to drop it" in again.stderr
    other = run([*JUDGE, *arguments(base, table, killed, steps, "--seed=7", "--resume")])
    assert other.returncode == 2
    assert "another seed (0 before, 7 now)" in other.stderr

    resumed = run([*JUDGE, *arguments(base, table, killed, steps, "--resume")])
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming the unfinished run, from {checkpoint.name}" in resumed.stderr
    assert not parts.exists()
    assert_same_bundle(tmp_path / "whole", killed, atol=1e-6)
    seen = [line["step"] for line in read_metrics(killed / "metrics.jsonl") if "loss" in line]
    assert seen == list(range(1, 91)), "each step has one line"
    assert (WHOLE in {path.name for path in killed.rglob("*")}) is False


def test_ctrl_c_keeps_the_run(base: Path, table: Path, tmp_path: Path) -> None:
    output = tmp_path / "stopped"
    command = [*JUDGE, *arguments(base, table, output, "--max-steps=3000")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "stopped.parts" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"loss"' in metrics.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "stopped; the run is kept in" in errors
    assert "Traceback" not in errors
    assert last_checkpoint(tmp_path / "stopped.parts" / "checkpoints") is not None


def test_there_must_be_something_to_resume(base: Path, table: Path, tmp_path: Path) -> None:
    done = run([*JUDGE, *arguments(base, table, tmp_path / "none", "--resume")])
    assert done.returncode == 2
    assert "there is no unfinished run to resume" in done.stderr


def test_two_processes_learn_what_one_learns(base: Path, table: Path, tmp_path: Path) -> None:
    common = ["--lora-dropout=0", "--max-steps=10", "--swap=both", "--device=cpu"]
    one = run([*JUDGE, *arguments(base, table, tmp_path / "one", *common, "--batch-size=8")])
    assert one.returncode == 0, one.stderr
    # on GPUs, `accelerate launch` starts this very launcher; on CPUs it would want MPI
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "judge"]
    two = run([*launch, *arguments(base, table, tmp_path / "two", *common, "--batch-size=4")])
    assert two.returncode == 0, two.stderr
    assert "(4 x 1 x 2 devices)" in two.stderr
    assert_same_bundle(tmp_path / "one", tmp_path / "two", atol=1e-4)
