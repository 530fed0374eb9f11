"""The check of a template: it passes what judge ships, and finds each mistake that a template can have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.cli.prompt import run_check
from judge.errors import JudgeError
from judge.prompting.awkward_rows import MADE_UP, awkward_rows
from judge.prompting.builder import Budget, Prompt, PromptBuilder
from judge.prompting.check import Checked, check_template, pair_findings
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import Template, load_template, parse_template
from judge.prompting.template_check import static_findings
from judge.prompting.template_folders import builtin_names
from judge.tables.comparison import Comparison, Flag
from tests.kit.tiny_tokenizers import STYLES, unknown_style

LOOP = (
    "Which is better, A or B?\n{% for turn in turns %}\nPrompt:\n{{ turn.prompt }}\n"
    "Response A:\n{{ turn.response_a }}\nResponse B:\n{{ turn.response_b }}\n{% endfor %}"
)
GOOD: dict[str, Any] = {
    "name": "mine",
    "description": "A template for a test.",
    "body": LOOP,
    "cue": "Verdict:",
    "verdicts": {"a": " A", "b": " B", "tie": " Tie"},
}
ROWS = awkward_rows(MADE_UP)


@cache
def encoder(style: str) -> TextEncoder:
    return TextEncoder(STYLES[style]())


def template(**changes: Any) -> Template:
    return parse_template(yaml.safe_dump({**GOOD, **changes}), "mine.yaml")


def texts(checked: Checked, level: str) -> list[str]:
    return [finding.text for finding in checked.findings if finding.level == level]


def checked(style: str = "qwen", budget: Budget | None = None, **changes: Any) -> Checked:
    return check_template(template(**changes), encoder(style), ROWS, budget)


def one_finding(found: Checked, level: str, words: str) -> str:
    """Return the one finding of a level that holds some words; there must be no other of this level."""
    assert len(texts(found, level)) == 1, found.findings
    text = texts(found, level)[0]
    assert words in text
    assert "\n" not in text
    assert found.failed == (level == "error")
    return text


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["interleaved", "minimal", "rubric", "side-by-side"])
def test_every_shipped_template_passes_under_every_style_of_tokenizer(style: str, name: str) -> None:
    mine = load_template(name)
    found = check_template(mine, encoder(style), ROWS)
    # the tiny vocabularies of two styles spell "<answer B>" with a token more: that is for the check to tell
    assert [text for text in texts(found, "warning") if "'<answer A>' takes 4 tokens" not in text] == []
    assert not found.failed
    builder = PromptBuilder(encoder(style), mine)
    assert found.verdict_ids == builder.verdict_ids
    for sample, row in zip(found.samples, ROWS, strict=True):
        prompt = builder.build([row.row])[0]
        pieces = encoder(style).tokenizer.convert_ids_to_tokens(prompt.ids.tolist())
        assert (sample.awkward, sample.prompt.tokens) == (row, prompt.tokens)
        assert sample.prompt.ids.tolist() == prompt.ids.tolist()
        assert list(sample.ending) == pieces[-12:]
        assert prompt.cut == sample.prompt.cut == (0, 0, 0)
        assert sample.needed == len(prompt.ids)
        assert sample.fixed + sum(prompt.tokens) + (name == "side-by-side") * prompt.tokens[0] == len(prompt.ids)


def test_every_shipped_template_is_checked() -> None:
    assert builtin_names() == ["interleaved", "minimal", "rubric", "side-by-side"]
    assert {what for row in ROWS for what in row.what.split(", ")} == {
        *("longest", "shortest", "many turns", "null", "not Latin")
    }


def test_a_plain_template_of_a_user_passes_with_and_without_a_tokenizer() -> None:
    assert checked().findings == ()
    assert check_template(template(), None, ROWS) == Checked(())


@pytest.mark.parametrize("part", ["prompt", "response_a", "response_b"])
def test_a_variable_that_only_long_conversations_lack_is_found(part: str) -> None:
    slot = f"{{{{ turn.{part} }}}}"
    for body in (LOOP.replace(slot, "x"), LOOP.replace(slot, f"{{% if turns|length < 5 %}}{slot}{{% endif %}}")):
        mine = dataclasses.replace(template(), body=body)
        found = check_template(mine, encoder("qwen"), ROWS)
        one_finding(found, "error", f"the body never shows {part} of some turn (write {slot} in a loop over turns)")
        assert found.samples == ()


def test_a_mistake_in_a_tables_longest_conversation_only_is_found() -> None:
    mine = dataclasses.replace(template(), body=LOOP + "{% if turns|length == 7 %}{{ nonsense }}{% endif %}")
    assert static_findings(mine) == []
    assert "'nonsense' is undefined" in static_findings(mine, [7])[0].text


def test_an_unknown_variable_is_found() -> None:
    mine = dataclasses.replace(template(), body=LOOP + "{{ question }}")
    text = one_finding(check_template(mine, None, ROWS), "error", "'question' is undefined; the body may use turns")
    assert "number, prompt, response_a, response_b" in text


def test_a_verdict_of_several_tokens_is_found_with_verdicts_that_work() -> None:
    found = checked(verdicts={"a": " A", "b": " B", "tie": " Undecided"})
    text = one_finding(found, "error", "each verdict must be one token of its own after the cue, but ' A' becomes")
    assert "verdicts that work: (' A', ' B', ' Tie')" in text


def test_two_verdicts_of_the_same_token_are_found() -> None:
    mine = template(verdicts={"a": " A", "b": "Ж", "tie": "Ю"}, chat=False)
    found = check_template(mine, TextEncoder(unknown_style()), ROWS)
    assert texts(found, "error") == ["the verdicts 'Ж' and 'Ю' become the same token '<unk>'; choose other ones"]
    assert "some verdicts start with a space and others do not; write all three alike" in texts(found, "warning")


def test_a_verdict_that_the_tokenizer_does_not_know_is_found() -> None:
    mine = template(verdicts={"a": " A", "b": " B", "tie": "Ж"}, chat=False)
    found = check_template(mine, TextEncoder(unknown_style()), ROWS)
    assert texts(found, "error") == ["the tokenizer does not know the verdict 'Ж'; choose another one"]


def test_a_cue_that_is_not_last_is_found() -> None:
    found = checked(chat={"cue": "user"}, verdicts={"a": "A", "b": "B", "tie": "C"})
    one_finding(found, "warning", "the cue is not last: the chat template puts '<|im_end|>\\\\n<|im_start|>assistant")
    assert checked("unigram", chat={"cue": "user"}).findings == ()  # it has no chat template


def test_a_verdict_that_no_model_would_write_after_the_cue_is_found() -> None:
    found = checked(chat={"cue": "user"})
    assert "' A' starts with a space, but stands at the start of a line" in texts(found, "warning")[1]
    text = one_finding(checked(verdicts={"a": "A", "b": "B", "tie": "C"}), "warning", "'A' follows ':'")
    assert text.endswith("write ' A'")


def test_a_cue_in_the_body_or_none_at_all_is_found() -> None:
    one_finding(checked(body=LOOP + "\nVerdict:"), "warning", "the body ends in the cue 'Verdict:'")
    found = check_template(template(cue=""), None, ROWS)
    one_finding(found, "warning", "there is no cue")


def test_verdicts_that_are_named_nowhere_are_found() -> None:
    found = check_template(template(verdicts={"a": " 1", "b": " 2", "tie": " 3"}), None, ROWS)
    assert [text.split(";")[0] for text in texts(found, "warning")] == [
        f"the verdict {verdict!r} is named nowhere in the prompt" for verdict in (" 1", " 2")
    ]
    first = LOOP.replace("Response A", "First response").replace("Response B", "Second response")
    verdicts = {"a": " first", "b": " second", "tie": " tie"}
    assert check_template(template(body=first, verdicts=verdicts), None, ROWS).findings == ()


def test_exchanged_labels_are_found() -> None:
    body = LOOP.replace("Response A:", "X").replace("Response B:", "Response A:").replace("X", "Response B:")
    one_finding(checked(body=body), "error", "A and B are exchanged: response A is introduced as 'B'")


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("Response A:", "Response B:", True),
        ("Response 1 (A):", "Response 2 (B):", True),
        ("First response (A):", "Second response (B):", False),
        ("Response A, the good one:", "Response B:", False),
        ("Response A (good):", "Response B (bad):", False),
        ("", "Response B:", False),
    ],
)
def test_responses_that_are_introduced_in_different_words_are_found(a: str, b: str, alike: bool) -> None:
    body = LOOP.replace("Response A:", a).replace("Response B:", b)
    found = [finding.text for finding in static_findings(template(body=body))]
    assert found == [] if alike else "A and B are not treated alike: they are introduced by" in found[0]


def test_labels_of_unequal_numbers_of_tokens_are_found() -> None:
    body = LOOP.replace("Response A", "Response").replace("Response B", "Reponsse") + "A B"
    one_finding(checked(body=body), "warning", "A and B are not treated alike: 'Response:' takes ")


def test_responses_that_change_places_between_turns_are_found() -> None:
    a, b = "\nResponse A:\n{{ turn.response_a }}", "\nResponse B:\n{{ turn.response_b }}"
    body = (
        f"{{% for turn in turns %}}\n{{{{ turn.prompt }}}}{{% if loop.first %}}{a}{b}{{% else %}}{b}{a}{{% endif %}}\n"
        "{% endfor %}"
    )
    found = static_findings(template(body=body))
    assert [finding.text for finding in found] == ["A comes first in some turns and B in others; keep one order"]


def test_a_space_right_before_a_text_is_found() -> None:
    found = checked(body=LOOP.replace("Prompt:\n", "Prompt: "))
    one_finding(found, "warning", "a space stands right before prompt")


def test_a_control_token_in_a_template_is_found_only_in_a_chat_template() -> None:
    body = LOOP + "<|im_end|>"
    one_finding(checked(body=body), "warning", "the template holds the control token '<|im_end|>'")
    assert checked(body=body, chat=False).findings == ()


class CarelessEncoder(TextEncoder):
    """Reads the texts of a row as it reads a template."""

    def user_text(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.trusted_text(text) for text in texts]


def test_a_text_that_becomes_a_control_token_is_found() -> None:
    found = check_template(template(), CarelessEncoder(STYLES["qwen"]()), ROWS)
    one_finding(found, "error", f"texts of a row can become {3 * len(encoder('qwen').control_ids)} control tokens")
    assert checked().controls == len(encoder("qwen").control_ids) > 5


def test_rows_whose_exchange_is_not_their_mirror_image_are_found() -> None:
    ids = np.arange(20, dtype=np.int32)
    one = Prompt(ids, (1, 8, 9), (0, 2, 3), 0)
    assert list(pair_findings("longest", one, one.swapped_counts(), 20)) == []
    for other in (
        dataclasses.replace(one.swapped_counts(), ids=ids[:-1]),
        one,
        dataclasses.replace(one.swapped_counts(), cut=(0, 2, 3)),
        dataclasses.replace(one.swapped_counts(), cut_turns=1),
    ):
        found = list(pair_findings("longest", one, other, 20))
        assert [finding.level for finding in found] == ["error"]
        assert found[0].text.startswith("A and B are not treated alike: the longest row has 20 tokens")
    too_long = list(pair_findings("longest", one, one.swapped_counts(), 19))
    assert [finding.text for finding in too_long] == ["the prompt of the longest row has 20 tokens, more than 19"]


def test_a_budget_that_is_too_small_is_an_error_and_rows_are_shown_uncut() -> None:
    found = checked(budget=Budget(10))
    one_finding(found, "error", "a budget of 10 tokens is too small for template mine")
    assert len(found.samples) == len(ROWS)


def test_a_row_that_is_cut_is_told_with_what_it_needs() -> None:
    whole = checked().samples[0]
    found = checked(budget=Budget(400))
    text = one_finding(found, "warning", f"the longest row (id made-up-1) needs {whole.needed:,} tokens")
    assert "is cut to 400" in text
    sample = found.samples[0]
    assert len(sample.prompt.ids) <= 400 < sample.needed == len(whole.prompt.ids)
    assert sum(sample.prompt.cut) > 0
    assert sample.ending == whole.ending


def test_fixed_text_that_fills_the_budget_is_told() -> None:
    body = "A or B? " * 300 + LOOP
    fixed = checked(body=body, budget=Budget(100_000)).samples[0].fixed
    found = checked(body=body, budget=Budget(2 * fixed - 1))
    one_finding(found, "warning", f"the fixed text takes {fixed:,} of {2 * fixed - 1:,} tokens")
    assert checked(body=body, budget=Budget(2 * fixed)).findings == ()


TURNS = st.lists(st.none() | st.sampled_from(["", "a", "bb", "数学", "é" * 9, "русский"]), min_size=1, max_size=4)


@settings(max_examples=60)
@given(st.lists(st.tuples(TURNS, TURNS, TURNS), min_size=1, max_size=8))
def test_awkward_rows_are_extremes_of_the_table_and_each_is_chosen_once(cells: list[tuple[Any, ...]]) -> None:
    rows = [
        Comparison(i, tuple(p), tuple(a), tuple(b), flags=Flag.NULL_TURN if None in (*p, *a, *b) else Flag(0))
        for i, (p, a, b) in enumerate(cells)
    ]
    chosen = awkward_rows(iter(rows))
    assert len({row.row.id for row in chosen}) == len(chosen)
    by_name = {what: row.row for row in chosen for what in row.what.split(", ")}
    assert sum(row.what.count(",") + 1 for row in chosen) == len(by_name)

    def size(row: Comparison) -> int:
        return len("".join(t or "" for part in (row.prompt, row.response_a, row.response_b) for t in part).encode())

    assert size(by_name["shortest"]) == min(map(size, rows))
    assert ("longest" in by_name) == any(map(size, rows))
    assert "longest" not in by_name or size(by_name["longest"]) == max(map(size, rows))
    most = max(row.turn_count for row in rows)
    assert ("many turns" in by_name) == (most > 1)
    assert most == 1 or by_name["many turns"].turn_count == most
    assert ("null" in by_name) == any(row.flags for row in rows)
    texts = ["".join(t or "" for part in c for t in part) for c in cells]
    assert ("not Latin" in by_name) == any("数" in text or "р" in text for text in texts)


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
    return path


def table_of(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    rows = [
        {"id": i, "prompt": [f"Question {i}?"] * (1 + i % 3), "response_a": [None if i == 4 else "x " * 40 * i],
         "response_b": ["中文" * 9 if i == 1 else "y"]}
        for i in range(1, 9)
    ]  # fmt: skip
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_the_command_shows_counts_cuts_the_end_and_the_verdicts(tiny_model: Path, tmp_path: Path) -> None:
    lines, failed = run_check(str(write(tmp_path)), tiny_model, table_of(tmp_path), 200, "end")
    assert not failed
    shown = "\n".join(lines)
    assert "at most 200, cut at the end" in shown
    names = ["row", "longest (id 8)", "shortest, null (id 4)", "many turns (id 2)", "not Latin (id 1)"]
    assert [line.split("  ")[0] for line in lines[3:8]] == names
    cells = lines[4].removeprefix(names[1]).split()
    turns, *tokens, fixed, in_all = map(int, cells[:6])
    lost = [int(cell.strip(",")) for cell in cells[6:]]
    assert turns == 1 + 8 % 3
    assert in_all == fixed + sum(tokens) - sum(lost) <= 200
    assert "end of the prompt: " in shown
    assert "' A' is " in shown
    assert "(ĠA), ' B' is " in shown
    assert lines[-1].startswith("warning: the longest")
    assert all(line.isprintable() for line in lines)


def test_the_command_without_a_model_says_what_is_not_checked(tmp_path: Path) -> None:
    lines, failed = run_check(str(write(tmp_path)), None, None, None, None)
    assert not failed
    assert lines[1].startswith("with --model, also")
    assert lines[-1] == "no mistakes found"


def test_a_file_that_is_no_template_fails_with_a_line_for_each_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, bodi="x", cue="Verdict: ")
    lines, failed = run_check(str(path), None, None, None, None)
    assert failed
    assert lines[2:] == [
        "error: unknown key 'bodi' (did you mean 'body'?)",
        "error: the cue must not end in white space (it would split the verdict token)",
    ]


def test_options_that_need_a_model_are_refused_without_one(tmp_path: Path) -> None:
    for options in ((table_of(tmp_path), None, None), (None, 100, None), (None, None, "end")):
        with pytest.raises(JudgeError, match="need --model"):
            run_check("minimal", None, *options)
    with pytest.raises(JudgeError, match="no template 'nope'"):
        run_check("nope", None, None, None, None)
