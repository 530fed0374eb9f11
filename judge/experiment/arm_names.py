"""Names for the arms of an experiment file that have none, made of what differs between the arms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable

LONGEST_NAME = 60
# The fields that a name can be made of, and how each stands in the name.
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
# What these fields are where an arm does not give them, as in `judge.experiment.settings.ArmSettings`.
_DEFAULTS = {"swap": "off", "calibration": "auto"}


def refuse_repeated_keys(path: Path, source: str) -> None:
    """Check that no arm gives a key twice; it happens where the dash of a second arm is missing.

    YAML itself would silently keep the last value.

    Raises:
        JudgeError: an arm gives a key twice.
    """
    import yaml

    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for key, arms in root.value if root is not None else []:
        for number, arm in enumerate(arms.value if key.value == "arms" and arms.id == "sequence" else [], 1):
            keys = [str(field.value) for field, _ in arm.value] if arm.id == "mapping" else []
            twice = next((name for name in keys if keys.count(name) > 1), None)
            if twice is not None:
                raise JudgeError(
                    f"{source}: arm {number}: {printable(twice)!r} is given twice; each arm begins with a dash"
                )


def with_names(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the arms with a name for each: the settings in which the arms differ."""
    differ = [key for key in _IN_NAMES if len({str(arm.get(key)) for arm in arms}) > 1]
    paths = {str(arm[key]) for arm in arms for key in _IN_NAMES if key in arm and _is_path(key, arm[key])}
    ends = _distinct_ends(paths)
    return [arm if "name" in arm else {"name": _name_of(arm, differ, ends), **arm} for arm in arms]


def identical_without_names(arms: Sequence[dict[str, Any]]) -> tuple[int, int] | None:
    """Return the numbers, from 1, of two arms that have the same settings and no name, or None."""
    pairs = combinations([(number, arm) for number, arm in enumerate(arms, 1) if "name" not in arm], 2)
    return next(((i, j) for (i, arm), (j, other) in pairs if arm == other), None)


def _is_path(key: str, value: object) -> bool:
    return key in ("model", "train") or (key == "template" and str(value).endswith((".yaml", ".yml")))


def _distinct_ends(paths: Collection[str]) -> dict[str, str]:
    """Return for each path as many of its last parts as tell it from the other paths."""
    parts = {path: Path(path).parts for path in paths}
    ends = {}
    for path, of_path in parts.items():
        others = [other for other in parts.values() if other != of_path]
        length = len(of_path)
        count = next((n for n in range(1, length) if all(other[-n:] != of_path[-n:] for other in others)), length)
        ends[path] = str(Path(*of_path[length - count :]))
    return ends


def _name_of(arm: dict[str, Any], differ: Sequence[str], ends: dict[str, str]) -> str:
    words = []
    for key in differ:
        value = _DEFAULTS.get(key) if arm.get(key) is None else arm[key]
        if value is False:
            value = "off"
        if value is not None:
            words.append(_IN_NAMES[key].format(ends[str(value)] if _is_path(key, value) else value))
    return printable(", ".join(words) or "default", LONGEST_NAME - 1)
