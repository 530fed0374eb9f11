"""Prompt templates: strict YAML files that lay a comparison out as a chat prompt.

A template's body is Jinja text over `turns`; it is rendered once per *shape* (number of turns), with a
mark in every place where a text goes. The texts themselves never pass through Jinja, so nothing that a
user or a model wrote can act as template code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from judge.errors import JudgeError, printable, suggestion

Part = Literal["prompt", "response_a", "response_b"]
PARTS: tuple[Part, ...] = ("prompt", "response_a", "response_b")

# Private-use characters that frame the mark of a slot in a rendered body.
_OPEN, _CLOSE = "\ue000", "\ue001"
_SLOT = re.compile(f"{_OPEN}([0-9]+):([a-z_]+){_CLOSE}")

_DEFAULTS: dict[str, Any] = {
    "chat": True,
    "cut_mark": "[...]",
    "null_text": "(null)",
    "missing_text": "(no turn)",
}
_CHAT_DEFAULTS: dict[str, Any] = {"system": None, "cue": "assistant"}
_REQUIRED = ("name", "description", "body", "cue", "verdicts")
# Jinja's filters that a body may use, all of them on `turns`; a filter on a text could change it.
_FILTERS = ("count", "first", "last", "length", "reverse")


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the prompt for the text of one part of one turn (turns count from 0)."""

    turn: int
    part: Part


@dataclass(frozen=True)
class Template:
    """One prompt template.

    Attributes:
        body: Jinja text over `turns`, each with `number`, `prompt`, `response_a`, `response_b`.
        cue: the fixed text right before the verdict.
        verdicts: the strings for A, B and tie; each must be one token after the cue.
        chat: whether the model's own chat template wraps the body, when the model has one.
        system: system message of the chat layout, or None for the chat template's own default.
        cue_role: `assistant` opens the reply with the cue, `user` ends the message with it.
        cut_mark, null_text, missing_text: shown where text was cut, is null, or a turn is absent.
    """

    name: str
    description: str
    body: str
    cue: str
    verdicts: tuple[str, str, str]
    chat: bool
    system: str | None
    cue_role: str
    cut_mark: str
    null_text: str
    missing_text: str

    @property
    def digest(self) -> str:
        """SHA-256 over everything that reaches the model (name and description do not)."""
        content = {k: v for k, v in vars(self).items() if k not in ("name", "description")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def layout(self, turn_count: int) -> list[str | Slot]:
        """Return the body for `turn_count` turns as fixed texts and slots, in order.

        Raises:
            JudgeError: the body is not valid Jinja, uses an unknown variable, or does more with a text than show it.
        """
        return list(_layout(self, turn_count))


class _Mark:
    """What a body gets in place of a text: it can be shown, and nothing else can be done with it."""

    __slots__ = ("_shown",)

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __str__(self) -> str:
        return self._shown

    def _refuse(self, *_: object) -> Any:
        raise TypeError("a text can only be shown, whole and as it is")

    __bool__ = __eq__ = __len__ = __iter__ = __repr__ = _refuse


@lru_cache(maxsize=64)
def _layout(template: Template, turn_count: int) -> tuple[str | Slot, ...]:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
    )
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    turns = [
        {"number": i + 1, **{part: _Mark(f"{_OPEN}{i}:{part}{_CLOSE}") for part in PARTS}} for i in range(turn_count)
    ]
    try:
        text = environment.from_string(template.body).render(turns=turns).strip()
    except Exception as error:  # a body is code: it can raise anything
        raise JudgeError(
            f"template {printable(template.name)}: {printable(str(error), 200)}; the body may use turns (with the "
            f"filters {', '.join(_FILTERS)}) and, of each turn, number, prompt, response_a, response_b"
        ) from None
    pieces: list[str | Slot] = []
    end = 0
    for match in _SLOT.finditer(text):
        if match.start() > end:
            pieces.append(text[end : match.start()])
        turn, part = int(match[1]), match[2]
        if part not in PARTS or turn >= turn_count:
            raise JudgeError(f"template {template.name}: the body changes a text before showing it")
        pieces.append(Slot(turn, part))
        end = match.end()
    pieces.append(text[end:])
    if any(isinstance(p, str) and (_OPEN in p or _CLOSE in p) for p in pieces):
        raise JudgeError(f"template {template.name}: the body changes a text before showing it")
    return tuple(p for p in pieces if p != "")


def copies(template: Template) -> dict[Part, int]:
    """Return how often each turn's text of each part is shown.

    Raises:
        JudgeError: a part is never shown, is shown a different number of times in different turns, or
            A and B are not shown equally often.
    """
    counts: dict[Part, set[int]] = {part: set() for part in PARTS}
    for turn_count in (1, 2, 3):
        slots = [piece for piece in template.layout(turn_count) if isinstance(piece, Slot)]
        for part in PARTS:
            counts[part] |= {slots.count(Slot(turn, part)) for turn in range(turn_count)}
    for part in PARTS:
        if 0 in counts[part]:
            raise JudgeError(f"template {template.name}: the body never shows {part} of some turn")
        if len(counts[part]) > 1:
            raise JudgeError(f"template {template.name}: the body shows {part} more often in some turns")
    result = {part: min(counts[part]) for part in PARTS}
    if result["response_a"] != result["response_b"]:
        raise JudgeError(f"template {template.name}: A and B are not treated alike: {result}")
    return result


def builtin_folder() -> Path:
    """Return the folder of the templates that judge ships (in a wheel or in a checkout)."""
    inside = Path(__file__).parent / "prompts"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "prompts"


