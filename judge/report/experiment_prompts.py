"""The report's sections about what was compared: the prompts with their differences marked, and the settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from judge.errors import printable
from judge.experiment.result import ExperimentResult
from judge.prompting.diff import FieldDifference, template_differences
from judge.prompting.template import Template
from judge.report.html import details, paragraph, table, tag
from judge.report.page import Section, section

_LINE_BREAK = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
_ELEMENTS = {"same": "span", "removed": "del", "added": "ins"}
_FIELDS = {
    "body": "Body",
    "cue": "Cue",
    "verdicts": "Verdicts: A, B, tie",
    "chat": "Chat template",
    "system": "System message",
    "cue_role": "Who says the cue",
    "cut_mark": "Mark of a cut",
    "null_text": "Text for null",
    "missing_text": "Text for an absent turn",
}
# Digests are shown as far as anybody compares them.
_DIGEST = re.compile(r"[0-9a-f]{40,64}")


def prompts_section(result: ExperimentResult) -> Section:
    """Return the templates: the baseline's as it is, the others with what they change in it."""
    base = result.scores_of(result.settings.baseline_name)[0].template
    users: dict[str, list[str]] = {base.digest: []}
    templates = {base.digest: base}
    for name in result.names:
        template = result.scores_of(name)[0].template
        templates.setdefault(template.digest, template)
        users.setdefault(template.digest, []).append(name)
    parts = [_template(base, one, users[digest]) for digest, one in templates.items()]
    if len(templates) == 1:
        words = "All arms use one template; what differs is in the settings below."
    else:
        words = (
            "The baseline’s template, and what the others change in it: what they leave out is struck through, what "
            "they put in is underlined. {{ … }} and {% … %} are filled in for each row."
        )
    return section("prompts", "The prompts", paragraph(words), *parts)


def _template(base: Template, template: Template, users: list[str]) -> Markup:
    shown = ", ".join(printable(name) for name in users)
    fields = [difference for difference in template_differences(base, template) if difference.pieces]
    title = tag("h3", printable(template.name), " ", tag("small", f"used by {shown}"))
    body, others = (
        tag("dl", *(_field(one, template is base) for one in fields if (one.field == "body") == is_body), css=css)
        for is_body, css in ((True, "template"), (False, "template small"))
    )
    return Markup("").join((title, body, others))


def _field(one: FieldDifference, is_base: bool) -> Markup | None:
    """Return a field's name and its text; a small field that is as the baseline's is left out."""
    if not one.differs and not is_base and one.field != "body":
        return None
    pieces = []
    for op, text in one.pieces:
        # a change that is nothing but a line break would not be seen
        is_blank = op != "same" and not text.strip()
        pieces.append(tag(_ELEMENTS[op], text.replace("\n", f"{_LINE_BREAK}\n") if is_blank else text))
    same = Markup(" ").join(("", tag("small", "as the baseline’s"))) if not one.differs and not is_base else None
    return tag("div", tag("dt", _FIELDS.get(one.field, one.field), same), tag("dd", tag("pre", *pieces)))


def settings_section(result: ExperimentResult) -> Section:
    """Return what is needed to repeat the experiment; of folders only the last part is shown."""
    resolved = {
        (name if arm.seed is None else f"{name}, seed {arm.seed}"): arm.settings
        for name in result.names
        for arm in result.scores_of(name)
    }
    keys = list(dict.fromkeys(key for settings in resolved.values() for key in settings))
    differ = [key for key in keys if len({_value(s.get(key)) for s in resolved.values()}) > 1]
    alike = [key for key in keys if key not in differ]
    content = [
        paragraph(
            "Give this to ",
            tag("code", "judge experiment"),
            " as a file, with the folders where the names are, and it does the same again. ",
            tag("code", "experiment.json"),
            " beside this report has it in full, with the digests of models, table and templates; ",
            tag("code", "results.parquet"),
            " has what each arm said of each row.",
        ),
        tag("pre", _as_file(result)),
    ]
    if differ:
        rows = [(printable(name), *(_value(s.get(key)) for key in differ)) for name, s in resolved.items()]
        content.append(table(("Arm", *(key.replace("_", " ") for key in differ)), rows))
    if alike:
        first = next(iter(resolved.values()))
        rows = [(key.replace("_", " "), _value(first.get(key))) for key in alike]
        content.append(details("The same for all arms", table(("Setting", "Value"), rows)))
    record = json.dumps(_shortened(result.record), indent=1, ensure_ascii=False, default=str)
    content.append(details("The record", tag("pre", record)))
    return section("settings", "How to repeat it", *content)


def _as_file(result: ExperimentResult) -> str:
    """Return the settings that are not the defaults as the YAML of an experiment file."""
    import yaml

    values = _shortened(result.settings.model_dump(mode="json", exclude_defaults=True))
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _shortened(value: Any) -> Any:
    """Return settings with the last parts of their paths: reports are shared, and folders tell about a machine."""
    if isinstance(value, Mapping):
        return {key: one if key in _TEXTS else _shortened(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shortened(one) for one in value]
    return _last(value) if isinstance(value, str) else value


# Texts in which a stroke is no path: fields of a template's record, names of arms.
_TEXTS = ("templates", "name", "baseline")


def _last(text: str) -> str:
    stripped = text.rstrip("/\\")
    return re.split(r"[/\\]", stripped)[-1] if "\n" not in text and re.search(r"^\S*[/\\]", text) else text


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value[:12] if _DIGEST.fullmatch(value) else printable(_last(value), 60)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(json.dumps(_shortened(value), default=str), 80)
