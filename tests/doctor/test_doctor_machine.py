"""What `judge doctor` finds in the machine: injected cards, limits, disks and leftover files."""

from __future__ import annotations

import mmap
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from judge.doctor import cards, machine
from judge.hardware.machine import GIB, Gpu
from tests.kit.doctor_findings import P100, T4, notes, problems


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every disk have 100 GB free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, free=10**11))


# cards


class FakeNvml:
    """A driver that gives the answers that it is told to."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus: list[Gpu], free: int = 15 * GIB, cuda: int = 13000, error: str = "") -> None:
        self.gpus, self.free, self.cuda, self.error, self.open = gpus, free, cuda, error, 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own names, here and below
        if self.error:
            raise self.NVMLError(self.error)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlSystemGetDriverVersion": lambda: b"580.65.06",
            "nvmlSystemGetCudaDriverVersion": lambda: self.cuda,
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlDeviceGetUUID": lambda i: f"GPU-{i}",
            "nvmlDeviceGetName": lambda i: self.gpus[i].name,
            "nvmlDeviceGetMemoryInfo": lambda i: SimpleNamespace(total=self.gpus[i].memory, free=self.free),
            "nvmlDeviceGetCudaComputeCapability": lambda i: list(self.gpus[i].capability),
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=1, usedGpuMemory=None)],
        }
        return answers[name]


def test_the_drivers_answers_are_read_and_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml([T4, Gpu("1", "Tesla T4", 15 * GIB, (7, 5))], free=10 * GIB, cuda=12040)
    driver = cards.read_driver(nvml)
    assert (driver.version, driver.cuda, nvml.open) == ("580.65.06", (12, 4), 0)
    assert [card.gpu.device for card in driver.cards] == ["0", "1"]
    assert driver.cards[0] == cards.Card(T4, "GPU-0", 10 * GIB, ((1, 0),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    assert [card.uuid for card in driver.visible()] == ["GPU-1"]


def test_a_machine_without_a_driver_is_no_problem_and_a_broken_driver_is() -> None:
    absent = cards.read_driver(FakeNvml([], error="NVML Shared Library Not Found"))
    assert problems(cards.driver_findings(absent, None)) == []
    assert "engines run on the CPU" in notes(cards.driver_findings(absent, None))[0]
    broken = cards.read_driver(FakeNvml([], error="RM has detected an NVML/RM version mismatch."))
    assert "restart the machine" in problems(cards.driver_findings(broken, None))[0]


def test_a_driver_too_old_for_torch_is_named_with_the_one_to_install() -> None:
    driver = cards.read_driver(FakeNvml([T4], cuda=12080))
    assert problems(cards.driver_findings(driver, "12.6")) == []
    (line,) = problems(cards.driver_findings(driver, "13.0"))
    assert "CUDA up to 12.8, and torch is built for CUDA 13.0; install driver 580 or newer" in line


def test_hidden_cards_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    driver = cards.read_driver(FakeNvml([T4, T4]))
    (line,) = notes(cards.driver_findings(driver, None))
    assert line.startswith("CUDA_VISIBLE_DEVICES=0 hides 1 of 2 cards")


def test_a_t4_is_noted_and_a_card_without_kernels_is_a_problem() -> None:
    (line,) = notes(cards.card_findings([cards.Card(T4, "a", 15 * GIB)]))
    assert "compute capability 7.5, 15.0 GiB, 15.0 GiB free: no bfloat16" in line
    assert "Gemma-2" in line
    (line,) = problems(cards.card_findings([cards.Card(P100, "a", 16 * GIB)]))
    assert line.startswith("card 0: Tesla P100 (compute capability 6.0): vLLM's wheel holds code for 7.5 and up")


def test_memory_that_others_hold_is_a_problem_with_the_share_that_is_left() -> None:
    held = cards.Card(Gpu("0", "A100", 80 * GIB, (8, 0)), "a", 60 * GIB, ((4711, 19 * GIB),))
    (line,) = problems(cards.card_findings([held]))
    assert "20.0 GiB are held (process 4711 19.0 GiB), and an engine wants 90% of the card" in line
    assert line.endswith("pass --gpu-memory-utilization=0.74")
    assert problems(cards.card_findings([held], utilization=0.7)) == []


# the machine


def test_the_containers_share_of_the_cores_is_read(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert machine.cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_quota(tmp_path) is None
    assert machine.cpu_quota(tmp_path / "none") is None
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert "set OMP_NUM_THREADS=1" in notes(machine.core_findings(tmp_path))[0]


def test_a_cpu_without_avx2_is_a_problem() -> None:
    assert problems([machine.instruction_finding(frozenset({"sse4_2"}), False)])
    assert "no AVX-512" in machine.instruction_finding(frozenset({"avx2"}), False).text


@pytest.mark.usefixtures("roomy")
def test_disks_are_checked_where_something_is_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert problems(machine.disk_findings({"output": tmp_path / "not" / "yet"})) == []
    (line,) = problems(machine.disk_findings({"output": tmp_path / "file" / "below"}))
    assert "is a file" in line
    # not even root can write there
    (line,) = problems(machine.disk_findings({"temporary files": Path("/proc/self")}))
    assert "cannot be written" in line
    assert "set TMPDIR" in line
    (line,) = problems(machine.disk_findings({"cache": tmp_path}, {"cache": 10**18}))
    assert "1,000,000,000.0 GB are needed" in line


def test_limits_that_stop_engines_are_found() -> None:
    free = (-1, -1)
    assert problems(machine.limit_findings({"files": (4096, 4096), "address space": free, "processes": free})) == []
    tight = {"files": (256, 4096), "address space": (4 * GIB, free[0]), "processes": (100, 100)}
    found = list(machine.limit_findings(tight))
    assert [line.partition("(")[2][:9] for line in problems(found)] == ["ulimit -n", "ulimit -v"]
    assert "ulimit -u" in notes(found)[0]


def test_little_free_memory_is_a_problem_and_unknown_memory_a_note() -> None:
    assert problems(machine.memory_findings(GIB))
    assert problems(machine.memory_findings(4 * GIB)) == []
    assert notes(machine.memory_findings(None))


def test_a_locale_that_is_not_utf8_is_a_problem() -> None:
    assert problems(machine.encoding_findings("ANSI_X3.4-1968", "utf-8"))
    assert problems(machine.encoding_findings("UTF-8", "utf8")) == []
    assert problems(machine.encoding_findings(None, "utf-8")) == []


def test_shared_memory_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    assert problems(machine.shared_memory_findings(1, tmp_path / "none"))


def test_files_of_ended_engines_are_told_from_those_in_use(tmp_path: Path) -> None:
    shared, temporary = tmp_path / "shm", tmp_path / "tmp"
    shared.mkdir()
    temporary.mkdir()
    (shared / "something_else").write_bytes(bytes(3_000_000))
    (shared / "psm_inuse").write_bytes(bytes(3_000_000))
    with (shared / "psm_inuse").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        (line,) = [finding.line for finding in machine.leftover_findings(shared, temporary)]
        assert line == "no files of ended engines"
        (shared / "psm_left").write_bytes(bytes(2_000_000))
        (line,) = [finding.line for finding in machine.leftover_findings(shared, temporary)]
    assert f"1 file of ended programs in {shared} (2.0 MB of memory, largest psm_left)" in line
    assert (shared / "psm_left").exists()


def test_sockets_of_ended_engines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    name = str(uuid4())
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(name)
    (line,) = [finding.line for finding in machine.leftover_findings(tmp_path / "none", tmp_path)]
    assert line.startswith("1 socket of ended engines")


# without a network


@pytest.mark.usefixtures("roomy")
def test_tokens_in_the_environment_are_noted_but_not_shown(tmp_path: Path) -> None:
    noted = notes(machine.environment_findings({"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "1"}))
    assert len(noted) == 1
    assert "HF_TOKEN" in noted[0]
    assert "hf_secret" not in noted[0]
    assert problems(machine.home_findings({"HOME": str(tmp_path)})) == []
    lines = problems(machine.home_findings({"HOME": "/proc/self"}))
    assert [line.rpartition("; ")[2].split()[1] for line in lines] == ["HF_HOME", "VLLM_CACHE_ROOT"]
