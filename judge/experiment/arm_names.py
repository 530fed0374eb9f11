"""The arms of an experiment file before they are settings: what those without a name are called."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable

LONGEST_NAME = 60
# What an arm can say of how it reads; the key is the field, the value how it is told in a name.
_IN_NAMES = {
    "model": "{}",
    "template": "{}",
    "max_tokens": "{} tokens",
    "truncation": "cut {}",
    "swap": "swap {}",
    "calibration": "calibration {}",
    "train": "{}",
    "train_rows": "{} rows",
}
# How the fields read where an arm does not give them, as in `judge.experiment.settings.ArmSettings`.
_DEFAULTS = {"swap": "off", "calibration": "auto"}


def refuse_repeated_keys(path: Path, source: str) -> None:
    """Check that no arm gives a key twice, as two arms do where a dash is missing; YAML would keep the last.

    Raises:
        JudgeError: one does.
    """
    import yaml

    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for key, arms in root.value if root is not None else []:
        for number, arm in enumerate(arms.value if key.value == "arms" and arms.id == "sequence" else [], 1):
            keys = [str(one.value) for one, _ in arm.value] if arm.id == "mapping" else []
            twice = next((one for one in keys if keys.count(one) > 1), None)
            if twice is not None:
                raise JudgeError(
                    f"{source}: arm {number}: {printable(twice)!r} is given twice; each arm begins with a dash"
                )


def with_names(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each arm that has none a name: the settings in which the arms differ."""
    differ = [key for key in _IN_NAMES if len({str(arm.get(key)) for arm in arms}) > 1]
    paths = {str(arm[key]) for arm in arms for key in _IN_NAMES if key in arm and _is_path(key, arm[key])}
    ends = _distinct_ends(paths)
    return [arm if "name" in arm else {"name": _name_of(arm, differ, ends), **arm} for arm in arms]


def identical_without_names(arms: Sequence[dict[str, Any]]) -> tuple[int, int] | None:
    """Return the numbers, from 1, of two arms that have the same settings and no name; None where there are none."""
    pairs = combinations([(number, arm) for number, arm in enumerate(arms, 1) if "name" not in arm], 2)
    return next(((i, j) for (i, one), (j, other) in pairs if one == other), None)


def _is_path(key: str, value: object) -> bool:
    return key in ("model", "train") or (key == "template" and str(value).endswith((".yaml", ".yml")))


def _distinct_ends(paths: Collection[str]) -> dict[str, str]:
    """Return as many of the last parts of each path as tell it from the others."""
    parts = {path: Path(path).parts for path in paths}
    found = {}
    for path, own in parts.items():
        others = [one for one in parts.values() if one != own]
        count = next((n for n in range(1, len(own)) if all(one[-n:] != own[-n:] for one in others)), len(own))
        found[path] = str(Path(*own[len(own) - count :]))
    return found


def _name_of(arm: dict[str, Any], differ: Sequence[str], ends: dict[str, str]) -> str:
    words = []
    for key in differ:
        value = arm.get(key)
        if value is None and key in _DEFAULTS:
            value = _DEFAULTS[key]
        if value is False:
            value = "off"
        if value is not None:
            words.append(_IN_NAMES[key].format(ends[str(value)] if _is_path(key, value) else value))
    return printable(", ".join(words) or "default", LONGEST_NAME - 1)
