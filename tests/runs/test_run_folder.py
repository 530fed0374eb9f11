"""A run's folder: whole files, one user at a time, and no mixing of different runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from judge.errors import JudgeError
from judge.files import whole_file
from judge.runs.folder import Manifest, RunFolder, differences
from judge.runs.shards import Shard

MANIFEST: Manifest = {
    "version": "1",
    "table": "t",
    "model": "m",
    "template": "x",
    "prompt": "p",
    "settings": {"max_tokens": 100, "swap": "off"},
}
SHARD = Shard(np.array([4, 2], np.int32), np.array([False, True]), 10)
LOGPROBS = np.array([[-1.0, -2.0, -3.0], [-0.5, np.nan, -np.inf]])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run") as folder:
        yield folder


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with pytest.raises(RuntimeError), whole_file(path) as temporary:  # noqa: PT012 - the crash is in the middle
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_file(path) as temporary:
        temporary.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    assert path.read_text() == "whole"


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out[1].txt.12345.tmp").write_text("half")
    (tmp_path / ".other.txt.12345.tmp").write_text("somebody else's")
    with whole_file(tmp_path / "out[1].txt") as temporary:
        temporary.write_text("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.txt.12345.tmp", "out[1].txt"]


def kept(run: RunFolder) -> list[tuple[str, int, list[int], list[bool], bytes]]:
    """What the folder's whole shards hold."""
    return [
        (group, number, shard.rows.tolist(), shard.swapped.tolist(), logprobs.tobytes())
        for group, number, shard, logprobs in run.shards()
    ]


def test_a_shard_comes_back_as_it_was_written(run: RunFolder) -> None:
    assert kept(run) == []
    run.write_shard("first", 3, SHARD, LOGPROBS)
    assert kept(run) == [("first", 3, [4, 2], [False, True], LOGPROBS.tobytes())]


def test_a_shard_whose_file_is_broken_is_not_taken(run: RunFolder) -> None:
    run.write_shard("first", 0, SHARD, LOGPROBS)
    (file,) = run.path.glob("shard-*")
    whole = file.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert kept(run) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("table", "t2", "table"),
        ("model", "m2", "model"),
        ("template", "x2", "template"),
        ("prompt", "p2", r"prompt \(template, budget or tokenizer\)"),
        ("settings", {"max_tokens": 200, "swap": "off"}, r"max-tokens \(100 before, 200 now\)"),
        ("settings", {"max_tokens": 100, "swap": "all"}, r"swap \(off before, all now\)"),
    ],
)
def test_another_run_is_refused_by_name_unless_told_to_start_over(
    run: RunFolder, key: str, value: object, words: str
) -> None:
    assert run.begin(MANIFEST, restart=False) is False
    run.write_shard("first", 0, SHARD, LOGPROBS)
    assert run.begin(MANIFEST, restart=False) is True
    with pytest.raises(JudgeError, match=f"holds an unfinished run with another {words}; .* pass --restart"):
        run.begin({**MANIFEST, key: value}, restart=False)
    assert kept(run)
    assert run.begin({**MANIFEST, key: value}, restart=True) is False
    assert not kept(run)


def test_a_changed_budget_is_named_and_not_the_hash_that_it_changes() -> None:
    changed = {**MANIFEST, "prompt": "p2", "settings": {"max_tokens": 50, "swap": "off"}}
    assert differences(MANIFEST, changed) == ["max-tokens (100 before, 50 now)"]
    assert differences(MANIFEST, MANIFEST) == []


def test_two_processes_cannot_work_on_one_output(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="another judge process is working on this output"):
        RunFolder(tmp_path / "run")
    run.close()
    RunFolder(tmp_path / "run").remove()
    assert not (tmp_path / "run").exists()
