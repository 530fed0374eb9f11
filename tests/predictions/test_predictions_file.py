from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judge.errors import JudgeError
from judge.predictions.file import read_predictions
from judge.predictions.predictions import Predictions, predictions_table, write_predictions
from judge.runs.prepared import _ROW, Prepared
from judge.tables.comparison import Flag

HEADER = "id,p_a,p_b,p_tie\n"
GOOD = HEADER + "7,0.5,0.25,0.25\n007,0.1,0.2,0.7\n"


def csv(folder: Path, text: str | bytes, name: str = "p.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "p.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def error_of(path: Path) -> str:
    with pytest.raises(JudgeError) as caught:
        read_predictions(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_scoring_writes_is_read_back_exactly(tmp_path: Path, suffix: str) -> None:
    rows = np.zeros(3, dtype=_ROW)
    rows["flags"] = [0, int(Flag.IDENTICAL | Flag.TRAINED_ON), int(Flag.TRAINED_PROMPT)]
    pq.write_table(pa.table({"id": ["a", "NA", "007"]}), tmp_path / "ids.parquet")
    first = np.log(np.array([[0.1, 0.2, 0.3], [0.3, 1 / 7, 0.1], [np.nan, np.nan, np.nan]]))
    second = np.log(np.array([[0.2, 0.2, 0.1], [np.nan, np.nan, np.nan], [np.nan, np.nan, np.nan]]))
    starts = np.zeros(3, dtype=np.int64)
    prepared = Prepared(tmp_path, rows, both_orders=True, counts={}, _starts=starts)
    predictions = Predictions(prepared, first, second, has_mass=True, seconds=0.0, tokens=0)
    path = tmp_path / f"p{suffix}"
    write_predictions(path, predictions_table(predictions))
    stored = read_predictions(path)
    assert (stored.name, stored.kind, stored.ids) == (f"p{suffix}", "predictions", ["a", "NA", "007"])
    assert stored.p.tolist() == predictions.p.tolist()
    assert stored.flags is not None
    assert stored.flags.tolist() == predictions.flags.tolist()
    assert stored.flags.tolist() == [0, 32 | 256, 512 | 128]
    assert stored.verdict_mass is not None
    assert stored.verdict_mass[:2] == pytest.approx([0.6, 0.4 + 1 / 7])
    assert np.isnan(stored.verdict_mass[2])


def test_ids_of_a_csv_stay_the_text_that_they_are(tmp_path: Path) -> None:
    stored = read_predictions(csv(tmp_path, GOOD))
    assert stored.ids == ["7", "007"]
    assert stored.p.tolist() == [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]
    assert stored.flags is None
    assert stored.verdict_mass is None


def test_a_submission_is_read_as_one(tmp_path: Path) -> None:
    stored = read_predictions(csv(tmp_path, "winner_tie,id,winner_model_b,winner_model_a\n0.7,1,0.2,0.1\n"))
    assert (stored.kind, stored.ids, stored.p.tolist()) == ("submission", ["1"], [[0.1, 0.2, 0.7]])


def test_predictions_with_labels_beside_them_are_predictions(tmp_path: Path) -> None:
    text = "id,p_a,p_b,p_tie,winner_model_a,winner_model_b,winner_tie\n1,0.5,0.25,0.25,1,0,0\n"
    stored = read_predictions(csv(tmp_path, text))
    assert (stored.kind, stored.p.tolist()) == ("predictions", [[0.5, 0.25, 0.25]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_short_floats_may_miss_1_by_their_rounding(tmp_path: Path, dtype: type[np.floating[Any]]) -> None:
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 2000).astype(dtype)
    columns = {name: pa.array(p[:, i]) for i, name in enumerate(("p_a", "p_b", "p_tie"))}
    stored = read_predictions(parquet(tmp_path, id=list(range(2000)), **columns))
    assert stored.p.dtype == np.float64
    assert np.array_equal(stored.p, p.astype(np.float64))


def test_long_floats_may_not(tmp_path: Path) -> None:
    path = parquet(tmp_path, id=[5, 6, 7], p_a=[0.5, 0.5, 0.5], p_b=[0.25, 0.2501, 0.3], p_tie=[0.25, 0.25, 0.25])
    assert error_of(path) == (
        "p.parquet: row 2 (id 6): p_a, p_b, p_tie sum to 1.0001, expected 1 (and 1 more such rows)"
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("nan", "missing, NaN, infinite or not a number"),
        ("", "missing, NaN, infinite or not a number"),
        ("inf", "missing, NaN, infinite or not a number"),
        ("=1+1", "missing, NaN, infinite or not a number"),
        ("0_2", "missing, NaN, infinite or not a number"),
        ("-0.2", "-0.2"),
    ],
)
def test_what_is_no_probability_is_refused_with_its_place(tmp_path: Path, value: str, found: str) -> None:
    path = csv(tmp_path, GOOD + f"\x1b[2J,0.5,{value},0.7\n")
    assert error_of(path) == f"p.csv: row 3 (id \\x1b[2J), column 'p_b' is {found}, expected a probability"


def test_sums_that_overflow_are_refused(tmp_path: Path) -> None:
    assert error_of(csv(tmp_path, HEADER + "1,1e308,1e308,0\n")).endswith("sum to inf, expected 1")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "p.csv: the file is empty"),
        (HEADER, "p.csv: the file has no rows"),
        (GOOD + "7,1,0,0\n", "p.csv: row 3 (id 7), column 'id' appears twice (first in row 1); keep one of them"),
        (GOOD + " ,1,0,0\n", "p.csv: row 3, column 'id' is missing; every row needs an id"),
        (GOOD + "8,1,0\n", "p.csv: the row that ends in line 4 has 3 fields, the header 4; texts with commas"),
        ("id,p_a,p_b\n1,0.5,0.5\n", "p.csv: no column 'p_tie'; expected predictions (id, p_a, p_b, p_tie) or a"),
        ("id,winner\n1,model_a\n", "p.csv: no column 'p_a', 'p_b', 'p_tie'; expected predictions"),
        ("p_a,p_b,p_tie\n1,0,0\n", "p.csv: no column 'id'; expected predictions"),
        ("id,p_a,p_a,p_b,p_tie\n1,1,0,0,0\n", "p.csv: 2 columns are named 'p_a'; keep one of them"),
        (
            "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n1,p,a,b,1,0,0\n",
            "p.csv: is a table of comparisons; give the predictions that judge score wrote for it",
        ),
        (b"PAR1" + bytes(100), "is named .csv but its content is a Parquet file"),
        (
            "id,p_a,p_b,p_tie,flags\n1,1,0,0,\"identical,trained\"\n",
            "p.csv: row 1 (id 1), column 'flags': unknown flag trained (did you mean 'trained_on'?); the file",
        ),
    ],
)  # fmt: skip
def test_a_csv_that_is_something_else_is_refused(tmp_path: Path, text: str | bytes, error: str) -> None:
    assert error in error_of(csv(tmp_path, text))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"id": [1, None]}, "row 2, column 'id' is missing"),
        ({"id": [1.0, float("nan")]}, "row 2, column 'id' is missing"),
        ({"id": [[1], [2]]}, "row 1, column 'id' is of type list, expected a number or text"),
        ({"id": [True, False]}, "row 1, column 'id' is of type bool, expected a number or text"),
        ({"p_a": ["0.5", "0.5"]}, "column 'p_a' holds string, expected numbers"),
        ({"p_a": [[0.5], [0.5]]}, "column 'p_a' holds list<"),
        ({"p_a": [None, 0.5]}, "row 1 (id 1), column 'p_a' is missing"),
        ({"p_a": [None, None]}, "row 1 (id 1), column 'p_a' is missing"),
        ({"flags": [1, 2]}, "row 1 (id 1), column 'flags' is of type int, expected text"),
        ({"flags": ["", "\x1b[31m"]}, "row 2 (id 2), column 'flags': unknown flag \\x1b[31m; the file was changed"),
    ],
)
def test_a_parquet_file_with_cells_of_another_kind_is_refused(
    tmp_path: Path, change: dict[str, Any], error: str
) -> None:
    columns: dict[str, Any] = {"id": [1, 2], "p_a": [0.5, 0.5], "p_b": [0.25, 0.5], "p_tie": [0.25, 0.0]}
    assert len(read_predictions(parquet(tmp_path, **columns)).ids) == 2
    assert error in error_of(parquet(tmp_path, **(columns | change)))