def builtin_names() -> list[str]:
    """Return the names of the templates that judge ships."""
    return sorted(path.stem for path in builtin_folder().glob("*.yaml"))


def load_template(name_or_path: str) -> Template:
    """Load a template by the name of a shipped one or by the path of a YAML file.

    Raises:
        JudgeError: no such template, or a file that is not a valid template.
    """
    if name_or_path in builtin_names():
        path = builtin_folder() / f"{name_or_path}.yaml"
    else:
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            hint = suggestion(name_or_path, builtin_names())
            raise JudgeError(
                f"no template {printable(name_or_path)!r}{hint}; shipped: {', '.join(builtin_names())}; "
                "or give the path of a .yaml file"
            )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise JudgeError(f"{path}: the template cannot be read ({reason})") from None
    return parse_template(text, str(path))


def parse_template(text: str, source: str) -> Template:
    """Check the YAML text of a template and return it.

    Raises:
        JudgeError: every mistake found, in one line, with the source named.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-45
        raise JudgeError(f"{source}: is not valid YAML ({printable(' '.join(str(error).split()), 160)})") from None
    if not isinstance(data, dict):
        raise JudgeError(f"{source}: expected a mapping with {', '.join(_REQUIRED)}")
    return make_template(data, source, [f"{key!r} is given twice" for key in _repeated_keys(node)])


def make_template(data: dict[str, Any], source: str, problems: Sequence[str] = ()) -> Template:
    """Check the keys and values of a template and return it.

    Args:
        problems: mistakes that are known already, told with the others.

    Raises:
        JudgeError: every mistake found, in one line, with the source named.
    """
    problems = [*problems, *_problems(data)]
    if problems:
        raise JudgeError(f"{source}: " + "; ".join(problems))
    data = {**_DEFAULTS, **data}
    chat = data["chat"] if isinstance(data["chat"], dict) else {}
    chat = {**_CHAT_DEFAULTS, **chat}
    verdicts = data["verdicts"]
    template = Template(
        name=data["name"],
        description=data["description"].strip(),
        body=data["body"].strip(),
        cue=data["cue"],
        verdicts=(verdicts["a"], verdicts["b"], verdicts["tie"]),
        chat=data["chat"] is not False,
        system=chat["system"],
        cue_role=chat["cue"],
        cut_mark=data["cut_mark"],
        null_text=data["null_text"],
        missing_text=data["missing_text"],
    )
    copies(template)
    return template


def template_data(template: Template) -> dict[str, Any]:
    """Return a template as the mapping that `make_template` makes the same template of."""
    return {
        "name": template.name,
        "description": template.description,
        "body": template.body,
        "cue": template.cue,
        "verdicts": dict(zip(("a", "b", "tie"), template.verdicts, strict=True)),
        "chat": {"system": template.system, "cue": template.cue_role} if template.chat else False,
        "cut_mark": template.cut_mark,
        "null_text": template.null_text,
        "missing_text": template.missing_text,
    }


def _repeated_keys(node: Any, inside: str = "") -> list[str]:
    """Return the keys that a YAML mapping, or a mapping in it, has twice; PyYAML itself takes the last."""
    keys = [inside + str(key.value) for key, _ in node.value]
    repeated = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    for key, value in node.value:
        if value.id == "mapping" and not inside:
            repeated += _repeated_keys(value, f"{key.value}.")
    return repeated


def _problems(data: dict[str, Any]) -> list[str]:
    known = (*_REQUIRED, *_DEFAULTS)
    problems = [f"unknown key {k!r}{suggestion(str(k), known)}" for k in data if k not in known]
    problems += [f"no {k!r}" for k in _REQUIRED if k not in data]
    for key in ("name", "description", "body", "cue", "cut_mark", "null_text", "missing_text"):
        value = data.get(key, "x")
        if not isinstance(value, str) or (key != "cue" and not value.strip()):
            problems.append(f"{key!r} must be text")
    cue = data.get("cue")
    if isinstance(cue, str) and cue != cue.rstrip():
        problems.append("the cue must not end in white space (it would split the verdict token)")
    if any(isinstance(v, str) and (_OPEN in v or _CLOSE in v) for v in data.values()):
        problems.append("the characters U+E000 and U+E001 cannot be used")
    problems += _chat_problems(data.get("chat", True))
    return problems + (_verdict_problems(data["verdicts"]) if "verdicts" in data else [])


def _chat_problems(chat: Any) -> list[str]:
    if isinstance(chat, bool):
        return []
    if not isinstance(chat, dict):
        return ["'chat' must be true, false, or a mapping with system and cue"]
    problems = [f"unknown key 'chat.{k}'{suggestion(str(k), _CHAT_DEFAULTS)}" for k in chat if k not in _CHAT_DEFAULTS]
    if not isinstance(chat.get("system"), (str, type(None))):
        problems.append("'chat.system' must be text")
    if chat.get("cue", "assistant") not in ("assistant", "user"):
        problems.append("'chat.cue' must be assistant or user")
    return problems


def _verdict_problems(verdicts: Any) -> list[str]:
    if not isinstance(verdicts, dict) or set(verdicts) != {"a", "b", "tie"}:
        return ["'verdicts' must have exactly the keys a, b and tie"]
    if not all(isinstance(v, str) and v.strip() for v in verdicts.values()):
        return ["each verdict must be text"]
    if len(set(verdicts.values())) < 3:
        return ["the three verdicts must differ"]
    return []
