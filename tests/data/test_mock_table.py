"""Made-up tables are like the given one in length and language, hold every awkward row, and none of its text."""
# ruff: noqa: S311 (repeatable random rows)

from __future__ import annotations

import json
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from random import Random

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from judge.data.mock_awkward import KINDS, kinds_for, place_awkward
from judge.data.mock_shapes import contest_shape
from judge.data.mock_table import mock_table
from judge.data.mock_words import LANGUAGES, made_up_text, symbol_percent, written_in
from judge.errors import JudgeError
from judge.tables.comparison import Comparison, Flag
from judge.tables.language import language_of, script_of
from judge.tables.table import Table
from tests.kit.tiny_tokenizers import STYLES

TEXT = "\n".join(topics.values())  # prose and code, from the documentation that comes with Python
ROWS = 1200
# Two samples of 1,200 from one distribution differ by less than this in 999 of 1,000 cases: 1.95 sqrt(2 / 1200).
KS = 0.08


def source_table(path: Path, rows: int = ROWS) -> Path:
    """Write slices of real prose, and made-up Russian and Chinese, with lengths that belong together."""
    rng, pick = np.random.default_rng(1), Random(1)
    records = []
    for i in range(rows):
        language = ("ru", "zh", "en", "en", "en", "en", "en", "en", "en", "en")[i % 10]
        size, turns = rng.lognormal(6.0, 0.8), 1 if i % 7 else 3

        def text(characters: float, language: str = language) -> str:
            count = max(int(characters), 30)
            if language != "en":
                return made_up_text(pick, count, language, 5)
            start = int(rng.integers(0, len(TEXT) - count))
            return TEXT[start : start + count]

        record: dict[str, object] = {"id": 1000 + i}
        for name, share in (("prompt", 0.3), ("response_a", 1.0), ("response_b", float(rng.lognormal(0, 0.3)))):
            record[name] = json.dumps([text(size * share / turns) for _ in range(turns)], ensure_ascii=False)
        records.append(record | {"winner": ("model_a", "model_b", "tie", "model_a")[i % 4], "secret": "hush"})
    pd.DataFrame(records).to_csv(path, index=False)
    return path


def rows_of(path: Path) -> list[Comparison]:
    return [row for chunk in Table.open(path).chunks() for row in chunk]


def counts_of(path: Path) -> Counter[str]:
    table = Table.open(path)
    for _ in table.chunks():
        pass
    return table.counts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Comparison], list[Comparison]]:
    """The rows of a table, and of one that is made up like it, without awkward rows."""
    folder = tmp_path_factory.mktemp("mock")
    source = source_table(folder / "source.csv")
    mock_table(source, ROWS, folder / "mock.csv", awkward=0)
    return rows_of(source), rows_of(folder / "mock.csv")


def cells(rows: list[Comparison]) -> list[list[str]]:
    return [["\n".join(t or "" for t in turns) for turns in (r.prompt, r.response_a, r.response_b)] for r in rows]


def test_lengths_in_characters_are_distributed_as_in_the_table(
    pair: tuple[list[Comparison], list[Comparison]],
) -> None:
    old, new = (np.array([[len(c) for c in row] for row in cells(rows)]) for rows in pair)
    for column in range(3):
        assert ks_2samp(old[:, column], new[:, column]).statistic < KS
    assert ks_2samp(old.sum(axis=1), new.sum(axis=1)).statistic < KS
    # jointly: what long prompts go with, and how far the responses differ
    assert np.corrcoef(np.log(old.T)) == pytest.approx(np.corrcoef(np.log(new.T)), abs=0.05)
    assert not (old[:, None, 1] == new[None, :50, 1]).all(axis=0).any()


def test_lengths_in_tokens_are_distributed_as_in_the_table(pair: tuple[list[Comparison], list[Comparison]]) -> None:
    tokenizer = STYLES["qwen"]()
    old, new = (
        np.array(
            [sum(len(ids) for ids in tokenizer(row, add_special_tokens=False)["input_ids"]) for row in cells(rows)]
        )
        for rows in pair
    )
    assert ks_2samp(old, new).statistic < KS
    assert new.sum() == pytest.approx(old.sum(), rel=0.05)


