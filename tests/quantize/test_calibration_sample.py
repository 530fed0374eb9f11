"""AWQ is calibrated on the judge's own prompts: the builder's ids and verdicts, of trained rows, even over verdicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judge.errors import JudgeError
from judge.models.bundle import file_digest, open_model
from judge.models.judge_file import Base, JudgeFile, write_judge_file
from judge.models.trained_rows import FILE as TRAINED_ROWS
from judge.models.trained_rows import TrainedRows, joined, write_trained_rows
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.prompting.template import load_template, template_data
from judge.tables.comparison import Comparison
from judge.tables.split import group_key, row_key, stratum
from judge.tables.table import Table
from quantize.calibration_prompts import CalibrationPrompts, calibration_prompts, pick_rows
from tests.kit.labelled_tables import labelled_rows, write_table

ROWS = labelled_rows(60)
TRAINED = 45  # of these rows, the first so many trained the judge


def rows_of(path: Path) -> list[Comparison]:
    return [row for chunk in Table.open(path, labels="required").chunks() for row in chunk]


def builder_for(model: Path, max_tokens: int, template: str = "minimal") -> PromptBuilder:
    return PromptBuilder(TextEncoder(load_tokenizer(model)), load_template(template), Budget(max_tokens))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("data") / "rows.csv", ROWS)


@pytest.fixture
def judge(tiny_model: Path, data: Path, tmp_path: Path) -> Path:
    """A whole model with a judge.json that says what a merged judge's says."""
    folder = shutil.copytree(tiny_model, tmp_path / "judge")
    rows = rows_of(data)[:TRAINED]
    keys = [np.array([f(row) for row in rows], np.uint64) for f in (row_key, group_key)]
    write_trained_rows(folder, joined([TrainedRows(*keys)]))
    builder = builder_for(folder, 200)
    content = JudgeFile(
        template=template_data(builder.template),
        template_digest=builder.template.digest,
        verdict_ids=builder.verdict_ids,
        max_tokens=200,
        truncation="middle",
        shares=(0.2, 0.4),
        prompt_fingerprint=builder.fingerprint(),
        method="full",
        base=Base(path="base", digest="0"),
        training={
            "settings": {"data": [str(data)], "cells": "auto"},
            "data": [{"file": data.name, "digest": Table.open(data).digest()}],
            "trained_rows_sha256": file_digest(folder / TRAINED_ROWS),
        },
    )
    write_judge_file(folder, content)
    return folder


def sample(model: Path, data: Path | None, samples: int = 9, tokens: int = 1000, **more: Any) -> CalibrationPrompts:
    return calibration_prompts(open_model(model), [data] if data else None, samples, tokens, **more)


def known_prompts(model: Path, data: Path, max_tokens: int) -> dict[tuple[int, ...], tuple[int, int]]:
    """Return what each row's prompt with its verdict must be, with the row's place and label."""
    builder = builder_for(model, max_tokens)
    rows = rows_of(data)
    prompts = builder.build(rows)
    return {
        (*map(int, prompt.ids), builder.verdict_ids[row.label]): (i, row.label)
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    }


def test_the_ids_are_the_builders_with_the_rows_own_verdict(judge: Path, data: Path) -> None:
    found = sample(judge, data)
    known = known_prompts(judge, data, 200)
    assert len(found.ids) == 9
    labels = [known[tuple(ids)][1] for ids in found.ids]
    assert [labels.count(i) for i in range(3)] == [3, 3, 3]
    assert found.figures["verdicts"] == [3, 3, 3]
    assert found.figures["tokens"] == sum(map(len, found.ids))
    assert found.warnings == []


def test_only_rows_that_trained_the_judge_are_used(judge: Path, data: Path) -> None:
    known = known_prompts(judge, data, 200)
    found = sample(judge, data, samples=1000)
    assert sorted(known[tuple(ids)][0] for ids in found.ids) == list(range(TRAINED))
    assert found.figures["trained_rows_only"]
    assert found.warnings == ["calibrating on 45 rows: the tables have no more that fit (1000 were asked for)"]


