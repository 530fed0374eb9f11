"""What `judge ensemble` writes and prints, and what it refuses to overwrite."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from judge.cli.ensemble import run_ensemble
from judge.errors import JudgeError
from judge.evaluation.blend import blend
from judge.evaluation.members import joint_flags, read_members
from judge.evaluation.settings import EnsembleSettings
from judge.predictions.file import read_predictions
from judge.predictions.submission import SubmissionOptions
from judge.tables.comparison import Flag
from tests.kit.blended_judges import QUICK, drawn, files, read_frame, write


def test_the_order_of_rows_in_files_changes_nothing(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    one = list(run_ensemble(members, table, tmp_path / "one.parquet", QUICK, as_json=True))
    shuffled = read_frame(members[1]).sample(frac=1, random_state=1)
    shuffled.to_parquet(members[1], index=False)
    two = list(run_ensemble(members, table, tmp_path / "two.parquet", QUICK, as_json=True))
    assert one == two
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_the_output_has_the_first_files_order_or_the_tables(tmp_path: Path) -> None:
    table, members = files(tmp_path, rows=12)
    read_frame(members[0])[::-1].to_parquet(members[0], index=False)
    first = read_frame(members[0])["id"].tolist()
    list(run_ensemble(members, None, tmp_path / "out.parquet", QUICK))
    out = read_frame(tmp_path / "out.parquet")
    assert out["id"].tolist() == first
    assert out.dtypes["id"] == np.int64
    list(run_ensemble(members, table, tmp_path / "out2.parquet", EnsembleSettings(weights=(0.5, 0.5), resamples=100)))
    by_table = read_frame(tmp_path / "out2.parquet")
    assert by_table["id"].tolist() == pd.read_csv(table)["id"].tolist() == first[::-1]
    pd.testing.assert_frame_equal(by_table, out[::-1].reset_index(drop=True))


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    for name in ("out.parquet", "out.csv"):
        lines = list(run_ensemble(members, table, tmp_path / name, QUICK))
        assert lines[-1] == f"wrote {tmp_path / name}"
        stored = read_predictions(tmp_path / name)
        record = json.loads((tmp_path / f"{name}.run.json").read_text())
        weights = [m["weight"] for m in record["members"]]
        both = read_members(members)
        np.testing.assert_array_equal(stored.p, blend(np.stack([m.p for m in both]), weights))
        assert [m["name"] for m in record["members"]] == ["x.parquet", "y.parquet"]
        assert record["members"][1]["sha256"] == hashlib.sha256(members[1].read_bytes()).hexdigest()
        assert record["table"] == hashlib.sha256(table.read_bytes()).hexdigest()
        assert record["measured"]["blend"]["log_loss"]["value"] > 0
        assert record["version"]


def test_flags_are_those_of_all_members(tmp_path: Path) -> None:
    p, _ = drawn(0, 2, 4)
    p[0, 1:3] = p[1, 2] = 1 / 3
    one = write(tmp_path / "x.parquet", range(4), p[0], ["identical", "not_scored", "not_scored", ""])
    two = write(tmp_path / "y.parquet", range(4), p[1], ["trained_on", "", "not_scored", ""])
    list(run_ensemble([one, two], None, tmp_path / "out.parquet", QUICK))
    out = read_frame(tmp_path / "out.parquet")
    assert out["flags"].tolist() == ["identical,trained_on", "", "not_scored", ""]
    values = out[["p_a", "p_b", "p_tie"]].to_numpy()
    np.testing.assert_allclose(values[1], p[1, 1], atol=1e-12)
    np.testing.assert_allclose(values[2], 1 / 3, rtol=1e-12)
    assert joint_flags(read_members([one, two]))[0] == Flag.IDENTICAL | Flag.TRAINED_ON


def test_a_submission_follows_the_sample(tmp_path: Path) -> None:
    _, members = files(tmp_path, rows=6)
    sample = tmp_path / "sample.csv"
    pd.DataFrame({"id": range(105, 99, -1), "winner": "model_a"}).to_csv(sample, index=False)
    wanted = SubmissionOptions(tmp_path / "sub.csv", sample)
    list(run_ensemble(members, None, tmp_path / "out.parquet", QUICK, wanted))
    out, written = read_frame(tmp_path / "out.parquet"), pd.read_csv(tmp_path / "sub.csv")
    assert written["id"].tolist() == list(range(105, 99, -1))
    expected = np.where(out["p_b"] > out["p_a"], "model_b", "model_a")[::-1]
    assert written["winner"].tolist() == expected.tolist()


def test_without_a_table_nothing_is_measured_and_the_output_says_so(tmp_path: Path) -> None:
    _, members = files(tmp_path, noise=(0.5, 1.0, 2.0))
    lines = list(run_ensemble(members, None, tmp_path / "out.parquet", QUICK))
    assert lines == [
        "x.parquet  weight 0.3333",
        "y.parquet  weight 0.3333",
        "z.parquet  weight 0.3333",
        "60 rows; nothing was measured: give --table with labels",
        f"wrote {tmp_path / 'out.parquet'}",
    ]


def test_what_was_measured_is_printed(tmp_path: Path) -> None:
    table, members = files(tmp_path, rows=40)
    frame = pd.read_csv(table)
    frame.loc[:4, "winner"] = ""
    frame.to_csv(table, index=False)
    lines = list(run_ensemble(members, table, None, QUICK))
    assert lines[0] == "t.csv, 35 rows in 35 prompt groups; left out: 5 without a label"
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "x.parquet",
        "y.parquet",
        "equal weights",
        "blend, out of fold",
    ]
    assert lines[-1] == "warning: only 35 prompt groups: the intervals are too narrow"
    assert any("better than" in line for line in lines)


def test_no_input_is_overwritten_and_nothing_is_written_after_an_error(tmp_path: Path) -> None:
    table, members = files(tmp_path)
    (tmp_path / "link.parquet").hardlink_to(members[1])
    before = {path: path.read_bytes() for path in (table, *members)}
    for output in (members[1], tmp_path / "link.parquet", tmp_path / "." / members[0].name):
        with pytest.raises(JudgeError, match="is to be written, but is also"):
            list(run_ensemble(members, table, output, QUICK))
    with pytest.raises(JudgeError, match="is to be written, but is also"):
        list(run_ensemble(members, table, tmp_path / "o.csv", QUICK, SubmissionOptions(tmp_path / "o.csv")))
    table.write_text(table.read_text().replace("Question", "[1]", 1))
    read_frame(members[1])[:5].to_parquet(tmp_path / "short.parquet", index=False)
    with pytest.raises(JudgeError):
        list(run_ensemble([members[0], tmp_path / "short.parquet"], None, tmp_path / "new.parquet", QUICK))
    assert {path: path.read_bytes() for path in members} == {path: before[path] for path in members}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "link.parquet",
        "short.parquet",
        "t.csv",
        "x.parquet",
        "y.parquet",
    ]


def test_nothing_is_written_where_one_of_the_outputs_cannot_be() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, closed = Path(name), Path(name) / "closed"
        closed.mkdir(mode=0o555)
        folder.chmod(0o777)
        _, members = files(folder)
        wanted = SubmissionOptions(closed / "sub.csv")
        user = os.geteuid()
        try:
            if user == 0:  # root may write everywhere
                os.seteuid(65534)
            with pytest.raises(JudgeError) as caught:
                list(run_ensemble(members, None, folder / "out.parquet", QUICK, wanted))
        finally:
            os.seteuid(user)
        assert str(caught.value) == f"{closed / 'sub.csv'}: cannot be written, its folder may not be written to"
        assert not (folder / "out.parquet").exists()
