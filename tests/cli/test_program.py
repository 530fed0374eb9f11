"""The program as a whole: its commands and their help, and how each kind of mistake ends."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from judge.cli.commands import first_sentence
from judge.cli.main import COMMANDS, app, loaded, main, subcommands

NAMES = [name for commands in COMMANDS.values() for name in commands]
ALL = [f"{name} {sub}".strip() for name in NAMES for sub in ("", *subcommands(name))]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the program in an empty folder and returns its exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # the program sets it: pytest puts things back as they were

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["judge", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def test_each_command_has_its_line_in_the_help(judge: Run) -> None:
    assert list(COMMANDS) == ["Make a judge", "Score", "Trust it", "Export", "Look after it"]
    for commands in COMMANDS.values():
        for name, line in commands.items():
            assert first_sentence(loaded(name)) == line.help
    status, out, _ = judge("--help")
    assert status == 0
    places = [out.index(f"\n  {name} ") for name in NAMES]
    assert places == sorted(places)
    shown = " ".join(out.split())
    assert [line.help for commands in COMMANDS.values() for line in commands.values() if line.help not in shown] == []


def test_the_help_of_the_program_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom judge.cli.main import app\napp(args=['--help'], standalone_mode=False)\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded_modules = set(done.stdout.splitlines()[-1].split())
    assert "typer" in loaded_modules
    assert loaded_modules.isdisjoint(("numpy", "pandas", "pydantic", "torch", "pyarrow", "rich", "yaml"))


def test_a_command_loads_no_other_command() -> None:
    program = (
        "import sys\nfrom judge.cli.main import app\napp(args=['check', '--help'], standalone_mode=False)\n"
        "print(*sorted(m for m in sys.modules if m.startswith('judge.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    names = [module.removeprefix("judge.cli.") for module in done.stdout.splitlines()[-1].split()]
    assert names == ["check", "commands", "main", "options"]


@pytest.mark.parametrize("command", ALL)
def test_help_has_whole_sentences_within_80_columns(command: str, judge: Run) -> None:
    status, out, err = judge(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: judge {command} ")
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert "…" not in out
    assert [line for line in out.splitlines()[1:] if re.search(r"\w\.\.\.$", line)] == []
    shown = " ".join(out.split())
    assert "--debug Show the traceback of an error." in shown
    click_command: Any = loaded(command.split()[0])
    if " " in command:
        click_command = click_command.commands[command.split()[1]]
    assert str(click_command.help).rstrip().endswith(".")
    for parameter in click_command.params:
        assert str(parameter.help).endswith((".", "]", ")")), parameter.name
        assert " ".join(str(parameter.help).split())[:40] in shown.replace("- ", "-"), parameter.name


def test_the_version_is_printed(judge: Run) -> None:
    assert judge("--version") == (0, "judge 0.1.0\n", "")


def test_nothing_asked_for_shows_the_help_with_status_2(judge: Run) -> None:
    for arguments in ((), ("data",), ("prompt",)):
        status, out, err = judge(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("Usage: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("scor a b", "unknown command 'scor' (did you mean 'score'?)"),
        ("data splt", "unknown command 'splt' (did you mean 'split'?)"),
        ("--verson", "no such option: --verson (Possible options: --version); see judge --help"),
        ("score --swop all", "no such option: --swop (Possible options: --swap); see judge score --help"),
        ("check", "missing argument 'submission'; see judge check --help"),
        ("score a b", "missing option '-o' / '--output'; see judge score --help"),
        (
            "data split t.csv -o x --suffix xls",
            "invalid value for '--suffix': 'xls' is not one of 'csv', 'parquet', 'jsonl'; see judge data split --help",
        ),
        (
            "score a b -o c.csv --workers 0 --batch-tokens 1",
            "--workers=0: input should be greater than or equal to 1; "
            "--batch-tokens=1: input should be greater than or equal to 64",
        ),
        ("quantize a -o b --max-flips -1", "--max-flips=-1.0: input should be greater than or equal to 0"),
        ("train --epochs 0", "no output: give the bundle's folder with -o"),
        ("train -o x --epochs 0 --data t.csv", "judge train: no 'model'; epochs=0.0: input should be greater than 0"),
        ("experiment m t.csv -o x --swap all", "nothing to compare: "),
        ("check gone.csv t.csv", "t.csv: cannot be read"),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_2(arguments: str, line: str, judge: Run) -> None:
    status, out, err = judge(*arguments.split())
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"judge: {line}"), err


@pytest.mark.parametrize("arguments", ["--debug check a b", "check a b --debug", "prompt show gone.yaml --debug"])
def test_debug_shows_the_traceback_wherever_it_stands(arguments: str, judge: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["judge", *arguments.split()])
    with pytest.raises((Exception,)) as caught:
        main()
    assert not isinstance(caught.value, SystemExit)
    assert judge(*arguments.replace("--debug", "").split())[0] == 2


def test_ctrl_c_ends_with_130(judge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("judge.cli.check.read_ids", stopped)
    assert judge("check", "a.csv", "b.csv")[0] == 130


def test_the_program_is_an_app_of_typer_for_its_tests() -> None:
    assert app(args=["--version"], standalone_mode=False) == 0
