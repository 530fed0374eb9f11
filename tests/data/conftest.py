"""`judge data` in a test's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from judge.cli.main import app
from tests.kit.data_commands import Judge


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Run `judge data …` in the test's folder; its exit status and lines. A `JudgeError` is raised as it is."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[str]]:
        done = CliRunner().invoke(app, ["data", *arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output.splitlines()

    return run
