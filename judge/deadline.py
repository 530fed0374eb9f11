"""Deadlines: how they are written, and the moment that they come to on a clock that nobody can set."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from judge.errors import JudgeError, printable

_PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_FORMS = "expected a duration such as 8h30m, 8.5h, 90m, 45s or 30600 (seconds)"
_MOST = 366 * 86_400.0  # a year; more is a slip of the pen

_abandoned: list[threading.Thread] = []

Value = TypeVar("Value")


class DeadlinePassed(Exception):
    """The time of a run is up; what is missing is given up."""


@dataclass(frozen=True)
class Deadline:
    """When a run must have ended; never by default.

    Attributes:
        at: on the clock of time.monotonic(), so that setting the machine's clock changes nothing.
        text: as the user gave it, safe to print.
    """

    at: float = math.inf
    text: str = ""

    def left(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - time.monotonic()


def parse_duration(text: str) -> float:
    """Return seconds from `8h30m`, `8h`, `90m`, `45s`, `8.5h` or `30600`.

    Raises:
        JudgeError: it is none of these, or not above 0.
    """
    compact = re.sub(r"\s+", "", str(text)).lower()
    match = _PARTS.fullmatch(f"{compact}s" if re.fullmatch(r"[\d.]+", compact) else compact)
    if not match or not any(match.groups()):
        raise JudgeError(f"{printable(str(text), 40)!r} is no duration; {_FORMS}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise JudgeError(f"{printable(str(text), 40)!r} is no time at all; {_FORMS}")
    if not math.isfinite(total) or total > _MOST:
        raise JudgeError(f"{printable(str(text), 40)!r} is more than a year; {_FORMS}")
    return total


def parse_deadline(text: str, began: float | None = None) -> Deadline:
    """Return the deadline that a duration from the run's start, or a clock time, comes to.

    Args:
        text: a duration (see `parse_duration`), or date and time in ISO 8601 such as `2026-11-22T07:30`, of the
            machine's own zone where it names none.
        began: the start that a duration counts from, of time.monotonic(); now if None.

    Raises:
        JudgeError: it is neither, or has passed.
    """
    shown = printable(str(text).strip(), 40)
    now = time.monotonic()
    if re.match(r"\s*\d{4}-", str(text)) is None:
        try:
            at = (now if began is None else began) + parse_duration(text)
        except JudgeError as error:
            raise JudgeError(f"--deadline: {error}, or a time such as 2026-11-22T07:30") from None
    else:
        try:
            moment = datetime.fromisoformat(str(text).strip()).astimezone()
        except (ValueError, OverflowError):
            raise JudgeError(f"--deadline={shown}: is no date and time; write it as 2026-11-22T07:30") from None
        at = now + (moment.timestamp() - time.time())
        if at > now + _MOST:
            raise JudgeError(f"--deadline={shown}: is more than a year away")
    if at <= now:
        raise JudgeError(f"--deadline={shown}: has passed already ({_ago(now - at)} ago); give a later one")
    return Deadline(at, shown)


def _ago(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:,.0f} s"


def process_began() -> float:
    """Return when this process started, on the clock of time.monotonic(); now where the system does not tell.

    Linux counts the start in clock ticks since boot (proc(5), /proc/pid/stat, field 22).
    """
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - max(age, 0.0)


def within(stop_at: float, work: Callable[[], Value]) -> Value:
    """Return what `work` returns, or stop waiting for it when the time is up (see `leave_abandoned`).

    Args:
        stop_at: when to stop waiting, of time.monotonic().
        work: runs in another thread.

    Raises:
        DeadlinePassed: `work` is not done by then.
        Exception: what `work` raises.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = work()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(stop_at - time.monotonic(), 0))
    if thread.is_alive():
        _abandoned.append(thread)
        raise DeadlinePassed
    if "error" in outcome:
        raise outcome["error"]
    value: Value = outcome["value"]
    return value


def leave_abandoned() -> None:
    """End the process, successfully, if work that nobody waits for would hold it up; all files must be written.

    Python waits at its end for threads that belong to a pool, as those do that hash a model's files.
    """
    if any(thread.is_alive() for thread in _abandoned):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