def test_a_table_that_did_not_train_the_judge_is_refused(judge: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other.csv", labelled_rows(9, seed=5, prompts=9)[::-1])
    held_out = write_table(tmp_path / "held.csv", ROWS[TRAINED:])
    assert sample(judge, other).ids  # the same rows in another order and file: they are known by their texts
    with pytest.raises(JudgeError, match=r"held.csv: none of its labelled rows trained this judge"):
        sample(judge, held_out)


def test_the_table_that_trained_the_judge_is_found(judge: Path, data: Path, tmp_path: Path) -> None:
    assert sample(judge, None).ids == sample(judge, data).ids
    moved = json.loads((judge / "judge.json").read_text())
    moved["training"]["settings"]["data"] = [str(tmp_path / "gone.csv")]
    (judge / "judge.json").write_text(json.dumps(moved))
    with pytest.raises(JudgeError, match=r"gone.csv: trained this judge and is not there any more; give it with"):
        sample(judge, None)
    moved["training"]["settings"]["data"] = [str(write_table(tmp_path / "rows.csv", ROWS[:50]))]
    (judge / "judge.json").write_text(json.dumps(moved))
    with pytest.raises(JudgeError, match=r"is not the table that trained this judge \(it has changed\)"):
        sample(judge, None)


def test_the_sample_depends_on_the_seed_alone(judge: Path, data: Path) -> None:
    first, again, other = (sample(judge, data, seed=seed).ids for seed in (1, 1, 2))
    assert first == again
    assert sorted(first) != sorted(other)
    more = {tuple(ids) for ids in sample(judge, data, samples=18, seed=1).ids}
    assert {tuple(ids) for ids in first} <= more  # a larger sample holds the smaller one


def test_long_calibration_prompts_are_cut_and_keep_the_verdict(judge: Path, data: Path) -> None:
    longest = max(len(ids) for ids in known_prompts(judge, data, 200))
    found = sample(judge, data, tokens=longest - 4)
    known = known_prompts(judge, data, longest - 4)
    assert all(tuple(ids) in known for ids in found.ids)
    assert max(map(len, found.ids)) <= longest - 4 + 1
    assert found.figures["cut"] > 0
    with pytest.raises(JudgeError, match="--sample-tokens=20: a budget of 20 tokens is too small for template minimal"):
        sample(judge, data, tokens=20)
    assert sample(judge, data, tokens=10_000).ids == sample(judge, data, tokens=200).ids  # never beyond the judge's own


def test_a_model_that_is_no_judge_takes_all_labelled_rows(tiny_model: Path, data: Path) -> None:
    found = sample(tiny_model, data, samples=60, template="minimal")
    assert len(found.ids) == 60
    assert not found.figures["trained_rows_only"]
    assert set(map(tuple, found.ids)) <= set(known_prompts(tiny_model, data, 1000))
    with pytest.raises(JudgeError, match="does not say what trained it; give labelled comparisons with --data"):
        sample(tiny_model, None)


def test_another_template_than_the_judges_is_said(judge: Path, data: Path) -> None:
    found = sample(judge, data, template="side-by-side")
    assert "--template" in found.warnings[0]


def test_rows_without_a_verdict_are_passed_over_and_unclear_ones_refused(
    tiny_model: Path, make_table: Callable[[str], Path]
) -> None:
    head = "id,prompt,response_a,response_b,winner\n"
    table = make_table(head + "1,p,a,b,model_a\n2,q,c,d,\n3,r,e,f,tie\n")
    found = sample(tiny_model, table, template="minimal")
    assert found.figures["verdicts"] == [1, 0, 1]
    with pytest.raises(JudgeError, match=r"row 1 \(id 1\).*winner is 'nobody'"):
        sample(tiny_model, make_table(head + "1,p,a,b,nobody\n"), template="minimal")
    with pytest.raises(JudgeError, match="no row has a verdict; calibration wants labelled comparisons"):
        sample(tiny_model, make_table(head + "1,p,a,b,\n"), template="minimal")


def test_a_verdict_that_never_occurs_is_said(tiny_model: Path, make_table: Callable[[str], Path]) -> None:
    table = make_table("id,prompt,response_a,response_b,winner\n1,p,a,b,model_a\n2,q,c,d,model_b\n")
    found = sample(tiny_model, table, samples=2, template="minimal")
    assert found.warnings == ["no calibration row has the verdict tie"]


def test_soft_labels_count_as_their_likeliest_verdict(tiny_model: Path, make_table: Callable[[str], Path]) -> None:
    table = make_table("id,prompt,response_a,response_b,p_a,p_b,p_tie\n1,p,a,b,0.2,0.5,0.3\n")
    assert [stratum(row) for row in rows_of(table)] == [1]
    assert sample(tiny_model, table, template="minimal").figures["verdicts"] == [0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "wanted", "expected"),
    [
        ([10, 10, 10], 7, (3, 2, 2)),
        ([10, 1, 10], 9, (4, 1, 4)),
        ([2, 0, 0], 9, (2, 0, 0)),
        ([10, 10, 0], 4, (2, 2, 0)),
    ],
)
def test_a_verdict_with_few_rows_is_filled_up_from_the_others(
    tmp_path: Path, labels: list[int], wanted: int, expected: tuple[int, int, int]
) -> None:
    by_label = [[row for row in ROWS if row[name]] for name in ("winner_model_a", "winner_model_b", "winner_tie")]
    rows = [row for some, count in zip(by_label, labels, strict=True) for row in some[:count]]
    table = Table.open(write_table(tmp_path / "rows.csv", rows), labels="required")
    found = [label for _, label in pick_rows([table], wanted, 0, None)]
    assert tuple(found.count(label) for label in range(3)) == expected
