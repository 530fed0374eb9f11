from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.predictions.submission import Findings, Form, check_submission, read_form, write_submission

HEADER = "id,winner_model_a,winner_model_b,winner_tie\n"
P = np.array([[0.5, 0.375, 0.125], [0.2, 0.3, 0.5], [0.25, 0.25, 0.5]])


def written(folder: Path, ids: list[Any], p: NDArray[np.floating[Any]], form: Form | None = None, **more: Any) -> Path:
    path = folder / "submission.csv"
    write_submission(path, ids, p, form, **more)
    return path


def numbers(path: Path) -> NDArray[np.float64]:
    frame = pd.read_csv(path)
    return frame[["winner_model_a", "winner_model_b", "winner_tie"]].to_numpy(dtype=np.float64)


def sample(folder: Path, text: str) -> Form:
    path = folder / "sample.csv"
    path.write_text(text, encoding="utf-8")
    return read_form(path)


def findings(folder: Path, text: str, ids: list[Any]) -> Findings:
    path = folder / "s.csv"
    path.write_text(text, encoding="utf-8")
    found = check_submission(path, ids)
    assert all(line.isprintable() for line in [*found.problems, *found.notes])
    return found


# -- writing -----------------------------------------------------------------------------------------------


def test_without_a_sample_the_contests_columns_and_the_tables_order(tmp_path: Path) -> None:
    path = written(tmp_path, [30, 10, 20], P, floor=0.0)
    assert path.read_text() == HEADER + "30,0.5,0.375,0.125\n10,0.2,0.3,0.5\n20,0.25,0.25,0.5\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["submission.csv"]


def test_a_submission_has_exactly_the_samples_columns_order_and_ids(tmp_path: Path) -> None:
    text = "winner_tie,id,winner_model_b,winner_model_a\n1,20,0,0\n1,30,0,0\n1,10,0,0\n"
    path = written(tmp_path, [30, 10, 20], P, sample(tmp_path, text), floor=0.0)
    assert path.read_text() == (
        "winner_tie,id,winner_model_b,winner_model_a\n0.5,20,0.25,0.25\n0.125,30,0.375,0.5\n0.5,10,0.3,0.2\n"
    )


def test_the_wsdm_form_names_the_more_probable_model(tmp_path: Path) -> None:
    path = written(tmp_path, ["x", "y", "z"], P, sample(tmp_path, "id,winner\nz,model_a\nx,model_a\ny,model_a\n"))
    assert path.read_text() == "id,winner\nz,model_a\nx,model_a\ny,model_b\n"
    path = written(tmp_path, ["x"], P[1:2], sample(tmp_path, "winner,id\nmodel_a,x\n"))
    assert path.read_text() == "winner,id\nmodel_b,x\n"


@pytest.mark.parametrize(
    "ids", [["007", "7", " 7 ", "1e5", "NA"], [2**63 - 1, -5, 0], ['a,"b"', "é\u2028", "x\x00"], [1.5, 2.0]]
)
def test_ids_are_written_as_the_table_has_them_and_pass_the_check(tmp_path: Path, ids: list[Any]) -> None:
    path = written(tmp_path, ids, np.full((len(ids), 3), 1 / 3))
    assert read_form(path).ids == tuple(map(str, ids))
    assert check_submission(path, ids) == Findings(len(ids), [], [])


SHARES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 1e-300, 1e-12, 1 / 3]))
ROWS = st.tuples(SHARES, SHARES, SHARES).filter(lambda row: sum(row) > 1e-200)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(ROWS, min_size=1, max_size=5), st.sampled_from([1e-4, 1e-9, 0.01, 1 / 3]), st.sampled_from(["f8", "f4"])
)
@example([(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)], 1e-4, "f8")
def test_written_probabilities_sum_to_1_keep_their_order_and_the_floor(
    rows: list[tuple[float, float, float]], floor: float, dtype: str
) -> None:
    p = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    p = p.astype(dtype)
    ids = list(range(len(rows)))
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), ids, p, floor=floor)
        found = numbers(path)
        assert check_submission(path, ids) == Findings(len(rows), [], [])
    assert found.dtype == np.float64
    assert np.abs(found.sum(axis=1) - 1).max() <= 1e-9
    assert found.min() >= floor
    for before, after in zip(p, found, strict=True):
        assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()
    expected = p.astype(np.float64) * (1 - 3 * floor) + floor
    assert np.abs(found - expected).max() < 1e-6  # mixed with the uniform distribution, not clipped


