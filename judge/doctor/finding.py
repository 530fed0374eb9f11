"""Findings of `judge doctor`, and the loop that runs its checks: a check that fails does not hide the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from judge.errors import JudgeError, printable

Level = Literal["ok", "note", "problem"]
Group = Literal["machine", "software", "model", "offline"]
_LONGEST = 600  # characters of one text; names of files and tensors can be anything


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: `problem` stops a run or spoils its result, `note` may do so, `ok` is in order.
        text: what was found, and where.
        advice: what to do; every note and every problem has one.
    """

    level: Level
    text: str
    advice: str = ""

    def __post_init__(self) -> None:
        assert self.advice or self.level == "ok", f"no advice: {self.text}"

    @property
    def line(self) -> str:
        """Text and advice as one safe line."""
        return printable(f"{self.text}; {self.advice}" if self.advice else self.text, _LONGEST)


ok = partial(Finding, "ok")
note = partial(Finding, "note")
problem = partial(Finding, "problem")


def from_error(error: JudgeError) -> Finding:
    """Return a user's mistake as a problem; the text behind its last semicolon is the advice."""
    text, _, advice = str(error).rpartition("; ")
    return problem(text, advice) if text else problem(advice, "correct this, then run judge doctor again")


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Run checks one after the other and yield what they find.

    Args:
        checks: each with its name. If one raises a JudgeError or any other exception, that becomes a finding, and the
            next checks run all the same. A finding of several checks is yielded once.
    """
    said: set[Finding] = set()
    for name, check in checks:
        for finding in _run_check(name, check):
            if finding not in said:
                said.add(finding)
                yield finding


def _run_check(name: str, check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except JudgeError as error:
        yield from_error(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield problem(
            f"the check of {name} failed ({printable(reason, 200)})",
            "a mistake of judge's or of the machine's; please report this line",
        )
