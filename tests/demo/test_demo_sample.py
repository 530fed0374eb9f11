"""The demo's training sample: made from its source, varied, and without a shortcut that would replace judging."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from judge.tables.comparison import Flag
from judge.tables.split import in_order, row_key
from judge.tables.table import Table
from tools.make_demo_training import COLUMNS, DECIDED, SAMPLE, TIES, Entry, make_training, read_source

DEMO = SAMPLE.with_name("comparisons.csv")
FOLDS = 8
WORD = r"\w+|[^\w\s]"  # punctuation marks too

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One comparison of the sample; `label` is 0 (A), 1 (B) or 2 (tie)."""

    kind: str
    prompt: tuple[str, ...]
    a: tuple[str, ...]
    b: tuple[str, ...]
    label: int

    @property
    def better(self) -> tuple[str, ...]:
        return (self.a, self.b)[self.label]

    @property
    def worse(self) -> tuple[str, ...]:
        return (self.b, self.a)[self.label]


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def texts(cell: str) -> tuple[str, ...]:
    return tuple(json.loads(cell))


@cache
def sample() -> tuple[Row, ...]:
    return tuple(
        Row(
            row["kind"],
            texts(row["prompt"]),
            texts(row["response_a"]),
            texts(row["response_b"]),
            [row["winner_model_a"], row["winner_model_b"], row["winner_tie"]].index("1"),
        )
        for row in cells(SAMPLE)
    )


@cache
def source() -> tuple[Entry, ...]:
    return tuple(read_source())


def decided() -> list[Row]:
    return [row for row in sample() if row.label < 2]


def characters(turns: Sequence[str]) -> int:
    return sum(map(len, turns))


def words(turns: Sequence[str]) -> int:
    return sum(len(turn.split()) for turn in turns)


def normalised(turns: Sequence[str]) -> str:
    return " ".join(unicodedata.normalize("NFKC", " ".join(turns)).casefold().split())


# ------------------------------------------------------------------------------------------------ the file


