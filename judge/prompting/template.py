"""Prompt templates: strict YAML files that lay a comparison out as a chat prompt.

A template's body is Jinja text over `turns`. It is rendered once for each number of turns, with a mark in every place
where a text goes. The texts themselves never pass through Jinja, so nothing that a user or a model wrote can act as
template code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from judge.errors import JudgeError, printable
from judge.prompting.template_folders import SUFFIXES, TemplateFile, find_template
from judge.prompting.template_values import CHAT_DEFAULTS, CLOSE, DEFAULTS, OPEN, REQUIRED, value_problems

Part = Literal["prompt", "response_a", "response_b"]
PARTS: tuple[Part, ...] = ("prompt", "response_a", "response_b")

_SLOT = re.compile(f"{OPEN}([0-9]+):([a-z_]+){CLOSE}")

# Jinja's filters that a body may use, all of them on `turns`; a filter on a text could change it.
_FILTERS = ("count", "first", "last", "length", "reverse")


class TemplateError(JudgeError):
    """A text is not a valid template; the message names its source and every mistake.

    Attributes:
        problems: the mistakes, one by one.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__(f"{source}: " + "; ".join(problems))
        self.problems = tuple(problems)


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

    @cached_property
    def digest(self) -> str:
        """SHA-256 over everything that reaches the model (name and description do not)."""
        content = {k: v for k, v in asdict(self).items() if k not in ("name", "description")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @lru_cache(maxsize=64)  # noqa: B019 (a template is small, so the cache may keep it alive)
    def layout(self, turn_count: int) -> tuple[str | Slot, ...]:
        """Return the body for `turn_count` turns as fixed texts and slots, in order.

        Raises:
            JudgeError: the body is not valid Jinja, uses an unknown variable, or does more with a text than show it.
        """
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
        )
        environment.filters = {name: environment.filters[name] for name in _FILTERS}
        turns = [
            {"number": i + 1, **{part: _Mark(f"{OPEN}{i}:{part}{CLOSE}") for part in PARTS}} for i in range(turn_count)
        ]
        try:
            text = environment.from_string(self.body).render(turns=turns).strip()
        except Exception as error:  # a body is code: it can raise anything
            raise TemplateError(
                f"template {printable(self.name)}",
                [
                    f"{printable(str(error), 200)}; the body may use turns (with the filters {', '.join(_FILTERS)}) "
                    "and, of each turn, number, prompt, response_a, response_b"
                ],
            ) from None
        fixed, *rest = _SLOT.split(text)  # a fixed text, then turn, part and fixed text of each slot
        pieces: list[str | Slot] = [fixed]
        for turn, part, behind in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
            pieces += [Slot(int(turn), cast(Part, part)), behind]
        changed = any(isinstance(p, Slot) and (p.part not in PARTS or p.turn >= turn_count) for p in pieces)
        if changed or any(isinstance(p, str) and (OPEN in p or CLOSE in p) for p in pieces):
            raise TemplateError(f"template {printable(self.name)}", ["the body changes a text before showing it"])
        return tuple(p for p in pieces if p != "")


class _Mark:
    """Stands for a text while the body is rendered: the body can show it, and do nothing else with it."""

    __slots__ = ("_shown",)

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __str__(self) -> str:
        return self._shown

    def _refuse(self, *_: object) -> Any:
        raise TypeError("a text can only be shown, whole and as it is")

    __bool__ = __eq__ = __len__ = __iter__ = __repr__ = _refuse


@lru_cache(maxsize=64)
def copies(template: Template) -> dict[Part, int]:
    """Return how often each turn's text of each part is shown.

    Raises:
        TemplateError: see `body_problems`.
    """
    problems = body_problems(template, (1, 2, 3))
    if problems:
        raise TemplateError(f"template {printable(template.name)}", problems)
    slots = template.layout(1)
    return {part: slots.count(Slot(0, part)) for part in PARTS}


def body_problems(template: Template, turn_counts: Sequence[int]) -> list[str]:
    """Return the mistakes that a body shows in conversations of these lengths.

    The body must show each part, equally often in every turn, and A as often as B.

    Raises:
        TemplateError: see `Template.layout`.
    """
    counts: dict[Part, set[int]] = {part: set() for part in PARTS}
    for turn_count in turn_counts:
        shown = Counter(piece for piece in template.layout(turn_count) if isinstance(piece, Slot))
        for part in PARTS:
            counts[part] |= {shown[Slot(turn, part)] for turn in range(turn_count)}
    problems = []
    for part in PARTS:
        if 0 in counts[part]:
            problems.append(
                f"the body never shows {part} of some turn (write {{{{ turn.{part} }}}} in a loop over turns)"
            )
        elif len(counts[part]) > 1:
            problems.append(f"the body shows {part} more often in some turns (show it as often in each)")
    if not problems and counts["response_a"] != counts["response_b"]:
        often = {part: min(counts[part]) for part in PARTS}
        problems.append(f"A and B are not treated alike: {often} (show both equally often)")
    return problems


def load_template(name_or_path: str) -> Template:
    """Load a template by its name (see `judge.prompting.template_folders`) or by the path of a YAML file.

    Raises:
        JudgeError: no such template, two different ones of this name, or a file that is not a valid template.
    """
    if Path(name_or_path).suffix in SUFFIXES:
        return read_template(Path(name_or_path))
    return named_template(find_template(name_or_path))


def named_template(file: TemplateFile) -> Template:
    """Load a template that was found by its name.

    Raises:
        JudgeError: not a valid template, or one that calls itself by another name than its file's.
    """
    template = read_template(file.path)
    if template.name != file.name:
        name = printable(template.name)
        raise TemplateError(
            printable(str(file.path), 200),
            [f"calls itself {name!r}; give the template the name of its file, or name the file {name}.yaml"],
        )
    return template


def read_template(path: Path) -> Template:
    """Load the template of a YAML file.

    Raises:
        JudgeError: the file cannot be read or is not a valid template.
    """
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
        reason = printable(" ".join(str(error).split()), 160)
        raise TemplateError(source, [f"is not valid YAML ({reason})"]) from None
    if not isinstance(data, dict):
        raise TemplateError(source, [f"expected a mapping with {', '.join(REQUIRED)}"])
    return make_template(data, source, node)


def make_template(data: dict[str, Any], source: str, node: Any = None) -> Template:
    """Check the keys and values of a template and return it.

    Args:
        node: what PyYAML composed of the template's text, in which keys may be there twice.

    Raises:
        JudgeError: every mistake found, in one line, with the source named.
    """
    problems = value_problems(data, node)
    if problems:
        raise TemplateError(source, problems)
    chat, verdicts = data.get("chat", True), data["verdicts"]
    layout = CHAT_DEFAULTS | (chat if isinstance(chat, dict) else {})
    changed = {
        "description": data["description"].strip(),
        "body": data["body"].strip(),
        "verdicts": (verdicts["a"], verdicts["b"], verdicts["tie"]),
        "chat": chat is not False,
        "system": layout["system"],
        "cue_role": layout["cue"],
    }
    template = Template(**{**DEFAULTS, **data, **changed})
    copies(template)
    return template


def template_data(template: Template) -> dict[str, Any]:
    """Return a template as a mapping from which `make_template` makes the same template."""
    data = asdict(template)
    data["verdicts"] = dict(zip(("a", "b", "tie"), template.verdicts, strict=True))
    system, cue = data.pop("system"), data.pop("cue_role")
    data["chat"] = {"system": system, "cue": cue} if template.chat else False
    return data
