"""The report's sections about how the judge was made and run: drift, loss curve, settings.

Reports are shared, so of a folder or file only the last part of its name is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel

from judge.errors import JudgeError, printable
from judge.models.judge_file import JudgeFile, read_judge_file
from judge.report.html import details, facts, paragraph, signed, tag
from judge.report.model_sections import drift_section, json_object, training_section
from judge.report.page import Section, section

RUN = ".run.json"  # behind the name of a file of predictions


def run_sections(predictions: Path, model: Path | None) -> tuple[list[Section], list[str]]:
    """Return the sections, and warnings if the model's folder does not fit the predictions.

    Args:
        predictions: the file of predictions; the record that `judge score` wrote beside it is read if it exists.
        model: the judge's folder, if it is known.

    Raises:
        JudgeError: there is no such folder, or a file in it or beside the predictions cannot be read.
    """
    run = json_object(predictions.with_name(predictions.name + RUN))
    judge = None
    sections: list[Section | None] = []
    if model is not None:
        if not model.is_dir():
            raise JudgeError(f"{printable(str(model))}: no such folder; give the judge's folder")
        judge = read_judge_file(model)
        sections = [drift_section(model), training_section(model, judge)]
    sections.append(_settings(predictions, run, model, judge))
    return [one for one in sections if one], _mismatch(run, model, judge)


def _mismatch(run: Mapping[str, Any], model: Path | None, judge: JudgeFile | None) -> list[str]:
    if model is None:
        return []
    name = printable(model.name, 80)
    if judge is None:
        return [f"the folder {name} has no judge.json, so nothing is known of how it was trained"]
    if run.get("template", judge.template_digest) != judge.template_digest:
        return [f"the predictions were made with another prompt template than that of the folder {name}"]
    if run.get("prompt", judge.prompt_fingerprint) != judge.prompt_fingerprint:
        return [f"the predictions were made with other prompts (budget or tokenizer) than those of the folder {name}"]
    return []


def _settings(predictions: Path, run: Mapping[str, Any], model: Path | None, judge: JudgeFile | None) -> Section:
    name = printable(predictions.name, 120)
    scored = {"predictions": name, **_flat(run.get("version"), "version"), **_flat(run.get("settings"))}
    parts = [tag("h3", "Scoring"), facts(scored)]
    if not run:
        name = printable(predictions.name, 80)
        parts.append(paragraph(f"There is no {name}{RUN}, so how they were made is not known."))
    if result := _flat(run.get("result")):
        parts.append(details("What the scoring run recorded", facts(result)))
    if model is not None:
        parts += [tag("h3", "Judge"), facts(_judge_facts(model, judge))]
    if judge is not None:
        parts += _judge_details(judge)
    return section("settings", "How it was made", *parts)


def _judge_facts(model: Path, judge: JudgeFile | None) -> dict[str, object]:
    named: dict[str, object] = {"folder": printable(model.name, 80)}
    if judge is None:
        return named
    named |= {
        "method": judge.method,
        "template": printable(judge.template.get("name", ""), 60),
        "verdicts": ", ".join(repr(word) for word in judge.stored_template().verdicts),
        "verdict ids": ", ".join(map(str, judge.verdict_ids)),
        "budget": f"{judge.max_tokens:,} tokens, {judge.truncation} cut",
        "base model": _last(judge.base.path),
        "base digest": tag("code", judge.base.digest[:16]),
        "steps": _value(judge.training.get("steps")),
        "learnt from, rows": _value(judge.training.get("train_rows")),
        "finished": _value(judge.training.get("finished")).replace("T", " "),
    }
    if judge.calibration is not None:
        named["calibration"] = judge.calibration.in_words()
    if judge.stages:
        named["since then"] = ", ".join(printable(stage.get("stage", "?"), 40) for stage in judge.stages)
    return {name: value for name, value in named.items() if value not in ("", None)}


def _judge_details(judge: JudgeFile) -> list[Markup]:
    parts = []
    body = judge.template.get("body")
    if isinstance(body, str):
        text = body + "\n" + str(judge.template.get("cue", ""))
        parts.append(details("Prompt template", tag("pre", text)))
    if settings := _flat(judge.training.get("settings")):
        parts.append(details("Training settings", facts(settings)))
    if judge.calibration is not None:
        parts.append(details("Calibration", facts(_flat(judge.calibration))))
    parts += [
        details(f"Stage: {printable(stage.get('stage', '?'), 40)}", facts(_flat({**stage, "stage": None})))
        for stage in judge.stages
    ]
    if versions := _flat(judge.training.get("versions")):
        parts.append(details("Versions", facts(versions)))
    return parts


def _flat(values: object, prefix: str = "") -> dict[str, object]:
    """Return nested names and values as one list; what is None is left out."""
    if isinstance(values, BaseModel):
        values = values.model_dump(mode="json")
    if not isinstance(values, dict):
        return {} if values is None or not prefix else {prefix: _value(values)}
    flat: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        flat |= _flat(value, printable(name, 80))
    return flat


def _value(value: object) -> str:
    """Return a value of a settings file as text; of a path its last part."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return signed(value, ".6g")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{printable(k, 40)}: {_value(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value)
    return _last(str(value))


def _last(text: str) -> str:
    """Return the last part of a path; other text as it is."""
    stripped = text.rstrip("/\\")
    shown = re.split(r"[/\\]", stripped)[-1] if re.search(r"[/\\]", stripped) else text
    return printable(shown, 200)
