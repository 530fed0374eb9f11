"""Files of the user's working folder are never imported, whatever they are called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import judge.__main__
from judge.__main__ import leave_working_folder
from tests.kit.labelled_tables import labelled_rows, write_table
from tests.kit.tiny_models import save_llama

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRAPS = (
    "quantize prompts datasets trl torch json typing difflib numpy pandas pydantic transformers yaml typer rich "
    "logging dataclasses random tokenizers safetensors accelerate peft pyarrow"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files that end the process of whoever imports them."""
    for name in TRAPS.split():
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('a file of the user was imported: {name}')\n")
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder; judge is found as an installed package would be."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("score model t.csv -o p.csv", "model: no such model folder"),
        ("merge model -o out", "model: no such model folder"),
        ("quantize model -o out", "model: no such model folder"),
        ("drift model model --data t.csv", "model: no such model folder"),
        ("train --model model --data t.csv -o out", "model: no such model folder"),
        ("experiment model model t.csv -o out", "MODEL model is given twice"),
        ("prompt show gone.yaml", "gone.yaml: the template cannot be read"),
        ("doctor --quick --template x", "--template without a model"),
    ],
)
def test_a_command_imports_no_file_of_the_user(arguments: str, line: str, folder: Path) -> None:
    write_table(folder / "t.csv", labelled_rows(3))
    done = run(folder, sys.executable, "-m", "judge", *arguments.split())
    assert "a file of the user" not in done.stderr + done.stdout
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert line in done.stderr


def test_the_console_script_imports_no_file_of_the_user(folder: Path) -> None:
    done = run(folder, str(Path(sys.executable).parent / "judge"), "merge", "model", "-o", "out")
    assert (done.returncode, done.stderr[:36]) == (2, "judge: model: no such model folder; ")


@pytest.mark.engine
def test_scoring_and_its_engine_processes_import_no_file_of_the_user(folder: Path) -> None:
    write_table(folder / "t.csv", labelled_rows(2))
    save_llama(folder / "model")
    score = "score model t.csv -o p.csv --readout transformers --device cpu --max-tokens 512"
    done = run(folder, sys.executable, "-m", "judge", *score.split())
    assert done.returncode == 0, done.stderr
    assert (folder / "p.csv").is_file()


@pytest.mark.engine
def test_training_under_accelerate_imports_no_file_of_the_user(folder: Path) -> None:
    write_table(folder / "t.csv", labelled_rows(12))
    save_llama(folder / "model")
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--cpu", "--num_processes", "1"]
    options = "--model model --data t.csv -o out --max-steps 1 --evaluations 1 --holdout 0.3 --max-tokens 512"
    done = run(folder, *launch, "-m", "judge", "train", *options.split())
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "judge.json").is_file()


def test_a_checkout_that_is_not_installed_stays_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine processes, which leave the working folder out, find judge by PYTHONPATH."""
    home = tmp_path / "checkout"
    (home / "judge").mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setattr(judge.__main__, "__file__", str(home / "judge" / "__main__.py"))
    monkeypatch.setenv("PYTHONPATH", "/other")
    monkeypatch.setattr(sys, "path", [str(home), "/other"])
    leave_working_folder()
    assert sys.path == [str(home), "/other"]
    assert os.environ["PYTHONPATH"] == f"{home}{os.pathsep}/other"
    monkeypatch.setattr(sys, "path", [str(home), "/other", str(home)])
    leave_working_folder()
    assert sys.path == ["/other", str(home)]


def test_a_path_that_does_not_begin_with_the_working_folder_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/other", str(tmp_path)])
    leave_working_folder()
    assert sys.path == ["/other", str(tmp_path)]
