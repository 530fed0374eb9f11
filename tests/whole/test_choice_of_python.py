"""Which Python `make` installs into: requirements/python.sh tried with stand-ins for interpreters."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "requirements" / "python.sh"
BASH = "/bin/bash"


def choose(folder: Path, programs: dict[str, str], python: str = "") -> tuple[int, str, str]:
    """Run the script on a path that holds these programs only; return its status, its output and what it complains of.

    Args:
        programs: what each program answers when it is asked for its version, by name.
        python: the variable PYTHON.
    """
    (folder / "bin").mkdir()
    for name, answer in programs.items():
        program = folder / "bin" / name
        program.write_text(f"#!{BASH}\n{answer}\n", encoding="utf-8")
        program.chmod(0o755)
    environment = {"PATH": str(folder / "bin"), "PYTHON": python}
    done = subprocess.run([BASH, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.replace(f"{folder}/bin/", ""), done.stderr


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
