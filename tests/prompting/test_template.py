"""Templates: what is shipped, what is refused and how, and that texts never pass through Jinja."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from judge.errors import JudgeError
from judge.prompting.template import (
    PARTS,
    Slot,
    Template,
    TemplateError,
    copies,
    load_template,
    parse_template,
)
from judge.prompting.template_folders import builtin_folder, builtin_names
from tests.kit.template_values import GOOD, LOOP, SHIPPED, parse


def refusal(**changes: Any) -> str:
    with pytest.raises(JudgeError) as error:
        parse(**changes)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_four_templates_are_shipped() -> None:
    assert builtin_names() == SHIPPED
    assert len(list(builtin_folder().glob("*"))) == 4


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_template_is_named_for_its_file_and_described(name: str) -> None:
    template = load_template(name)
    assert template.name == name
    assert len(template.description) > 40
    assert template.cue == template.cue.rstrip()


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("turns", [1, 2, 7])
def test_every_shipped_template_shows_each_text_and_a_as_often_as_b(name: str, turns: int) -> None:
    template = load_template(name)
    slots = [piece for piece in template.layout(turns) if isinstance(piece, Slot)]
    shown = copies(template)
    assert shown["response_a"] == shown["response_b"] == 1
    assert {slot: slots.count(slot) for slot in slots} == {
        Slot(turn, part): shown[part] for turn in range(turns) for part in PARTS
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_the_fixed_text_of_a_shipped_template_has_no_stray_blank_lines(name: str) -> None:
    text = "".join(piece if isinstance(piece, str) else "text" for piece in load_template(name).layout(3))
    assert "\n\n\n" not in text
    assert text == text.strip()


@pytest.mark.parametrize(
    "changes",
    [
        {"body": LOOP + "\nEnd."},
        {"cue": "Better:"},
        {"verdicts": {"a": " 1", "b": " 2", "tie": " 3"}},
        {"verdicts": {"a": " B", "b": " A", "tie": " Tie"}},
        {"cut_mark": "(cut)"},
        {"null_text": "(nothing)"},
        {"missing_text": "(absent)"},
        {"chat": False},
        {"chat": {"cue": "user"}},
        {"chat": {"system": "You judge."}},
    ],
)
def test_the_digest_changes_with_what_reaches_the_model(changes: dict[str, Any]) -> None:
    assert parse(**changes).digest != parse().digest


def test_the_digest_does_not_change_with_name_and_description() -> None:
    assert parse(name="other", description="Other words.").digest == parse().digest
    assert len(parse().digest) == 64


def test_the_digest_covers_every_field() -> None:
    names = {field.name for field in dataclasses.fields(Template)} - {"name", "description"}
    assert names == {
        *("body", "cue", "verdicts", "chat", "system"),
        *("cue_role", "cut_mark", "null_text", "missing_text"),
    }


def test_defaults_are_the_models_chat_template_and_visible_placeholders() -> None:
    template = parse()
    assert (template.chat, template.system, template.cue_role) == (True, None, "assistant")
    assert (template.cut_mark, template.null_text, template.missing_text) == ("[...]", "(null)", "(no turn)")


@pytest.mark.parametrize(
    ("key", "hint"),
    [("verdict", " (did you mean 'verdicts'?)"), ("cut_marks", " (did you mean 'cut_mark'?)"), ("zzz", "")],
)
def test_an_unknown_key_is_refused_with_a_suggestion(key: str, hint: str) -> None:
    assert refusal(**{key: "x"}) == f"mine.yaml: unknown key {key!r}{hint}"


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(JudgeError) as error:
        parse_template("name: x\nbodi: y\ncue: 'Verdict: '\nchat: {sistem: x}\nnull_text: 3\n", "bad.yaml")
    assert str(error.value) == (
        "bad.yaml: unknown key 'bodi' (did you mean 'body'?); no 'description'; no 'body'; no 'verdicts'; "
        "'null_text' must be text; the cue must not end in white space (it would split the verdict token); "
        "unknown key 'chat.sistem' (did you mean 'system'?)"
    )


@pytest.mark.parametrize("key", ["name", "description", "body", "cue", "verdicts"])
def test_every_missing_key_is_named(key: str) -> None:
    text = yaml.safe_dump({k: v for k, v in GOOD.items() if k != key})
    with pytest.raises(JudgeError) as error:
        parse_template(text, "mine.yaml")
    assert str(error.value) == f"mine.yaml: no {key!r}"


@pytest.mark.parametrize("cue", ["Verdict: ", "Verdict:\n", "Verdict:\t", "Verdict:\u3000"])
def test_a_cue_that_ends_in_white_space_is_refused(cue: str) -> None:
    assert refusal(cue=cue).endswith("the cue must not end in white space (it would split the verdict token)")


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ({"a": " A", "b": " A", "tie": " Tie"}, "the three verdicts must differ"),
        ({"a": " A", "b": " B"}, "'verdicts' must have exactly the keys a, b and tie"),
        ({"a": " A", "b": " B", "tie": " Tie", "c": " C"}, "'verdicts' must have exactly the keys a, b and tie"),
        ({"a": " A", "b": " B", 3: " Tie"}, "'verdicts' must have exactly the keys a, b and tie"),
        ([" A", " B", " Tie"], "'verdicts' must have exactly the keys a, b and tie"),
        ({"a": " A", "b": " B", "tie": 3}, "each verdict must be text"),
        ({"a": " A", "b": " B", "tie": " "}, "each verdict must be text"),
        ({"a": True, "b": False, "tie": None}, "each verdict must be text"),
        (None, "'verdicts' must have exactly the keys a, b and tie"),
    ],
)
def test_verdicts_must_be_three_different_texts(verdicts: Any, reason: str) -> None:
    assert refusal(verdicts=verdicts) == f"mine.yaml: {reason}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chat": "no"}, "'chat' must be true, false, or a mapping with system and cue"),
        ({"chat": None}, "'chat' must be true, false, or a mapping with system and cue"),
        ({"chat": {"system": 3}}, "'chat.system' must be text"),
        ({"chat": {"cue": "system"}}, "'chat.cue' must be assistant or user"),
        ({"body": "  "}, "'body' must be text"),
        ({"cue": None}, "'cue' must be text"),
        ({"cut_mark": " "}, "'cut_mark' must be text"),
        ({"name": ["x"]}, "'name' must be text"),
        ({"body": LOOP + "\ue000"}, "the characters U+E000 and U+E001 cannot be used"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert refusal(**changes) == f"mine.yaml: {reason}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (LOOP + "{{ turns[0].response_a }}", "shows response_a more often in some turns"),
        (LOOP.replace("{{ turn.prompt }}", "{{ turn.response_a }}"), "never shows prompt of some turn"),
        (LOOP.replace("{{ turn.response_b }}", ""), "never shows response_b of some turn"),
        (LOOP.replace("|", "{{ turn.response_a }}", 1), "A and B are not treated alike"),
        (LOOP.replace("in turns", "in turns[:1]"), "never shows prompt of some turn"),
        ("No turns at all.", "never shows prompt of some turn"),
    ],
)
def test_a_body_that_does_not_show_everything_alike_is_refused(body: str, reason: str) -> None:
    assert reason in refusal(body=body)


@pytest.mark.parametrize(
    "body",
    [
        LOOP + "{{ question }}",
        LOOP + "{{ turns[0].answer }}",
        LOOP + "{% if %}",
        LOOP + "{% for turn in turns %}",
        LOOP + "{% include 'other.yaml' %}",
        LOOP + "{% import 'os' as os %}",
        LOOP + "{{ 1 / 0 }}",
        LOOP + "{{ turns[0] }}",
        LOOP + "{{ turns }}",
        LOOP + "{{ range(10000000) }}",
        LOOP + "{{ turns[0].number | nonsense }}",
    ],
)
def test_a_body_that_uses_anything_but_its_turns_is_refused(body: str) -> None:
    assert "the body may use turns (with the filters count, first, last, length, reverse) and" in refusal(body=body)


@pytest.mark.parametrize(
    "use",
    [
        *("{{ TEXT | upper }}", "{{ TEXT | trim }}", "{{ TEXT | e }}", "{{ TEXT | truncate(99) }}"),
        *("{{ TEXT | replace('x', 'y') }}", "{{ TEXT | indent }}", "{{ TEXT | default('x') }}", "{{ TEXT | reverse }}"),
        *("{{ TEXT[:10] }}", "{{ TEXT[0] }}", "{{ TEXT.strip() }}", "{{ TEXT.upper() }}", "{{ TEXT.__class__ }}"),
        *("{{ TEXT }}{{ TEXT | length }}", "{{ TEXT }}{% if TEXT %}!{% endif %}", "{{ TEXT }}{{ TEXT == '' }}"),
        *("{{ TEXT }}{{ 'x' in TEXT }}", "{{ TEXT }}{{ TEXT < 'x' }}", "{% filter upper %}{{ TEXT }}{% endfilter %}"),
        *("{{ TEXT }}{% for c in TEXT %}{{ c }}{% endfor %}", "{{ (TEXT ~ '')[:5] }}", "{{ (TEXT ~ '').upper() }}"),
        *("{{ (TEXT ~ '').replace('0', '1') }}", "{{ TEXT + 'x' }}", "{{ TEXT * 2 }}"),
    ],
)
def test_a_text_can_only_be_shown_whole(use: str) -> None:
    assert "template mine: " in refusal(body=LOOP.replace("{{ turn.prompt }}", use.replace("TEXT", "turn.prompt")))


def test_a_body_may_use_numbers_conditions_and_the_order_of_turns() -> None:
    body = (
        "{{ turns | length }} turns{% for turn in turns | reverse %}"
        "{% if loop.first %}, newest {% endif %}{{ turn.number }}: {{ turn['prompt'] }}, "
        "{{ turn.response_a ~ ' or ' ~ turn.response_b }}{% endfor %}"
    )
    assert list(parse(body=body).layout(2)) == [
        "2 turns, newest 2: ",
        Slot(1, "prompt"),
        ", ",
        Slot(1, "response_a"),
        " or ",
        Slot(1, "response_b"),
        "1: ",
        Slot(0, "prompt"),
        ", ",
        Slot(0, "response_a"),
        " or ",
        Slot(0, "response_b"),
    ]


@pytest.mark.parametrize(
    "attack",
    [
        "{{ turns.__class__ }}",
        "{{ turns.__class__.__mro__[1].__subclasses__() }}",
        "{{ turns.append(turns) }}",
        "{{ turns[0].update({'prompt': 'x'}) }}",
        "{{ ''.__class__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ ('%s' | attr('__class__')) }}",
        "{{ '{0.__class__}'.format(turns) }}",
    ],
)
def test_a_body_cannot_leave_the_sandbox(attack: str) -> None:
    assert "template mine: " in refusal(body=LOOP + attack)


@pytest.mark.parametrize(
    "text",
    [
        "name: [unclosed",
        "name: !!python/object/apply:os.system ['touch /tmp/pwned']",
        "name: !!python/name:os.system",
        "!!python/object:judge.prompting.template.Template {}",
        "name: 2024-13-45",
        "a: {b: c}: d",
        "{" * 3000,
        "? [a]\n: b",
        "? {a: b}\n: c",
        "--- a\n--- b",
        "name: \x1b[31m",
    ],
)
def test_what_is_not_safe_yaml_is_refused(text: str) -> None:
    with pytest.raises(JudgeError, match=r"^bad\.yaml: ") as error:
        parse_template(text, "bad.yaml")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["", "just text", "- a\n- list", "3"])
def test_yaml_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(
        JudgeError, match=r"^bad\.yaml: expected a mapping with name, description, body, cue, verdicts$"
    ):
        parse_template(text, "bad.yaml")


def test_a_key_that_is_given_twice_is_refused() -> None:
    text = yaml.safe_dump(GOOD) + "cue: 'Other:'\nchat: {cue: user, cue: assistant}\n"
    with pytest.raises(JudgeError) as error:
        parse_template(text, "mine.yaml")
    assert str(error.value) == "mine.yaml: 'cue' is given twice; 'chat.cue' is given twice"


def test_a_template_file_anywhere_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    assert load_template(str(path)) == parse()
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(GOOD), encoding="utf-8-sig")
    assert load_template(str(tmp_path / "mine.yml")) == parse()


def test_an_unknown_name_is_refused_with_a_suggestion_and_shipped_names() -> None:
    with pytest.raises(JudgeError) as error:
        load_template("minimial")
    assert str(error.value) == (
        "no template 'minimial' (did you mean 'minimal'?); shipped: interleaved, minimal, rubric, side-by-side; "
        "or give the path of a .yaml file"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, binary = tmp_path / "none.yaml", tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    for path, reason in ((missing, "No such file or directory"), (binary, "not UTF-8 text"), (tmp_path, None)):
        with pytest.raises(JudgeError) as error:
            load_template(str(path))
        assert reason is None or str(error.value) == f"{path}: the template cannot be read ({reason})"


def test_a_template_survives_being_written_as_plain_values() -> None:
    from judge.prompting.template import make_template, template_data

    names = builtin_names()
    assert len(names) == 4
    for name in names:
        template = load_template(name)
        assert make_template(json.loads(json.dumps(template_data(template))), "x") == template


def test_every_mistake_of_a_template_is_kept_one_by_one() -> None:
    with pytest.raises(TemplateError) as error:
        parse(zzz=1, cue="Verdict: ")
    assert error.value.problems == (
        "unknown key 'zzz'",
        "the cue must not end in white space (it would split the verdict token)",
    )
    with pytest.raises(TemplateError) as error:
        parse(body="No turns at all.")
    assert [problem.split(" of")[0] for problem in error.value.problems] == [
        f"the body never shows {part}" for part in PARTS
    ]
