"""A table so small that it is a contest's sample of the hidden one gets a valid submission at once."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from judge.errors import JudgeError
from judge.predictions.submission import (
    Findings,
    Form,
    SubmissionOptions,
    check_submission,
    quick_submission,
    read_form,
)
from judge.tables.table import Table, read_ids

HEADER = "id,prompt,response_a,response_b\n"


def table(folder: Path, rows: int, ids: str = "{}") -> Path:
    path = folder / "test.csv"
    path.write_text(HEADER + "".join(f"{ids.format(i)},p,a,b\n" for i in range(rows)), encoding="utf-8")
    return path


def quick(table: Table, below: int, out: Path, form: Form) -> int | None:
    return quick_submission(table, SubmissionOptions(out, quick_below=below), form)


@pytest.mark.parametrize(("rows", "below"), [(1, 2), (3, 10), (9, 10)])
def test_fewer_rows_get_a_third_for_each_verdict(tmp_path: Path, rows: int, below: int) -> None:
    path, out = table(tmp_path, rows), tmp_path / "submission.csv"
    assert quick(Table.open(path), below, out, Form()) == rows
    assert check_submission(out, read_ids(path)) == Findings(rows, [], [])
    third = repr(1 / 3)
    expected = [f"{i},{third},{third},{third}" for i in range(rows)]
    assert out.read_text(encoding="utf-8").splitlines()[1:] == expected


@pytest.mark.parametrize(("rows", "below"), [(10, 10), (11, 10), (3, 0), (3, 1)])
def test_other_tables_are_left_to_the_model(tmp_path: Path, rows: int, below: int) -> None:
    out = tmp_path / "submission.csv"
    assert quick(Table.open(table(tmp_path, rows)), below, out, Form()) is None
    assert not out.exists()


def test_a_large_table_is_read_no_further_than_it_must(tmp_path: Path) -> None:
    path = table(tmp_path, 5000)
    with path.open("a", encoding="utf-8") as file:
        file.write("0,p,a,b\n")  # a repeated id, far behind
    opened = Table.open(path)
    assert quick(opened, 10, tmp_path / "submission.csv", Form()) is None
    with pytest.raises(JudgeError, match="appears twice"):
        list(opened.chunks())


def test_the_samples_form_and_order_are_kept(tmp_path: Path) -> None:
    sample, out = tmp_path / "sample.csv", tmp_path / "submission.csv"
    sample.write_text("id,winner\nr2,model_b\nr0,model_a\nr1,model_a\n", encoding="utf-8")
    assert quick(Table.open(table(tmp_path, 3, "r{}")), 10, out, read_form(sample)) == 3
    assert out.read_text(encoding="utf-8") == "id,winner\nr2,model_a\nr0,model_a\nr1,model_a\n"


def test_a_table_that_cannot_be_read_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    path, out = table(tmp_path, 3), tmp_path / "submission.csv"
    path.write_text(path.read_text(encoding="utf-8") + "1,p,a,b\n", encoding="utf-8")
    with pytest.raises(JudgeError, match=r"row 4 \(id 1\), column 'id' appears twice"):
        quick(Table.open(path), 10, out, Form())
    with pytest.raises(JudgeError, match="give the sample that belongs to this table"):
        quick(Table.open(table(tmp_path, 3)), 10, out, Form(ids=("5", "6", "7")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.csv"]


def test_mistaken_settings_are_one_line() -> None:
    assert SubmissionOptions().form() == SubmissionOptions(Path("s.csv"), quick_below=10).form() == Form()
    with pytest.raises(JudgeError, match=r"^--quick-below=-1: expected a number of rows, 0 for never$"):
        SubmissionOptions(Path("s.csv"), quick_below=-1).form()
    with pytest.raises(
        JudgeError, match=r"^--quick-below writes a submission and nothing else; pass --submission too$"
    ):
        SubmissionOptions(quick_below=10).form()


def core_packages() -> set[str]:
    """The packages that judge needs without any of its extras, as they are installed here."""
    found: set[str] = set()
    waiting = [Requirement("judge")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and name not in found:
            found.add(name)
            waiting += map(Requirement, metadata.requires(name) or [])
    return found


def test_judges_core_is_enough_for_it(tmp_path: Path) -> None:
    """The offline notebook installs the core alone for the visible rows: all other packages are hidden here."""
    table(tmp_path, 3)
    core = core_packages()
    owners = metadata.packages_distributions()
    hidden = [name for name, found in owners.items() if core.isdisjoint(map(canonicalize_name, found))]
    assert {"torch", "vllm", "ray"} <= set(hidden)
    assert core >= {"numpy", "pandas", "pyarrow"}
    program = (
        f"import sys\nsys.modules |= dict.fromkeys({hidden!r})\n"  # None: importing it is an ImportError
        "from pathlib import Path\n"
        "import judge.cli.main, judge.cli.score\n"
        "from judge.predictions.submission import Form, SubmissionOptions, quick_submission\n"
        "from judge.tables.table import Table\n"
        "options = SubmissionOptions(Path('submission.csv'), quick_below=10)\n"
        "assert quick_submission(Table.open('test.csv'), options, Form()) == 3\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