def test_every_digit_of_a_probability_is_written(tmp_path: Path) -> None:
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 200)
    found = numbers(written(tmp_path, list(range(200)), p, floor=0.0))
    np.testing.assert_array_equal(found, p / p.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ("1\n2\n4\n", "the sample submission has 3 ids and the table 3, for example 4 is not in the table; "),
        ("1\n2\n", "the sample submission has 2 ids and the table 3; "),
        ("1\n2\n3\n4\n", "the sample submission has 4 ids and the table 3, for example 4 is not in the table; "),
        ("1\n2\n2\n", "the sample submission has 3 ids and the table 3, some of the sample's more than once; "),
        ("1\n2\n3.0\n", "the sample submission has 3 ids and the table 3, for example 3.0 is not in the table; "),
        (
            "\x1b[31m\n1\n",
            "the sample submission has 2 ids and the table 3, for example \\x1b[31m is not in the table; ",
        ),
        ("", "the sample submission has 0 ids and the table 3; "),
    ],
)
def test_a_sample_of_another_table_is_refused_and_nothing_is_written(tmp_path: Path, ids: str, error: str) -> None:
    form = sample(tmp_path, HEADER + ids.replace("\n", ",0,0,1\n"))
    with pytest.raises(JudgeError) as caught:
        written(tmp_path, [1, 2, 3], P, form)
    assert str(caught.value) == error + "give the sample that belongs to this table"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sample.csv"]


def test_nothing_is_left_when_writing_fails_half_way(tmp_path: Path) -> None:
    """The file size is limited to 1,000 bytes, as a full disk would, in a process of its own."""
    program = (
        "import resource, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from judge.predictions.submission import write_submission\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_submission(Path(sys.argv[1]), range(500), np.full((500, 3), 1 / 3))\n"
    )
    path = tmp_path / "submission.csv"
    command = [sys.executable, "-B", "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_older_submission_stays_when_writing_fails(tmp_path: Path) -> None:
    path = written(tmp_path, [1, 2, 3], P)
    before = path.read_bytes()
    with pytest.raises(JudgeError):
        written(tmp_path, [1, 2, 3], P, Form(ids=("4", "5", "6")))
    with pytest.raises(ValueError, match="floor must lie between 0 and 1/3"):
        written(tmp_path, [1, 2, 3], P, floor=0.5)
    assert path.read_bytes() == before
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(JudgeError, match=r"folder\.csv: cannot be written \(Is a directory\)"):
        write_submission(tmp_path / "folder.csv", [1, 2, 3], P)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.csv", "submission.csv"]


# -- samples -----------------------------------------------------------------------------------------------


def test_a_form_is_the_samples_columns_and_ids(tmp_path: Path) -> None:
    assert sample(tmp_path, "\ufeff" + HEADER + "007,1,0,0\nNA,1,0,0\n") == Form(ids=("007", "NA"))
    assert sample(tmp_path, '"winner","id"\r\nmodel_a,"5"\r\n') == Form(("winner", "id"), ("5",))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the file is empty"),
        (
            "id\n1\n",
            "unknown kind of submission, columns id; known are id, winner_model_a, winner_model_b, winner_tie and",
        ),
        (HEADER.replace("id", "ID"), "unknown kind of submission, columns ID, winner_model_a"),
        ("," + HEADER, "unknown kind of submission, columns , id, winner_model_a"),
        ("id," + HEADER, "unknown kind of submission, columns id, id, winner_model_a"),
        ("id,winner,winner_tie\n", "unknown kind of submission, columns id, winner, winner_tie"),
        ("id,\x1b[31m\n", "unknown kind of submission, columns id, \\x1b[31m; known are"),
        (HEADER + "1,0\n", "the row that ends in line 2 has 2 fields, the header 4; "),
    ],
)
def test_a_sample_of_no_known_kind_is_one_clear_line(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(JudgeError) as caught:
        sample(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/sample.csv: {error}")
    assert str(caught.value).isprintable()


# -- checking ----------------------------------------------------------------------------------------------

GOOD = HEADER + "1,0.5,0.25,0.25\n2,0.1,0.2,0.7\n3,0.3,0.3,0.4\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace("0.25,0.25", "2.5e-1, 0.25"),
        GOOD.replace("0.3,0.3,0.4", "0.33333334,0.33333334,0.33333334"),
        "id,winner\n1,model_a\n2,model_b\n3,model_a\n",
    ],
)
def test_a_correct_submission_has_no_problems_and_no_notes(tmp_path: Path, text: str) -> None:
    assert findings(tmp_path, text, [1, 2, 3]) == Findings(3, [], [])
    assert findings(tmp_path, text, ["1", "2", "3"]) == Findings(3, [], [])


