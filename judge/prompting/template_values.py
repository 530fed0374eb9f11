"""The keys and values that a template file may hold, their defaults, and every mistake in them."""

from __future__ import annotations

from typing import Any

from judge.errors import suggestion

# Private-use characters that frame the mark of a slot in a rendered body; no template may hold them.
OPEN, CLOSE = "\ue000", "\ue001"

REQUIRED = ("name", "description", "body", "cue", "verdicts")
DEFAULTS: dict[str, Any] = {
    "chat": True,
    "cut_mark": "[...]",
    "null_text": "(null)",
    "missing_text": "(no turn)",
}
CHAT_DEFAULTS: dict[str, Any] = {"system": None, "cue": "assistant"}


def repeated_keys(node: Any, inside: str = "") -> list[str]:
    """Return the keys that a YAML mapping, or a mapping in it, gives twice; PyYAML itself would take the last value."""
    keys = [inside + str(key.value) for key, _ in node.value]
    repeated = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    for key, value in node.value:
        if value.id == "mapping" and not inside:
            repeated += repeated_keys(value, f"{key.value}.")
    return repeated


def value_problems(data: dict[str, Any], node: Any = None) -> list[str]:
    """Return every mistake in the keys and values of a template, the Jinja text of its body aside.

    Args:
        node: what PyYAML composed of its text, in which keys may be there twice.
    """
    known = (*REQUIRED, *DEFAULTS)
    problems = [f"{key!r} is given twice" for key in (repeated_keys(node) if node is not None else [])]
    problems += [f"unknown key {k!r}{suggestion(str(k), known)}" for k in data if k not in known]
    problems += [f"no {k!r}" for k in REQUIRED if k not in data]
    for key in ("name", "description", "body", "cue", "cut_mark", "null_text", "missing_text"):
        value = data.get(key, "x")
        if not isinstance(value, str) or (key != "cue" and not value.strip()):
            problems.append(f"{key!r} must be text")
    cue = data.get("cue")
    if isinstance(cue, str) and cue != cue.rstrip():
        problems.append("the cue must not end in white space (it would split the verdict token)")
    if any(isinstance(v, str) and (OPEN in v or CLOSE in v) for v in data.values()):
        problems.append("the characters U+E000 and U+E001 cannot be used")
    problems += _chat_problems(data.get("chat", True))
    return problems + (_verdict_problems(data["verdicts"]) if "verdicts" in data else [])


def _chat_problems(chat: Any) -> list[str]:
    if isinstance(chat, bool):
        return []
    if not isinstance(chat, dict):
        return ["'chat' must be true, false, or a mapping with system and cue"]
    problems = [f"unknown key 'chat.{k}'{suggestion(str(k), CHAT_DEFAULTS)}" for k in chat if k not in CHAT_DEFAULTS]
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