def test_whole_numbers_and_a_mass_that_nobody_knows_are_fine(tmp_path: Path) -> None:
    path = parquet(tmp_path, id=[1], p_a=[1], p_b=[0], p_tie=[0], verdict_mass=[None], flags=[None])
    stored = read_predictions(path)
    assert stored.p.tolist() == [[1.0, 0.0, 0.0]]
    assert stored.verdict_mass is not None
    assert np.isnan(stored.verdict_mass).all()
    assert stored.flags is not None
    assert stored.flags.tolist() == [0]


def test_broken_and_missing_files_are_refused(tmp_path: Path) -> None:
    good = parquet(tmp_path, id=[1], p_a=[1.0], p_b=[0.0], p_tie=[0.0]).read_bytes()
    (tmp_path / "p.parquet").write_bytes(good[: len(good) // 2])
    assert error_of(tmp_path / "p.parquet").startswith("p.parquet: cannot be read as Parquet (")
    assert error_of(tmp_path / "no.csv").endswith("no.csv: cannot be read (No such file or directory)")
    assert "unknown suffix '.txt'" in error_of(csv(tmp_path, GOOD, "p.txt"))
    assert error_of(csv(tmp_path, '{"id": 1}\n', "p.jsonl")) == "p.jsonl: predictions are .parquet or .csv files"
