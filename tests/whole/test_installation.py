"""What `make` installs with, and what it says is missing: the scripts tried with stand-ins for programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "requirements" / "python.sh"
BASH = "/bin/bash"


def run(
    script: Path, folder: Path, programs: dict[str, str], *arguments: str, python: str = ""
) -> tuple[int, str, str]:
    """Run a script on a path that holds these programs only; return its status, its output and its complaint.

    Args:
        programs: a line of shell for each program, by name.
        python: the variable PYTHON.
    """
    (folder / "bin").mkdir()
    for name, line in programs.items():
        program = folder / "bin" / name
        program.write_text(f"#!{BASH}\n{line}\n", encoding="utf-8")
        program.chmod(0o755)
    environment = {"PATH": str(folder / "bin"), "PYTHON": python}
    done = subprocess.run([BASH, script, *arguments], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.replace(f"{folder}/bin/", ""), done.stderr


def choose(folder: Path, programs: dict[str, str], python: str = "") -> tuple[int, str, str]:
    return run(SCRIPT, folder, programs, python=python)


def says(version: str, venv: bool = True) -> str:
    return f"echo '{version} {'with venv' if venv else 'bare'}'"


@pytest.mark.parametrize(
    ("programs", "chosen"),
    [
        ({"python3.11": says("3.11"), "python3.12": says("3.12")}, "python3.11"),
        ({"python3.13": says("3.13"), "python3": says("3.13")}, "python3.13"),
        ({"python3.11": says("3.11", venv=False), "python3.12": says("3.12")}, "python3.12"),
        ({"python3.11": "exit 1", "python3.12": says("3.12")}, "python3.12"),
        ({"python3": says("3.12")}, "python3"),
    ],
)
def test_the_first_supported_python_with_venv_is_taken(tmp_path: Path, programs: dict[str, str], chosen: str) -> None:
    assert choose(tmp_path, programs) == (0, f"{chosen}\n", "")


def test_the_python_that_is_asked_for_comes_first(tmp_path: Path) -> None:
    programs = {"python3.11": says("3.11"), "mine": says("3.13")}
    assert choose(tmp_path, programs, python="mine") == (0, "mine\n", "")


@pytest.mark.parametrize(
    ("programs", "python", "complaint"),
    [
        ({}, "", "no Python 3.11, 3.12 or 3.13 here; run: apt-get install python3 python3-venv"),
        ({"python3.12": says("3.12", venv=False)}, "", "Python 3.12 is here without venv; run: apt-get "),
        ({"python3": says("3.9")}, "", "needs Python 3.11, 3.12 or 3.13, this is 3.9; run: apt-get"),
        ({"python3": says("3.14")}, "", "needs Python 3.11, 3.12 or 3.13, this is 3.14; run: apt-get"),
        ({"python3.11": says("3.11"), "old": says("3.8")}, "old", "needs Python 3.11, 3.12 or 3.13, this is 3.8; "),
        ({"python3.11": says("3.11")}, "gone", "PYTHON=gone does not run here; name another one, or leave it out"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line(tmp_path: Path, programs: dict[str, str], python: str, complaint: str) -> None:
    status, output, said = choose(tmp_path, programs, python)
    assert (status, output) == (2, "")
    assert said.startswith(f"install: {complaint}")
    assert len(said.splitlines()) == 1


def test_a_real_python_answers_the_question(tmp_path: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    status, chosen, said = choose(tmp_path, {f"python{version}": f'exec "{sys.executable}" "$@"'})
    assert (status, chosen, said) == (0, f"python{version}\n", "")


def test_the_package_admits_the_versions_that_are_chosen() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if ":: Python :: 3." in line]
    assert named == ["3.11", "3.12", "3.13"]
    script = SCRIPT.read_text(encoding="utf-8")
    assert all(f'"{version} with venv"' in script for version in named)


# -- what else is missing --------------------------------------------------------------------------------------

KNOWN = {name: f'exec {shutil.which(name)} "$@"' for name in ("bash", "dirname", "sort")}
MACHINE = KNOWN | {"uname": "echo Linux x86_64", "getconf": "echo glibc 2.36"}
GLIBC = "needs glibc 2.31 or newer (Debian 11, Ubuntu 20.04)"
# This Python is chosen, and finds no library and no headers.
ANSWERS = "*find_spec*) echo 3.12 with venv ;; *version_info*) echo 3.12 ;; *sysconfig*) echo /nowhere ;;"
BARE = {"python3.12": f'case "$*" in {ANSWERS} *) exit 1 ;; esac'}
GCC = "vLLM needs gcc and Python's headers on a GPU; run: apt-get install gcc libc6-dev python3.12-dev"


@pytest.mark.parametrize(
    ("device", "programs", "complaint"),
    [
        ("tpu", {}, "DEVICE is cpu or cuda, not tpu"),
        ("cpu", {"uname": "echo Darwin arm64"}, "needs Linux on x86-64, this is Darwin arm64"),
        ("cpu", {}, "no Python 3.11, 3.12 or 3.13 here; run: apt-get install python3 python3-venv"),
        ("cpu", BARE | {"getconf": "echo glibc 2.28"}, f"{GLIBC}, this is glibc 2.28"),
        ("cpu", BARE | {"getconf": "exit 1"}, f"{GLIBC}, this is a system without glibc"),
        ("cpu", BARE, "vLLM's CPU build needs libnuma; run: apt-get install libnuma1"),
        ("cuda", BARE, GCC),
    ],
)  # fmt: skip
def test_what_stops_the_installation_is_one_line(
    tmp_path: Path, device: str, programs: dict[str, str], complaint: str
) -> None:
    (tmp_path / "requirements").mkdir()  # a copy, which has nothing to install
    for name in ("install.sh", "python.sh"):
        shutil.copy(ROOT / "requirements" / name, tmp_path / "requirements")
    status, output, said = run(tmp_path / "requirements" / "install.sh", tmp_path, MACHINE | programs, device)
    assert (status, output, said) == (2, "", f"install: {complaint}\n")
    assert not (tmp_path / ".venv").exists()