NUMBER = "1 row with a value that is missing, NaN, infinite or no number: id 2"
SUM = "1 row with probabilities that do not sum to 1: id 2"
OUTSIDE = "1 row with a probability outside 0 to 1: id 2"
WINNER = "1 row with a winner that is not model_a or model_b: id 2"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        # rows
        (GOOD.replace("2,0.1,0.2,0.7\n", ""), ["1 row of the table missing: id 2"]),
        (HEADER, ["3 rows of the table missing: id 1, 2, 3"]),
        (GOOD + "9,0.1,0.2,0.7\n", ["1 row not in the table: id 9"]),
        (GOOD + "1,0.5,0.25,0.25\n", ["1 repeated id 1"]),
        (
            GOOD.replace("2,0.1", "1,0.1").replace("3,0.3", "9\x1b[0m,0.3"),
            [
                "1 repeated id 1",
                "2 rows of the table missing: id 2, 3",
                "1 row not in the table: id 9\\x1b[0m",
            ],
        ),
        (
            GOOD.replace("\n1,", "\n1.0,"),
            ["1 row of the table missing: id 1", "1 row not in the table: id 1.0"],
        ),
        # columns
        (HEADER.replace(",winner_tie", "") + "1,0.5,0.5\n2,0.5,0.5\n3,1,0\n", ["no column winner_tie"]),
        (GOOD.replace("id,", "ID,"), ["columns that do not belong there: ID (was an index saved?)", "no column id"]),
        (
            "".join(f"{i},{line}" for i, line in zip(["", 0, 1, 2], GOOD.splitlines(keepends=True), strict=True)),
            ["columns that do not belong there:  (was an index saved?)"],
        ),
        (
            "id,winner,x\n1,model_a,0\n2,tie,0\n3,model_b,0\n",
            ["columns that do not belong there: x (was an index saved?)", WINNER],
        ),
        ("winner\ntie\n", ["no column id", WINNER.replace("id 2", "id of row 1")]),
        ("id\n1\n2\n3\n", ["no column winner_model_a, winner_model_b, winner_tie"]),
        (GOOD.replace("winner_model_b", "winner_model_a"), ["columns that appear more than once: winner_model_a"]),
        # values
        (GOOD.replace("0.1,0.2,0.7", ",0.2,0.7"), [NUMBER]),
        (GOOD.replace("0.1,0.2,0.7", "nan,0.2,0.7"), [NUMBER]),
        (GOOD.replace("0.1,0.2,0.7", "inf,-inf,0.7"), [NUMBER]),
        (GOOD.replace("0.1,0.2,0.7", "high,0.2,0.7"), [NUMBER]),
        (GOOD.replace("0.1,0.2,0.7", "True,0.2,0.7"), [NUMBER]),
        (GOOD.replace("0.1,0.2,0.7", f"{'9' * 5000},0.2,0.7"), [NUMBER]),
        (GOOD.replace("0.1,0.2,0.7", "-0.1,0.4,0.7"), [OUTSIDE]),
        (GOOD.replace("0.1,0.2,0.7", "2,-1,0"), [OUTSIDE]),
        (GOOD.replace("0.1,0.2,0.7", "0.101,0.2,0.7"), [SUM]),
        (GOOD.replace("0.1,0.2,0.7", "0.099,0.2,0.7"), [SUM]),
        (GOOD.replace("0.1,0.2,0.7", "0,0,0"), [SUM]),
        (GOOD.replace("0.1,0.2,0.7", "1,1,1"), [SUM]),
        # winners
        ("id,winner\n1,model_a\n2,tie\n3,model_b\n", [WINNER]),
        ("id,winner\n1,model_a\n2,Model_A\n3,model_b\n", [WINNER]),
        ("id,winner\n1,model_a\n2,\n3,model_b\n", [WINNER]),
        # several at once
        (
            HEADER + "1,nan,0,0\n2,0.5,0.5,0.5\n",
            ["1 row of the table missing: id 3", NUMBER.replace("id 2", "id 1"), SUM],
        ),
    ],
)
def test_each_defect_is_found(tmp_path: Path, text: str, problems: list[str]) -> None:
    assert findings(tmp_path, text, [1, 2, 3]).problems == problems


