"""`judge report`: the file it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from judge.cli.report import run_report
from judge.errors import JudgeError
from tests.kit.reported_tables import QUICK, frame_of, probabilities_for


def written(tmp_path: Path, count: int = 40) -> tuple[Path, Path]:
    frame = frame_of(count)
    table, predictions = tmp_path / "table.csv", tmp_path / "predictions.csv"
    frame.to_csv(table, index=False)
    p = probabilities_for(frame, 1.0)
    columns = {f"p_{name}": p[:, k] for k, name in enumerate(("a", "b", "tie"))}
    pd.DataFrame({"id": frame["id"], **columns}).to_csv(predictions, index=False)
    return predictions, table


def test_the_command_writes_one_page_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    predictions, table = written(tmp_path)
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    lines = list(run_report(predictions, table, one, QUICK))
    assert re.fullmatch(rf"wrote {re.escape(str(one))} \(\d+ kB, 40 rows\)", lines[-1])
    assert any(line.startswith("warning: the predictions have no column flags") for line in lines)
    list(run_report(predictions, table, two, QUICK))
    assert one.read_bytes() == two.read_bytes()
    page = one.read_text(encoding="utf-8")
    assert [f'<section id="{name}"' in page for name in ("summary", "bias", "settings", "rows")] == [True] * 4


def test_rows_are_left_out_evenly(tmp_path: Path) -> None:
    predictions, table = written(tmp_path)
    lines = list(run_report(predictions, table, tmp_path / "r.html", QUICK, most_rows=4))
    assert "4 of 40 rows" in lines[-1]
    index = re.search(r'id="index">(.*?)</script>', (tmp_path / "r.html").read_text(), re.DOTALL)
    assert index is not None
    assert json.loads(index[1])["columns"]["id"] == ["row-9", "row-19", "row-29", "row-39"]


def test_an_impossible_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    predictions, table = written(tmp_path)
    link = tmp_path / "link.html"
    link.symlink_to(table)
    before = table.read_bytes()
    for output, words in (
        (tmp_path / "report.pdf", "expected a name that ends in .html"),
        (tmp_path / "nowhere" / "report.html", "its folder does not exist"),
        (link, "is an input"),
    ):
        with pytest.raises(JudgeError, match=re.escape(words)):
            list(run_report(predictions, table, output, QUICK))
    with pytest.raises(JudgeError, match="expected 1 or more"):
        list(run_report(predictions, table, tmp_path / "r.html", QUICK, most_rows=0))
    with pytest.raises(JudgeError, match="no such folder"):
        list(run_report(predictions, table, tmp_path / "r.html", QUICK, model=tmp_path / "nowhere"))
    assert table.read_bytes() == before
    assert not (tmp_path / "r.html").exists()


def test_a_folder_without_permission_is_refused_by_the_name_that_was_given() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, closed = Path(name), Path(name) / "closed"
        closed.mkdir(mode=0o555)
        folder.chmod(0o777)
        predictions, table = written(folder)
        user = os.geteuid()
        try:
            if user == 0:  # root may write everywhere
                os.seteuid(65534)
            with pytest.raises(JudgeError) as caught:
                list(run_report(predictions, table, closed / "r.html", QUICK))
        finally:
            os.seteuid(user)
        assert str(caught.value) == f"{closed / 'r.html'}: cannot be written, its folder may not be written to"
