"""Tables written again: the same rows and texts, whatever the two formats are."""

from __future__ import annotations

import datetime
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.errors import JudgeError
from judge.tables.comparison import Comparison
from judge.tables.table import Table
from judge.tables.table_files import SUFFIXES, csv_rows
from judge.tables.table_writing import Record, check_output, copy_rows, csv_line, write_records

FORMATS = ["csv", "parquet", "jsonl"]
BOTH = pytest.mark.parametrize(("source", "target"), [(a, b) for a in FORMATS for b in FORMATS])
COLUMNS = ["id", "prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie", "extra, 1"]
ODD = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('\r\n",[]=\x00\u2028\ufeff')), max_size=9
)


def read(path: Path) -> list[Comparison]:
    return [row for chunk in Table.open(path, labels="required").chunks() for row in chunk]


def record(row_id: int, prompt: Any, a: Any = "a", b: Any = "b", extra: Any = "x") -> Record:
    hot = {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}
    return {"id": row_id, "prompt": prompt, "response_a": a, "response_b": b, **hot, "extra, 1": extra}


def as_text(row: Comparison) -> Any:
    return str(row.id), row.prompt, row.response_a, row.response_b, row.label


def kept(count: int, *numbers: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.isin(np.arange(count), numbers)


@given(st.lists(ODD, min_size=2, max_size=5).filter(lambda cells: any(c.strip() for c in cells)))
def test_a_csv_row_is_read_as_it_was_written(cells: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_text(csv_line(["a"] * len(cells)) + csv_line(cells), encoding="utf-8", newline="")
        assert list(csv_rows(path, "t"))[1:] == [cells]


@BOTH
@given(texts=st.lists(st.tuples(*[ODD] * 4), min_size=2, max_size=4))
@settings(max_examples=12, deadline=None)
def test_texts_stay_what_they_are_in_every_format(source: str, target: str, texts: list[tuple[str, ...]]) -> None:
    records = [record(i, json.dumps([p]), json.dumps([a, None]), b, extra) for i, (p, a, b, extra) in enumerate(texts)]
    for r in records:
        r["response_b"] = json.dumps([r["response_b"]])
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / f"a.{source}", Path(folder) / f"b.{target}"
        write_records(first, COLUMNS, records)
        copy_rows(first, kept(len(records), 0), second)
        before, after = read(first), read(second)
        assert len(before) == len(records)
        assert list(map(as_text, after)) == list(map(as_text, before[:1]))
        assert before[0].prompt == (texts[0][0],)
        assert extras(second) == [texts[0][3]]


def extras(path: Path) -> list[Any]:
    if path.suffix == ".csv":
        rows = list(csv_rows(path, "t"))
        return [row[rows[0].index("extra, 1")] for row in rows[1:]]
    if path.suffix == ".parquet":
        found: list[Any] = pq.read_table(path)["extra, 1"].to_pylist()
        return found
    return [json.loads(line)["extra, 1"] for line in path.read_bytes().decode().rstrip("\n").split("\n")]


@BOTH
def test_the_rows_that_were_chosen_are_written_in_their_order(tmp_path: Path, source: str, target: str) -> None:
    first, second = tmp_path / f"a.{source}", tmp_path / f"b.{target}"
    write_records(first, COLUMNS, [record(i, f"p{i}") for i in range(1200)])
    chosen = [0, 3, 511, 512, 513, 1199]
    copy_rows(first, kept(1200, *chosen), second)
    assert [row.prompt for row in read(second)] == [(f"p{i}",) for i in chosen]


@BOTH
def test_lists_and_nulls_give_the_same_comparison(tmp_path: Path, source: str, target: str) -> None:
    first, second = tmp_path / f"a.{source}", tmp_path / f"b.{target}"
    rows = [record(1, ["p", None], ["a"], ["x", "y"], extra=None), record(2, None, [], ["b"], extra=None)]
    write_records(first, COLUMNS, rows)
    copy_rows(first, kept(2, 0, 1), second)
    one, two = read(second)
    assert (one.prompt, one.response_a, one.response_b) == (("p", None), ("a",), ("x", "y"))
    assert (two.prompt, two.response_a) == ((None,), ())


def test_json_lines_are_copied_byte_for_byte(tmp_path: Path) -> None:
    lines = [json.dumps(record(i, f"p{i} \ud83c\udf4d"), indent=None, separators=(", ", ":  ")) for i in range(3)]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    copy_rows(tmp_path / "a.jsonl", kept(3, 0, 2), tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_text(encoding="utf-8") == f"{lines[0]}\n{lines[2]}\n"


def test_parquet_keeps_types_metadata_and_compression(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "id": pa.array([1, 2, 3], pa.int32()),
        "prompt": pa.array(["p", "q", "r"], pa.large_string()),
        "response_a": pa.array([["a"], None, ["c", None]], pa.list_(pa.string())),
        "response_b": pa.array(["a", "b", "c"]).dictionary_encode(),
        "winner": pa.array(["tie"] * 3),
        "when": pa.array([datetime.date(2024, 1, 1)] * 3),
        "price": pa.array([Decimal("1.50")] * 3),
    }
    table = pa.table(columns).replace_schema_metadata({"made": "here"})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    copy_rows(tmp_path / "a.parquet", kept(3, 0, 2), tmp_path / "b.parquet")
    found = pq.read_table(tmp_path / "b.parquet")
    assert found.equals(pq.read_table(tmp_path / "a.parquet").take(pa.array([0, 2])), check_metadata=True)
    assert found.schema.metadata == {b"made": b"here"}
    assert pq.ParquetFile(tmp_path / "b.parquet").metadata.row_group(0).column(0).compression == "ZSTD"
    copy_rows(tmp_path / "a.parquet", kept(3, 1), tmp_path / "b.jsonl")
    line = json.loads((tmp_path / "b.jsonl").read_text())
    assert (line["when"], line["price"], line["response_a"]) == ("2024-01-01", "1.50", None)


def test_pandas_reads_a_copy_of_its_own_parquet_file(tmp_path: Path) -> None:
    frame = pd.DataFrame([record(i, f"p{i}") for i in range(5)])
    frame.to_parquet(tmp_path / "a.parquet")
    copy_rows(tmp_path / "a.parquet", kept(5, 1, 4), tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "b.parquet").reset_index(drop=True), frame.iloc[[1, 4]].reset_index(drop=True)
    )


def test_values_that_json_lacks_are_written_as_what_reads_the_same(tmp_path: Path) -> None:
    nan = record(1, float("nan"), extra=float("nan"))
    pq.write_table(pa.table({c: pa.array([nan[c]]) for c in COLUMNS}), tmp_path / "a.parquet")
    for target in ("csv", "jsonl"):
        copy_rows(tmp_path / "a.parquet", kept(1, 0), tmp_path / f"b.{target}")
        assert read(tmp_path / f"b.{target}")[0].prompt == (None,)
    (tmp_path / "s.jsonl").write_text(json.dumps(record(1, "a\ud83cb", extra="\ud83c")), encoding="utf-8")
    for target in ("csv", "parquet"):
        copy_rows(tmp_path / "s.jsonl", kept(1, 0), tmp_path / f"s.{target}")
        assert read(tmp_path / f"s.{target}")[0].prompt == ("a\ufffdb",)
        assert extras(tmp_path / f"s.{target}") == ["\ufffd"]


def test_what_cannot_be_written_is_one_clear_line_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps(record(1, "p", extra=1)) + "\n" + json.dumps(record(2, "p", extra="x"))
    )
    with pytest.raises(JudgeError) as caught:
        copy_rows(tmp_path / "a.jsonl", kept(2, 0, 1), tmp_path / "b.parquet")
    assert str(caught.value).startswith("a.jsonl: column 'extra, 1' cannot be written as Parquet (")
    assert str(caught.value).endswith("; write .jsonl instead")
    (tmp_path / "d.csv").write_text("id,prompt,response_a,response_b,winner,x,x\n1,p,a,b,tie,1,2\n")
    with pytest.raises(JudgeError, match=r"d.csv: 2 columns are named 'x'; keep one of them"):
        copy_rows(tmp_path / "d.csv", kept(1, 0), tmp_path / "b.jsonl")
    copy_rows(tmp_path / "d.csv", kept(1, 0), tmp_path / "e.csv")  # within a format it does no harm
    assert (tmp_path / "e.csv").read_bytes() == (tmp_path / "d.csv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "d.csv", "e.csv"]


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_table_that_changed_meanwhile_is_an_error(tmp_path: Path, source: str, rows: int) -> None:
    path = tmp_path / f"a.{source}"
    write_records(path, COLUMNS, [record(i, "p") for i in range(rows)])
    with pytest.raises(JudgeError, match=rf"a.{source}: has {rows} rows?, had 2; it changed while it was read"):
        copy_rows(path, kept(2, 0, 1), tmp_path / f"b.{source}")
    assert not (tmp_path / f"b.{source}").exists()


def test_outputs_are_checked_before_any_work(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("x")
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "folder.csv").mkdir()
    for name, reason in [
        ("b.txt", f"unknown suffix '.txt', expected one of {', '.join(SUFFIXES)}"),
        ("no/b.csv", f"there is no folder {tmp_path}/no; make it first"),
        ("folder.csv", "is a folder, expected the name of a table file"),
        ("a.csv", "is one of the inputs, which are never overwritten; give another name"),
        ("link.csv", "is one of the inputs, which are never overwritten; give another name"),
    ]:
        with pytest.raises(JudgeError) as caught:
            check_output(tmp_path / name, [source])
        assert str(caught.value) == f"{tmp_path / name}: {reason}"
    check_output(tmp_path / "b.csv", [source])
