"""The difference of two templates: it holds both texts whole, and counts what the model gets."""

from __future__ import annotations

import dataclasses
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.cli.prompt import diff_lines
from judge.errors import JudgeError
from judge.prompting.awkward_rows import MADE_UP
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.diff import Pieces, marked, sample_rows, template_differences, token_costs, word_diff
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import load_template
from judge.prompting.template_folders import builtin_names
from tests.kit.tiny_tokenizers import STYLES

WORDS = st.lists(st.sampled_from(["a", "b", "word", " ", "\n", "\n\n", ".", "{{ turn.prompt }}", "\u2028", "é"]))
TEXT = WORDS.map("".join) | st.text(max_size=30)


def sides(pieces: Pieces) -> tuple[str, str]:
    return (
        "".join(text for op, text in pieces if op != "added"),
        "".join(text for op, text in pieces if op != "removed"),
    )


@given(TEXT, TEXT)
def test_a_difference_holds_both_texts_without_empty_or_repeated_pieces(a: str, b: str) -> None:
    pieces = word_diff(a, b)
    assert sides(pieces) == (a, b)
    assert all(text for _, text in pieces)
    assert all(one[0] != other[0] for one, other in pairwise(pieces))
    assert (all(op == "same" for op, _ in pieces)) == (a == b)


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        ("Which one is better?", "Which one is worse?", "Which one is [-better-]{+worse+}?"),
        ("the same", "the same", "the same"),
        ("", "new", "{+new+}"),
        ("one\ntwo\n", "one\n", "one\n[-two\\n-]\n"),
        ("one\n", "one\n\n", "one\n{+\\n+}\n"),
        ("It is {{ turn.prompt }} here", "It is {{ turn.number }} here",
         "It is [-{{ turn.prompt }}-]{+{{ turn.number }}+} here"),
        # nothing in common but "the": the line is exchanged as a whole
        ("Say the best one now", "Pick the winner here", "[-Say the best one now-]{+Pick the winner here+}"),
        # a space between changed words belongs to the change
        ("Keep these words: old text", "Keep these words: new note", "Keep these words: [-old text-]{+new note+}"),
    ],
)  # fmt: skip
def test_differences_are_marked_without_colour(a: str, b: str, shown: str) -> None:
    assert marked(word_diff(a, b)) == shown


def test_every_field_that_reaches_the_model_is_compared_and_only_these() -> None:
    one = load_template("rubric")
    fields = {difference.field for difference in template_differences(one, one)}
    assert fields == {field.name for field in dataclasses.fields(one)} - {"name", "description"}
    assert not any(difference.differs for difference in template_differences(one, one))
    changes: dict[str, Any] = {
        "body": one.body + "!", "cue": "Better:", "verdicts": (" 1", " 2", " 3"), "chat": False, "system": "Be fair.",
        "cue_role": "user", "cut_mark": "(cut)", "null_text": "(nothing)", "missing_text": "(absent)",
    }  # fmt: skip
    assert set(changes) == fields
    for field, value in changes.items():
        found = template_differences(one, dataclasses.replace(one, **{field: value}))
        differing = {difference.field for difference in found if difference.differs}
        assert differing == ({"chat", "cue_role"} if field == "chat" else {field})


def test_bodies_of_two_shipped_templates_are_whole_in_their_difference() -> None:
    templates = [load_template(name) for name in builtin_names()]
    assert len(templates) == 4
    for one in templates:
        for other in templates:
            body = template_differences(one, other)[0]
            assert sides(body.pieces) == (one.body, other.body)
            assert body.differs == (one is not other)


def test_long_bodies_are_compared_in_reasonable_time() -> None:
    lines = [f"{i}: a line of a long rubric with some words in it\n" for i in range(800)]
    started = time.process_time()
    pieces = word_diff(
        "".join(lines), "".join(line.replace("some", "many") if i % 5 else line for i, line in enumerate(lines))
    )
    assert time.process_time() - started < 20
    assert any(op == "added" for op, _ in pieces)


def test_rows_are_drawn_at_random_repeatably_and_in_order() -> None:
    rows = [dataclasses.replace(MADE_UP[0], id=i) for i in range(500)]
    assert sample_rows(rows, 500) == rows
    assert sample_rows(iter(rows), 1000) == rows
    drawn = [row.id for row in sample_rows(iter(rows), 100)]
    assert drawn == sorted(drawn, key=int)
    assert len(set(drawn)) == 100
    assert drawn == [row.id for row in sample_rows(rows, 100)]
    assert drawn != [row.id for row in sample_rows(rows, 100, seed=1)]
    means = [np.mean([int(row.id) for row in sample_rows(rows, 50, seed)]) for seed in range(40)]
    assert abs(float(np.mean(means)) - 249.5) < 4 * 144.3 / (50 * 40) ** 0.5  # s.d. of 0..499, without replacement less


@pytest.mark.parametrize("max_tokens", [300, 100_000])
def test_costs_are_those_of_the_prompts(max_tokens: int) -> None:
    builder = PromptBuilder(TextEncoder(STYLES["qwen"]()), load_template("side-by-side"), Budget(max_tokens))
    prompts = builder.build(MADE_UP)
    lengths, lost = token_costs(builder, MADE_UP)
    assert lengths.tolist() == [len(prompt.ids) for prompt in prompts]
    cut = [any(prompt.cut) for prompt in prompts]
    assert lost.tolist() == cut
    assert any(cut) == (max_tokens == 300)


def test_the_command_shows_texts_settings_and_costs(tiny_model: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    rows = [{"id": i, "prompt": f"Question {i}", "response_a": "x " * i, "response_b": "y"} for i in range(1, 30)]
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    lines = list(diff_lines("minimal", "interleaved", tiny_model, table, 500, 20))
    assert lines[0] == "[-minimal-] {+interleaved+}"
    assert "cue: [-Better response:-]{+Preferred assistant:+}" in lines
    assert "chat: [-none-]{+the model's own chat template+}" in lines
    assert any(line.startswith("tokens of a prompt on 20 rows of rows.jsonl, at most 500") for line in lines)
    assert lines[-3].startswith("  minimal      mean ")
    assert lines[-2].startswith("  interleaved  mean ")
    assert lines[-2].endswith("0.0% cut")
    assert "tokens with interleaved (from +" in lines[-1]


def test_a_template_does_not_differ_from_itself() -> None:
    assert list(diff_lines("minimal", "minimal", None, None, None, 10))[-1] == "no difference reaches the model"


def test_options_that_do_not_go_together_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    for arguments, reason in (
        ((tiny_model, None, None, 10), "go together"),
        ((None, tmp_path, None, 10), "go together"),
        ((None, None, 100, 10), "--max-tokens needs"),
        ((None, None, None, 0), "--rows=0"),
    ):
        with pytest.raises(JudgeError, match=reason):
            list(diff_lines("minimal", "rubric", *arguments))