@pytest.mark.slow
def test_the_sample_is_what_the_source_gives(tmp_path: Path) -> None:
    make_training(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == SAMPLE.read_bytes()


def test_the_table_reader_finds_nothing_unusual_but_identical_responses() -> None:
    table = Table.open(SAMPLE)
    rows = [row for chunk in table.chunks() for row in chunk]
    assert len(rows) == len(sample())
    assert [row.label for row in rows] == [row.label for row in sample()]
    flagged = Counter(row.flags for row in rows)
    assert set(flagged) == {Flag(0), Flag.IDENTICAL}
    assert flagged[Flag.IDENTICAL] == TIES["identical"]


def test_columns_are_those_of_the_demo_and_the_kind() -> None:
    with SAMPLE.open(encoding="utf-8") as ours, DEMO.open(encoding="utf-8") as demo:
        assert ours.readline().strip().split(",") == [*demo.readline().strip().split(","), "kind"] == list(COLUMNS)


def test_ids_are_integers_of_their_own() -> None:
    ids = [int(row["id"]) for row in cells(SAMPLE)]
    assert len(set(ids)) == len(ids)
    assert set(ids).isdisjoint(int(row["id"]) for row in cells(DEMO))


def test_labels_are_one_hot_and_ties_are_the_kinds_of_ties() -> None:
    for row in cells(SAMPLE):
        label = [row["winner_model_a"], row["winner_model_b"], row["winner_tie"]]
        assert sorted(label) == ["0", "0", "1"]
        assert (label[2] == "1") == (row["kind"] in TIES)


def test_no_text_of_the_demo_occurs_in_it() -> None:
    """What the demo scores after training must be new."""
    demo_rows = cells(DEMO)
    assert len(demo_rows) == 24
    demo_prompts = {normalised([turn or "" for turn in texts(row["prompt"])]) for row in demo_rows}
    demo_prompts |= {normalised([texts(row["prompt"])[0]]) for row in demo_rows}
    ours = {normalised(row.prompt) for row in sample()} | {normalised(row.prompt[:1]) for row in sample()}
    assert ours.isdisjoint(demo_prompts)


def test_names_of_the_models_say_nothing() -> None:
    for place in ("model_a", "model_b"):
        counts = Counter((row[place], row["winner_tie"], row["winner_model_a"]) for row in cells(SAMPLE))
        for outcome in {key[1:] for key in counts}:
            found = [number for key, number in counts.items() if key[1:] == outcome]
            assert len(found) == 4
            assert max(found) - min(found) <= 3
    assert all(row["model_a"] != row["model_b"] for row in cells(SAMPLE))


# --------------------------------------------------------------------------------------------- the mixture


def test_size_and_number_of_prompts() -> None:
    prompts = Counter(normalised(row.prompt) for row in sample())
    assert len(sample()) == 640
    assert len(prompts) == len(source()) >= 120
    assert set(prompts.values()) == {5}
    assert len({normalised(entry.prompt[:1]) for entry in source()}) == len(source())  # each a group of its own


def test_rows_are_short() -> None:
    total = [words(row.prompt) + words(row.a) + words(row.b) for row in sample()]
    assert max(total) <= 90
    assert 25 <= np.mean(total) <= 50


def test_classes_have_the_wanted_shares() -> None:
    shares = np.bincount([row.label for row in sample()]) / len(sample())
    np.testing.assert_allclose(shares, (0.38, 0.38, 0.24), atol=0.01)


def test_each_kind_of_contrast_has_as_many_wins_of_a_as_of_b() -> None:
    counts = Counter((row.kind, row.label) for row in sample())
    for kind, number in DECIDED.items():
        assert counts[kind, 0] == counts[kind, 1] == number / 2
    for kind, number in TIES.items():
        assert counts[kind, 2] == number
    assert sum(counts.values()) == sum(DECIDED.values()) + sum(TIES.values())


def test_about_a_tenth_is_about_right_and_wrong() -> None:
    share = np.mean([row.kind in ("wrong", "both-wrong") for row in sample()])
    assert 0.08 <= share <= 0.15


def test_prompts_are_of_many_kinds_and_some_other_languages() -> None:
    rows_of = Counter(normalised(row.prompt) for row in sample())
    tasks: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for entry in source():
        tasks[entry.task] += rows_of[normalised(entry.prompt)]
        languages[entry.language] += rows_of[normalised(entry.prompt)]
    assert len(tasks) >= 12
    assert max(tasks.values()) <= 0.2 * len(sample())
    assert 0.06 <= 1 - languages["en"] / len(sample()) <= 0.1
    assert {"de", "fr", "es"} <= set(languages)


def test_some_rows_have_two_turns() -> None:
    assert all(len(row.prompt) == len(row.a) == len(row.b) <= 2 for row in sample())
    assert 0.035 <= np.mean([len(row.prompt) == 2 for row in sample()]) <= 0.065


# ------------------------------------------------------------------------------------------- no short cuts


@pytest.mark.parametrize("size", [characters, words])
def test_longer_is_as_often_better_as_worse(size: Callable[[Sequence[str]], int]) -> None:
    gaps = np.array([size(row.better) - size(row.worse) for row in decided()])
    assert 0.45 <= (gaps > 0).sum() / (gaps != 0).sum() <= 0.55
    for edge in (5, 20, 40) if size is characters else (2, 5, 8):  # large differences say no more than small ones
        assert 0.4 <= (gaps[abs(gaps) > edge] > 0).mean() <= 0.6


def test_longer_is_not_always_the_same_within_a_kind() -> None:
    shares = {}
    for kind in DECIDED:
        gaps = [characters(row.better) - characters(row.worse) for row in decided() if row.kind == kind]
        shares[kind] = np.mean([gap > 0 for gap in gaps])
    rambling = shares.pop("rambling")  # which is long by nature; cut-off answers make up for it
    assert rambling < 0.3
    assert min(shares.values()) >= 0.2
    assert max(shares.values()) <= 0.8


def groups() -> NDArray[np.int64]:
    """Return a number for each row, the same for rows of one prompt."""
    return np.unique([normalised(row.prompt) for row in sample()], return_inverse=True)[1]


def held_out_gain(features: Float, labels: NDArray[np.int64], strength: float = 1.0, times: int = 2) -> float:
    """Return by how much a logistic regression's log loss beats that of the classes' shares, on other prompts.

    Both are measured out of fold, over whole prompts, and averaged over several ways to make the folds.
    """
    classes = int(labels.max()) + 1
    gains = []
    for seed in range(times):
        folds = GroupKFold(FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(features, labels, groups()):
            model = LogisticRegression(C=strength, max_iter=500).fit(features[train], labels[train])
            found = model.predict_log_proba(features[test])[np.arange(len(test)), labels[test]]
            shares = np.bincount(labels[train], minlength=classes) / len(train)
            gains.append((found - np.log(shares[labels[test]])).sum())
    return float(np.sum(gains) / times / len(labels))


def length_features(rows: Sequence[Row]) -> Float:
    """Return for each row what can be said from lengths, in characters and in words, on one scale."""
    columns = []
    for size in (characters, words):
        a, b = (
            np.array([float(size(turns)) for turns in side]) for side in zip(*((r.a, r.b) for r in rows), strict=True)
        )
        ratio = np.log(a / b)
        columns += [a, b, a - b, ratio, abs(a - b), abs(ratio)]
    scaled: Float = StandardScaler().fit_transform(np.column_stack(columns))
    return scaled


def labels_of(rows: Sequence[Row]) -> NDArray[np.int64]:
    return np.array([row.label for row in rows])


def test_lengths_do_not_tell_the_verdict() -> None:
    features = length_features(sample())
    few = features[:, [0, 1, 2, 3]]  # characters of A and B, difference, ratio
    assert held_out_gain(few, labels_of(sample())) <= 0.02
    assert held_out_gain(features, labels_of(sample())) <= 0.02


def test_the_check_of_lengths_would_find_a_sample_in_which_longer_wins() -> None:
    rows = []
    for row in sample():
        a_is_longer = characters(row.a) > characters(row.b)
        label = row.label if row.label == 2 else 0 if a_is_longer else 1
        rows.append(Row(row.kind, row.prompt, row.a, row.b, label))
    assert held_out_gain(length_features(rows)[:, [0, 1, 2, 3]], labels_of(rows)) > 0.15


def test_ties_are_not_told_by_the_difference_in_length() -> None:
    features = length_features(sample())
    tied = (labels_of(sample()) == 2).astype(np.int64)
    for column in (4, 5, 10, 11):  # absolute difference and ratio, in characters and in words
        assert abs(roc_auc_score(tied, features[:, column]) - 0.5) <= 0.08
        assert held_out_gain(features[:, [column]], tied) <= 0.02


def bags_of_words(rows: Sequence[Row]) -> Float:
    """Return for each row which words of the sample stand in A, and which in B."""
    sides = [[" ".join(row.a) for row in rows], [" ".join(row.b) for row in rows]]
    counter = CountVectorizer(token_pattern=WORD, min_df=3).fit(sides[0] + sides[1])
    return np.hstack([counter.transform(side).toarray() > 0 for side in sides]).astype(np.float64)


def test_words_of_the_responses_alone_do_not_tell_the_verdict() -> None:
    features = bags_of_words(sample())
    assert features.shape[1] > 300
    assert max(held_out_gain(features, labels_of(sample()), strength, 1) for strength in (1e-3, 1e-2)) <= 0.05


def test_the_check_of_words_would_find_a_refusal_that_always_loses() -> None:
    rows = []
    for row in sample():
        a, b = (row.a, ("Sorry, no.",)) if row.label == 0 else (("Sorry, no.",), row.b)
        rows.append(row if row.label == 2 else Row(row.kind, row.prompt, a, b, row.label))
    assert held_out_gain(bags_of_words(rows), labels_of(rows), 1e-1, 1) > 0.3


def test_an_off_topic_response_is_a_good_answer_of_another_prompt() -> None:
    good = {text[-1]: entry for entry in source() for text in entry.answers["good"]}
    by_prompt = {entry.prompt: entry for entry in source()}
    rows = [row for row in sample() if "off-topic" in row.kind]
    assert len(rows) >= 50
    for row in rows:
        for turns in (row.a, row.b) if row.kind == "both-off-topic" else (row.worse,):
            own, lender = by_prompt[row.prompt], good[turns[-1]]
            assert lender.task != own.task
            assert lender.language == own.language


def test_no_response_is_better_or_worse_by_itself() -> None:
    better = Counter(row.better[-1] for row in decided())
    worse = Counter(row.worse[-1] for row in decided())
    assert max(better.values()) <= 3
    assert max(worse.values()) <= 2
    assert len(set(better) & set(worse)) >= 15
    tied = {turns[-1] for row in sample() if row.label == 2 for turns in (row.a, row.b)}
    assert len(tied & set(better)) >= 10  # good answers also stand in ties,
    assert len(tied & set(worse)) >= 10  # and so do bad ones


# -------------------------------------------------------------------------------------------- the source


def test_answers_of_a_prompt_are_all_different() -> None:
    for entry in source():
        answers = [turns for group in entry.answers.values() for turns in group]
        assert len(set(answers)) == len(answers), entry.prompt
        assert all(text.strip() == text != "" for turns in answers for text in turns), entry.prompt
        assert 1 <= len(entry.answers["good"]) <= 2


def test_a_prompt_never_has_the_same_pair_twice() -> None:
    pairs = Counter((row.prompt, frozenset((row.a, row.b))) for row in sample())
    assert max(pairs.values()) == 1


def test_rows_that_are_copies_but_for_capitals_never_contradict_each_other() -> None:
    """And so the first command of the demo finds the table valid."""
    rows = [row for chunk in Table.open(SAMPLE).chunks() for row in chunk]
    verdicts: dict[int, set[int]] = {}
    for row in rows:
        better = row.label if row.label == 2 else int((row.label == 0) == in_order(row))
        verdicts.setdefault(row_key(row), set()).add(better)
    assert len(verdicts) >= len(rows) - 2  # two rows have "One" where two others have "one"
    assert {len(found) for found in verdicts.values()} == {1}


def test_the_classes_shares_cost_less_than_saying_nothing_but_not_much() -> None:
    """What a judge is to beat: 1.078 for one that knows only how often each verdict occurs, against ln 3."""
    shares = np.bincount(labels_of(sample())) / len(sample())
    assert math.log(3) - math.log(3) * 0.02 < -(shares * np.log(shares)).sum() < math.log(3)
