"""The offline notebook: its form, and what its cells do when they are run one after the other."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from judge.predictions.submission import Findings, check_submission
from judge.tables.table import read_ids

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOTEBOOK: dict[str, Any] = json.loads((ROOT / "docs" / "offline" / "kaggle.ipynb").read_text(encoding="utf-8"))
CELLS: list[dict[str, Any]] = NOTEBOOK["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
DEMO_TABLE = Path(str(resources.files("judge.demo"))) / "comparisons.csv"


def test_the_notebook_is_small_explained_and_without_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS) >= 12
    assert len(CODE) >= 6
    for before, cell in pairwise(CELLS):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown"  # says what the cell does
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            assert len(cell["source"]) <= 20
            compile("".join(cell["source"]), cell["id"], "exec")  # plain Python, no magics
    assert CODE[0]["metadata"]["tags"] == ["parameters"]


def house(folder: Path, environment: Path) -> Path:
    """A wheelhouse whose packages are installed already, into an environment with this one's programs."""
    house = folder / "house"
    house.mkdir()
    shutil.copy(ROOT / "requirements" / "wheelhouse_install.py", house / "install.py")
    about = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "glibc": "2.5"}
    (house / "wheelhouse.json").write_text(json.dumps(about), encoding="utf-8")
    for name in ("core.txt", "requirements.txt"):
        (house / name).write_text("judge==0.1.0\n", encoding="utf-8")
    environment.mkdir()
    (environment / "bin").symlink_to(Path(sys.executable).parent)
    (environment / ".judge-ready").write_text("judge==0.1.0\n", encoding="utf-8")
    return house


def run_notebook(folder: Path, model: Path, rows: int, **more: object) -> tuple[int, str, Path]:
    """Run the notebook's cells on the demo table's first rows, with no network to reach.

    Returns:
        The exit status, what was said, and the table.
    """
    with DEMO_TABLE.open(newline="", encoding="utf-8") as file:
        records = list(csv.reader(file))[: rows + 1]
    table, sample, output = folder / "test.csv", folder / "sample.csv", folder / "working"
    output.mkdir()
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(records)
    header = "id,winner_model_a,winner_model_b,winner_tie\n"
    sample.write_text(
        header + "".join(f"{r[records[0].index('id')]},1,0,0\n" for r in records[:0:-1]), encoding="utf-8"
    )
    environment = folder / "environment"
    values: dict[str, object] = {
        "WHEELHOUSE": house(folder, environment),
        "MODEL": model,
        "TABLE": table,
        "SAMPLE": sample,
    }
    values |= {"OUTPUT": output, "ENVIRONMENT": environment, **more}
    # what the doctor says is tested elsewhere; it imports all packages, which takes longer than the rest
    cells = ["".join(cell["source"]) for cell in CODE if cell["id"] != "doctor"]
    cells.insert(1, "".join(f"{k} = {'Path' if isinstance(v, Path) else ''}({str(v)!r})\n" for k, v in values.items()))
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join(cells)],
        cwd=output,
        env={**os.environ, **closed, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr, table


def test_the_visible_rows_get_a_valid_submission_and_no_model_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    status, said, table = run_notebook(tmp_path, tiny_model, rows=3)
    assert status == 0, said
    assert "3 visible rows: no model is loaded" in said
    assert "submission.csv: valid, 3 rows" in said
    submission = tmp_path / "working" / "submission.csv"
    assert check_submission(submission, read_ids(table)[::-1]) == Findings(3, [], [])  # in the sample's order
    assert [path.name for path in submission.parent.iterdir()] == ["submission.csv"]


def test_a_wrong_model_folder_shows_in_the_visible_run_already(tmp_path: Path) -> None:
    status, said, _ = run_notebook(tmp_path, tmp_path / "no-model", rows=3)
    assert status == 1
    assert f"judge: {tmp_path / 'no-model'}: no such model folder" in said
    assert "RuntimeError: judge score ended with status 2: see above" in said
    assert not (tmp_path / "working" / "submission.csv").exists()


@pytest.mark.engine
def test_the_hidden_rows_are_scored_before_the_deadline(tiny_model: Path, tmp_path: Path) -> None:
    status, said, table = run_notebook(tmp_path, tiny_model, rows=12, DEADLINE="10m")
    assert status == 0, said
    assert "the hidden table: all rows are scored" in said
    assert "submission.csv: valid, 12 rows" in said
    submission = tmp_path / "working" / "submission.csv"
    assert check_submission(submission, read_ids(table)[::-1]) == Findings(12, [], [])
    assert len(set(submission.read_text(encoding="utf-8").splitlines())) == 13  # no two rows alike: they were read