def test_many_ids_are_shortened_to_five(tmp_path: Path) -> None:
    found = findings(tmp_path, HEADER + "1,1,1,1\n", list(range(1, 9)))
    assert found.problems[0] == "7 rows of the table missing: id 2, 3, 4, 5, 6 and 2 more"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            HEADER + "2,0.1,0.2,0.7\n1,0.5,0.25,0.25\n3,0.3,0.3,0.4\n",
            ["the rows are in another order than the table's"],
        ),
        (GOOD.replace("0.1,0.2,0.7", "0,0.3,0.7"), ["1 row with a probability of 0, which costs 36 nats if wrong"]),
        (
            "winner_tie,id,winner_model_a,winner_model_b\n1,1,0,0\n0.5,2,0.25,0.25\n0.5,3,0.25,0.25\n",
            [
                "1 row with a probability of 0, which costs 36 nats if wrong",
                "the columns are in another order than id, winner_model_a, winner_model_b, winner_tie",
            ],
        ),
        (
            "winner,id\nmodel_a,3\nmodel_a,1\nmodel_a,2\n",
            [
                "the rows are in another order than the table's",
                "the columns are in another order than id, winner",
            ],
        ),
    ],
)
def test_order_and_exact_zeros_are_notes_and_no_problems(tmp_path: Path, text: str, notes: list[str]) -> None:
    assert findings(tmp_path, text, [1, 2, 3]) == Findings(3, [], notes)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ROWS, min_size=2, max_size=5), st.integers(0, 4), st.integers(0, 2), st.sampled_from([1e-3, -1e-3, 0.1])
)
def test_a_sum_that_is_off_by_a_thousandth_is_found_in_any_row_and_column(
    rows: list[tuple[float, float, float]], which: int, column: int, off: float
) -> None:
    p = np.array(rows) / np.sum(rows, axis=1, keepdims=True) * 0.4 + 0.2
    p[which % len(rows), column] += off
    text = HEADER + "".join(f"{i},{a!r},{b!r},{tie!r}\n" for i, (a, b, tie) in enumerate(p.tolist()))
    with tempfile.TemporaryDirectory() as folder:
        found = findings(Path(folder), text, list(range(len(rows))))
    assert found.problems == [f"1 row with probabilities that do not sum to 1: id {which % len(rows)}"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("s.csv", b"", "the file is empty"),
        ("s.csv", b"\n\n", "the file is empty"),
        ("s.csv", HEADER.encode() + b"1,caf\xe9,0,0\n", "line 2 is not UTF-8 text (byte 0xe9); save the file as UTF-8"),
        ("s.csv", HEADER.encode() + b"1,0.5,0.5,0,\n", "the row that ends in line 2 has 5 fields, the header 4; "),
        ("s.csv", HEADER.encode() + b'1,"0.5,0.5,0\n', "is not valid CSV at line 2 (a quote is never closed); "),
        ("s.zip", b"PK\x03\x04\xff", "line 1 is not UTF-8 text (byte 0xff); "),
        ("s.xz", b"\xfd7zXZ\x00", "line 1 is not UTF-8 text (byte 0xfd); "),
        ("s.tar", b"\xff", "line 1 is not UTF-8 text (byte 0xff); "),
    ],
)
def test_a_file_that_is_no_csv_is_one_clear_line(tmp_path: Path, name: str, content: bytes, error: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JudgeError) as caught:
        check_submission(tmp_path / name, [1])
    assert str(caught.value).startswith(f"{tmp_path}/{name}: {error}")
    assert str(caught.value).isprintable()


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"no\.csv: cannot be read \(No such file or directory\)$"):
        check_submission(tmp_path / "no.csv", [1])
    with pytest.raises(JudgeError, match=r": cannot be read \(Is a directory\)$"):
        check_submission(tmp_path, [1])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["id", "winner", "winner_tie", ",", "\n", '"', "1", "0.5", "nan", "\x00", "\r", HEADER, GOOD])
    )
)
def test_any_text_has_findings_or_is_one_clear_line(pieces: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            findings(Path(folder), "".join(pieces), [1, 2, 3])
        except JudgeError as error:
            assert str(error).isprintable()  # noqa: PT017 - some texts are submissions, so `raises` does not fit