def test_turns_and_languages_have_the_shares_of_the_table(pair: tuple[list[Comparison], list[Comparison]]) -> None:
    old_turns, new_turns = (Counter(row.turn_count for row in rows) for rows in pair)
    assert set(new_turns) == set(old_turns) == {1, 3}
    assert new_turns[3] / ROWS == pytest.approx(old_turns[3] / ROWS, abs=0.03)
    scripts = [Counter(script_of(row[1]) for row in cells(rows)) for rows in pair]
    assert set(scripts[1]) == {"latin", "cyrillic", "han"}
    languages = [Counter(language_of(row) for row in rows) for rows in pair]
    for name, code in (("cyrillic", "ru"), ("han", "zh"), ("latin", "en")):
        assert scripts[1][name] / ROWS == pytest.approx(scripts[0][name] / ROWS, abs=0.03)
        assert languages[1][code] / ROWS == pytest.approx(languages[0][code] / ROWS, abs=0.08)


def test_no_sentence_of_the_table_is_in_the_made_up_one(pair: tuple[list[Comparison], list[Comparison]]) -> None:
    made_up = "\n".join(text for row in cells(pair[1]) for text in row)
    english = "\n".join(text for row in cells(pair[0]) for text in row if text.isascii())
    sentences = {s.strip() for s in re.split(r"[.!?:;\n]", english) if len(s.split()) >= 4}
    assert len(sentences) > 1000
    assert [s for s in sentences if s in made_up] == []


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_every_kind_of_awkward_row_is_there_and_readable(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mock.{suffix}"
    lines = mock_table(None, 200, path, seed=3, awkward=0.2)
    counts = counts_of(path)
    flags = (Flag.NULL_TURN, Flag.EMPTY_LIST, Flag.EMPTY_TEXT, Flag.RAGGED, Flag.SURROGATE, Flag.IDENTICAL)
    assert all(counts[str(flag.name).lower()] >= 1 for flag in flags)
    assert counts["bad_cell"] == 0
    for kind in KINDS:
        assert kind.name in lines[1]
    everything = rows_of(path)
    assert [int(row.id) for row in everything] == list(range(1, 201))
    text = "\n".join(text for row in cells(everything) for text in row)
    for one_of in ("<|im_ <|eot_id|> [/INST] <|endoftext|> <end_of_turn>", "\u202e \u200f \u2067 \u061c"):
        assert any(needle in text for needle in one_of.split(" ")), one_of
    assert any(ord(character) >= 0x1D400 for character in text)  # an emoji, or a letter that is none
    assert any(needle in text for needle in ("<script>", "</td>", "\x1b[31m", "{{ turns }}", "%s"))
    assert any(t and t[0] in "=+-@" for row in everything for t in row.prompt)
    assert max(sum(map(len, row)) for row in cells(everything)) >= 60_000
    assert max(row.turn_count for row in everything) == 36


def test_awkward_rows_are_spread_over_all_kinds_and_are_at_most_half() -> None:
    kinds = kinds_for("json", "csv")
    assert len(kinds) == len(KINDS)
    for rows in (1, 2, 7, 30, 40, 5000):
        for share in (0.0, 0.01, 0.5):
            found = Counter(kind.name for kind in place_awkward(Random(rows), rows, share, kinds).values())
            assert found.total() <= rows // 2
            if share and rows >= 2 * len(kinds):
                assert set(found) == {kind.name for kind in kinds}
                limited = {kind.name for kind in kinds if kind.most is not None}
                others = [found[kind.name] for kind in kinds if kind.name not in limited]
                assert max(others) - min(others) <= 1
                assert all(found[name] <= 20 for name in limited)


def test_the_same_seed_gives_the_same_file_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        mock_table(None, 60, tmp_path / f"{name}.csv", seed=seed, labels=True)
    files = {name: (tmp_path / f"{name}.csv").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]


def test_columns_form_and_verdicts_are_those_of_the_table(tmp_path: Path) -> None:
    source = source_table(tmp_path / "source.csv", 120)
    mock_table(source, 400, tmp_path / "mock.csv", labels=True)
    frame = pd.read_csv(tmp_path / "mock.csv")
    assert list(frame) == ["id", "prompt", "response_a", "response_b", "model_a", "model_b", "winner"]
    assert frame["winner"].value_counts(normalize=True)["model_a"] == pytest.approx(0.5, abs=0.08)
    assert "hush" not in (tmp_path / "mock.csv").read_text()
    mock_table(source, 20, tmp_path / "plain.csv")
    assert list(pd.read_csv(tmp_path / "plain.csv")) == ["id", "prompt", "response_a", "response_b"]
    rows = [{"id": "x", "prompt": "Say a word.", "response_a": "Here is a word for you.", "response_b": "No, never."}]
    pd.DataFrame(rows).to_csv(tmp_path / "one.csv", index=False)
    for suffix in ("csv", "parquet", "jsonl"):
        path = tmp_path / f"words.{suffix}"
        mock_table(tmp_path / "one.csv", 80, path)
        assert counts_of(path)["multi_turn"] == counts_of(path)["bad_cell"] == 0
        assert all(len(row.prompt) == 1 for row in rows_of(path))


def test_list_columns_stay_lists_where_the_format_has_them(tmp_path: Path) -> None:
    texts = [["One of them.", None], ["Another one."]]
    frame = pd.DataFrame({"id": [1, 2], "prompt": texts, "response_a": texts, "response_b": texts[::-1]})
    frame.to_parquet(tmp_path / "source.parquet", index=False)
    for suffix in ("parquet", "jsonl", "csv"):
        mock_table(tmp_path / "source.parquet", 60, tmp_path / f"mock.{suffix}")
        assert counts_of(tmp_path / f"mock.{suffix}")["null_turn"] > 20
    assert isinstance(pd.read_parquet(tmp_path / "mock.parquet")["prompt"][0], np.ndarray)
    assert isinstance(json.loads((tmp_path / "mock.jsonl").read_text().splitlines()[0])["prompt"], list)


def test_without_a_table_the_lengths_are_those_published_of_the_contest() -> None:
    pick = Random(0)
    shapes = [contest_shape(pick) for _ in range(30_000)]
    shapes = [shape for shape in shapes if shape.language == "en"]
    totals = [(shape.prompt, shape.response_a, shape.response_b) for shape in shapes]
    tokens = np.array([sum(t.characters for cell in row for t in cell if t) for row in totals]) / 4.2
    assert tokens.mean() == pytest.approx(643, rel=0.03)
    assert np.quantile(tokens, 0.5) == pytest.approx(548, rel=0.03)
    assert np.quantile(tokens, 0.95) == pytest.approx(1528, rel=0.04)
    assert tokens.max() > 11_000
    assert np.mean([len(shape.prompt) == 1 for shape in shapes]) == pytest.approx(0.86, abs=0.01)


def test_a_text_has_its_length_its_script_and_its_share_of_symbols() -> None:
    pick = Random(0)
    for language in LANGUAGES:
        for characters in (0, 1, 2, 17, 400):
            text = made_up_text(pick, characters, language, 5)
            assert len(text) == characters
            assert text == text.strip()
        assert written_in(language, script_of(text)) == language
    for share in (0, 5, 15, 40):
        assert symbol_percent(made_up_text(pick, 5000, "en", share)) == pytest.approx(share, abs=3)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (300, 1200):
        tracemalloc.start()
        mock_table(None, rows, tmp_path / "mock.csv", awkward=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_what_cannot_be_done_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv"
    broken.write_text("id,prompt\n1,x\n")
    for table, rows, name, awkward, words in (
        (None, 0, "a.csv", 0.1, "expected at least 1"),
        (None, 5, "a.csv", 0.9, "between 0 and 0.5"),
        (None, 5, "a.txt", 0.1, "unknown suffix"),
        (broken, 5, "a.csv", 0.1, "no column"),
        (broken, 5, "broken.csv", 0.1, "never overwritten"),
    ):
        with pytest.raises(JudgeError, match=words):
            mock_table(table, rows, tmp_path / name, awkward=awkward)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.csv"]
