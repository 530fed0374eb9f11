"""Values of a template, changed as a test wants."""

from __future__ import annotations

from typing import Any

import yaml

from judge.prompting.template import (
    Template,
    parse_template,
)

SHIPPED = ["interleaved", "minimal", "rubric", "side-by-side"]
LOOP = "{% for turn in turns %}\n{{ turn.prompt }} | {{ turn.response_a }} | {{ turn.response_b }}\n{% endfor %}"


GOOD: dict[str, Any] = {
    "name": "mine",
    "description": "A template for a test.",
    "body": LOOP,
    "cue": "Verdict:",
    "verdicts": {"a": " A", "b": " B", "tie": " Tie"},
}


def parse(**changes: Any) -> Template:
    return parse_template(yaml.safe_dump({**GOOD, **changes}), "mine.yaml")
