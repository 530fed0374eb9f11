"""Tables and predictions that are folders of Parquet files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judge.errors import JudgeError
from judge.predictions.file import read_predictions
from judge.predictions.predictions import check_output, write_predictions
from judge.tables.parquet_folder import parts_of, read_table, write_folder
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows, write_table

ROWS = labelled_rows(30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The thirty rows in three files, written in another order than that of their names, and what Spark leaves."""
    path = tmp_path / "table"
    path.mkdir()
    for name, rows in (("part-2", ROWS[20:]), ("part-0", ROWS[:7]), ("part-1", ROWS[7:20])):
        write_table(path / f"{name}.parquet", rows)
    (path / "_SUCCESS").touch()
    (path / ".part-0.parquet.crc").touch()
    return path


def test_a_folder_is_the_table_that_its_files_are_together(folder: Path, tmp_path: Path) -> None:
    one = Table.open(write_table(tmp_path / "one.parquet", ROWS))
    table = Table.open(folder)
    rows = [row for chunk in table.chunks() for row in chunk]
    assert rows == [row for chunk in one.chunks() for row in chunk]
    assert table.ids() == one.ids()
    assert table.counts == one.counts
    assert table.name == "table"


def test_the_digest_changes_with_any_file_of_the_folder(folder: Path) -> None:
    before = Table.open(folder).digest()
    assert Table.open(folder).digest() == before
    write_table(folder / "part-1.parquet", ROWS[7:19])
    assert Table.open(folder).digest() != before


def message_of(path: Path) -> str:
    with pytest.raises(JudgeError) as caught:
        list(Table.open(path).chunks())
    return str(caught.value)


def test_mistakes_in_a_folder_name_the_file(folder: Path) -> None:
    (folder / "part-9.parquet").write_bytes(b"PAR1 and no more")
    assert message_of(folder).startswith("table/part-9.parquet: cannot be read as Parquet")
    write_table(folder / "part-9.parquet", ROWS[:1])
    assert message_of(folder) == "table: row 31 (id 1), column 'id' appears twice (first in row 1); ids must be unique"
    without = [{k: v for k, v in row.items() if k != "winner_tie"} | {"id": 99} for row in ROWS[:1]]
    write_table(folder / "part-9.parquet", without)
    assert message_of(folder) == (
        "table/part-9.parquet: this file has no column 'winner_tie'; the files of a folder are one table"
    )


def test_folders_in_the_folder_are_not_left_out_in_silence(folder: Path) -> None:
    (folder / "language=de").mkdir()
    write_table(folder / "language=de" / "part-0.parquet", ROWS[:1])
    assert "holds a folder of Parquet files, language=de;" in message_of(folder)


def test_a_folder_without_parquet_files_is_no_table(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.csv", ROWS)
    assert "is a folder, expected a table file" in message_of(tmp_path)


def test_rows_that_are_to_be_copied_come_from_one_file(folder: Path) -> None:
    with pytest.raises(JudgeError, match="is a folder, expected a table file"):
        Table.open(folder, labels="required")


def predictions(rows: int) -> pa.Table:
    return pa.table({"id": list(range(rows)), "p_a": [0.5] * rows, "p_b": [0.25] * rows, "p_tie": [0.25] * rows})


def test_predictions_are_written_as_a_folder_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    check_output(path)
    write_folder(path, predictions(25), part_rows=10)
    assert [part.name for part in parts_of(path)] == [f"part-0000{n}.parquet" for n in range(3)]
    assert [pq.read_metadata(part).num_rows for part in parts_of(path)] == [10, 10, 5]
    assert read_table(path).equals(predictions(25))
    assert len(pd.read_parquet(path)) == 25
    stored = read_predictions(path)
    assert stored.ids == [str(i) for i in range(25)]
    assert stored.p.tolist() == [[0.5, 0.25, 0.25]] * 25


def test_a_folder_of_predictions_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_folder(path, predictions(25), part_rows=10)
    check_output(path)
    write_predictions(path, predictions(4))
    assert read_table(path).num_rows == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_anything_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_folder(path, predictions(4))
    (path / "notes.txt").write_text("mine")
    with pytest.raises(JudgeError, match=r"is a folder that holds notes\.txt"):
        check_output(path)
    with pytest.raises(JudgeError, match=r"is a folder that holds notes\.txt"):
        write_predictions(path, predictions(4))
    assert sorted(entry.name for entry in path.iterdir()) == ["notes.txt", "part-00000.parquet"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(JudgeError, match="is a file, expected a folder"):
        check_output(tmp_path / "out")
