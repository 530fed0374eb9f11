"""Errors that a user can cause, and the safe printing of text that is not ours.

Every such error ends in one line on standard error and exit status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

Settings = TypeVar("Settings")


class JudgeError(Exception):
    """A mistake in the input, the settings or the environment; its text is one line for the user.

    The text says what is wrong, where (file, row id, column) and what to do about it.
    """


class RunInterrupted(JudgeError):
    """A long run was stopped by the user; its text says how to go on."""


def printable(value: object, limit: int = 80) -> str:
    """Return `value` as one safe line for a terminal or a log.

    Text from tables and models can hold terminal escapes, line breaks or direction marks: everything
    that is not printable is shown as a Python escape, and long text is shortened to `limit` characters.
    """
    text = value if isinstance(value, str) else repr(value)
    shown = text[:limit]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return safe + ("…" if len(text) > limit else "")


def counted(number: int, noun: str) -> str:
    """Return `1 row` or `2,000 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` when a known word is close to `word`, otherwise an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def setting_problem(problem: Mapping[str, Any], known: Iterable[str], word: str = "setting") -> str:
    """Return a mistake in settings in words that a user can act on.

    Args:
        problem: an entry of `pydantic.ValidationError.errors()`.
        known: the names of all settings.
        word: what one of them is called.
    """
    name = printable(".".join(map(str, problem["loc"])))
    if problem["type"] == "extra_forbidden":
        return f"unknown {word} {name!r}{suggestion(name, known)}"
    if problem["type"] == "missing":
        return f"no {name!r}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = f"{name}={printable(problem['input'])}: " if name else ""
    return f"{shown}{message[0].lower()}{message[1:]}"


def parse_settings(
    model: type[Settings],
    values: Mapping[str, Any],
    source: str = "",
    spelled: Callable[[str], str] = str,
) -> Settings:
    """Return settings from plain values.

    Args:
        model: a pydantic model or dataclass.
        source: where the values come from; the error begins with it.
        spelled: gives the name of a setting as the user wrote it, such as `--batch-tokens`.

    Raises:
        JudgeError: every unknown setting and impossible value, in one line.
    """
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            name, *rest = problem["loc"] or ("",)
            shown = {**problem, "loc": (spelled(str(name)), *rest)}
            problems.append(setting_problem(shown, model.__pydantic_fields__))  # type: ignore[attr-defined]
        raise JudgeError((f"{source}: " if source else "") + "; ".join(problems)) from None
