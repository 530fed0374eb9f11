"""Labelled tables as training rows: targets, weights, the split, and the dataset that goes to TRL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judge.errors import JudgeError
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.prompting.template import load_template
from judge.runs.progress import Silent
from judge.tables.table import Table
from judge.training.batches import token_dataset
from judge.training.rows import (
    IGNORED,
    TrainingRows,
    check_rows,
    read_rows,
    row_weights,
    split_rows,
    targets,
)
from judge.training.run import describe_split
from judge.training.settings import TrainSettings
from tests.kit.labelled_tables import labelled_rows, write_table

Read = Callable[..., tuple[TrainingRows, TrainSettings]]


@pytest.fixture(scope="module")
def builder(tiny_model: Path) -> PromptBuilder:
    return PromptBuilder(TextEncoder(load_tokenizer(tiny_model)), load_template("minimal"), Budget(200))


@pytest.fixture
def read(tmp_path: Path, builder: PromptBuilder) -> Read:
    def reader(rows: list[dict[str, Any]], **settings: Any) -> tuple[TrainingRows, TrainSettings]:
        path = write_table(tmp_path / "table.csv", rows)
        parsed = TrainSettings(model="m", data=(str(path),), **settings)
        return read_rows(parsed.data, parsed, builder, tmp_path / "tokens", True, Silent()), parsed

    return reader


def everything(rows: TrainingRows) -> np.ndarray:
    return np.arange(len(rows.records))


def test_a_row_gets_the_scorers_ids_and_one_verdict_token(read: Read, builder: PromptBuilder, tmp_path: Path) -> None:
    long = labelled_rows(9)
    long[3]["response_a"] = "word " * 2000  # cut by our budget; TRL would have cut its label off
    rows, settings = read(long)
    dataset = token_dataset(rows, everything(rows), settings, builder.verdict_ids, True, training=True)
    comparisons = [row for chunk in Table.open(tmp_path / "table.csv").chunks() for row in chunk]
    scored = builder.build_both_orders(comparisons)
    assert len(dataset) == 18
    for i, comparison in enumerate(comparisons):
        for swapped in (0, 1):
            row = dataset[2 * i + swapped]
            label = comparison.swapped().label if swapped else comparison.label
            assert row["input_ids"] == [*scored[i][swapped].ids.tolist(), builder.verdict_ids[label]]
            assert row["labels"] == [IGNORED] * (len(row["input_ids"]) - 1) + [builder.verdict_ids[label]]
            assert row["row"] == i


def test_a_tie_stays_a_tie_when_exchanged(read: Read, builder: PromptBuilder) -> None:
    rows, settings = read(labelled_rows(6))
    dataset = token_dataset(rows, everything(rows), settings, builder.verdict_ids, True, training=True)
    verdicts = [row["input_ids"][-1] for row in dataset]
    a, b, tie = builder.verdict_ids
    assert verdicts == [a, b, b, a, tie, tie] * 2


def test_targets_mix_smoothed_hard_labels_with_soft_ones(read: Read) -> None:
    table = labelled_rows(3)
    for row, soft in zip(table, [(0.7, 0.2, 0.1), (None, None, None), (0.2, 0.2, 0.6)], strict=True):
        row["p_a"], row["p_b"], row["p_tie"] = soft
    rows, settings = read(table, soft_weight=0.25, label_smoothing=0.3)
    mixed, offset = targets(rows, everything(rows), settings)
    hard = np.eye(3) * 0.7 + 0.1
    expected = [
        0.75 * hard[0] + 0.25 * np.array([0.7, 0.2, 0.1]),
        hard[1],
        0.75 * hard[2] + 0.25 * np.array([0.2, 0.2, 0.6]),
    ]
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)
    np.testing.assert_array_equal(offset, 0)


def test_kl_subtracts_the_soft_labels_entropy(read: Read) -> None:
    table = [{**row, "p_a": 0.5, "p_b": 0.25, "p_tie": 0.25} for row in labelled_rows(3)]
    rows, settings = read(table, soft_weight=0.4, soft_loss="kl")
    _, offset = targets(rows, everything(rows), settings)
    np.testing.assert_allclose(offset, 0.4 * 1.5 * np.log(2), rtol=1e-6)


def test_weights_multiply_and_have_the_mean_one(read: Read) -> None:
    table = labelled_rows(4)
    for row, weight, source in zip(table, (1, 2, 1, 0), ("web", "web", "lab", "lab"), strict=True):
        row["weight"], row["source"] = weight, source
    rows, settings = read(table, source_weights={"lab": 3.0})
    weights = row_weights(rows, everything(rows), settings)
    np.testing.assert_allclose(weights, np.array([1, 2, 3, 0]) * 4 / 6, rtol=1e-6)


def test_the_split_keeps_prompts_together(read: Read) -> None:
    rows, settings = read(labelled_rows(60, prompts=20), holdout=0.2)
    split = split_rows(rows, settings)
    groups = rows.records["group"]
    assert set(groups[split.train]).isdisjoint(groups[split.held_out])
    assert sorted([*split.train, *split.held_out]) == list(range(60))
    assert 9 <= len(split.held_out) <= 15


def test_the_folds_together_hold_out_every_row_once(read: Read) -> None:
    held_out = []
    for number in (1, 2, 3):
        rows, settings = read(labelled_rows(30), fold=f"{number}/3")
        held_out += split_rows(rows, settings).held_out.tolist()
    assert sorted(held_out) == list(range(30))


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"source_weights": {"tabel": 2.0}}, "no source 'tabel'; the data has table"),
        ({}, {"soft_weight": 0.5}, "no row has soft labels"),
        ({"weight": 0}, {}, "all rows have the weight 0"),
        ({"winner_model_b": 0, "winner_tie": 0, "winner_model_a": 1}, {}, "no training row has the verdict B or tie"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(
    read: Read, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    rows, parsed = read([{**row, **change} for row in labelled_rows(6)], **settings)
    with pytest.raises(JudgeError) as caught:
        check_rows(rows, everything(rows), parsed, 4)
    assert message in str(caught.value)


def test_fewer_rows_than_one_step_takes_is_refused(read: Read) -> None:
    rows, settings = read(labelled_rows(6))
    with pytest.raises(JudgeError, match="6 training rows, but one optimizer step takes 8"):
        check_rows(rows, everything(rows), settings, 8)


def test_a_table_without_ties_can_be_allowed(read: Read) -> None:
    table = [row for row in labelled_rows(9) if not row["winner_tie"]]
    rows, settings = read(table, allow_missing_class=True)
    check_rows(rows, everything(rows), settings, 4)


def test_rows_with_soft_labels_only_need_the_soft_loss(read: Read) -> None:
    table = labelled_rows(6)
    for row in table:
        row |= {"winner_model_a": "", "winner_model_b": "", "winner_tie": ""}
        row |= {"p_a": 0.5, "p_b": 0.3, "p_tie": 0.2}
    rows, settings = read(table)
    with pytest.raises(JudgeError, match=r"6 rows \(first: id 1\) have only soft labels, .*--soft-weight=1"):
        check_rows(rows, everything(rows), settings, 4)
    rows, settings = read(table, soft_weight=1.0)
    check_rows(rows, everything(rows), settings, 4)
    np.testing.assert_allclose(targets(rows, everything(rows), settings)[0], [[0.5, 0.3, 0.2]] * 6, rtol=1e-6)


def test_evaluation_rows_that_train_are_refused_also_when_exchanged(
    read: Read, builder: PromptBuilder, tmp_path: Path
) -> None:
    table = labelled_rows(12)
    rows, settings = read(table)
    swapped = {**table[4], "id": 99, "response_a": table[4]["response_b"], "response_b": table[4]["response_a"]}
    path = write_table(tmp_path / "other.csv", [*labelled_rows(20)[15:], swapped])
    other = read_rows([str(path)], settings, builder, tmp_path / "other", False, Silent())
    from judge.training.rows import Split

    with pytest.raises(JudgeError, match=r"1 row of eval_data \(first: id 99\) also in the training data"):
        describe_split(rows, other, Split(everything(rows), np.arange(6)))


def test_a_split_is_described_with_its_near_duplicates(read: Read) -> None:
    table = labelled_rows(12)
    text = "Explain in simple words to a child why the sky looks blue during the day and red in the evening"
    table[0]["prompt"], table[11]["prompt"] = text + ".", text + ", please."
    rows, _ = read(table)
    from judge.training.rows import Split

    notes, _ = describe_split(rows, rows, Split(np.arange(11), np.array([11])))
    assert notes[0] == "train: 11 rows of 11 prompts, A 36.4%, B 36.4%, tie 27.3%"
    assert "held-out prompts that nearly equal a training prompt: 1 of 1" in notes
