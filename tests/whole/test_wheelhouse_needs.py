"""Which wheels the machine that installs needs, whatever machine collects them."""

from __future__ import annotations

import importlib
import platform
import sys
from itertools import pairwise
from pathlib import Path

from packaging import tags

sys.path.append(str(Path(__file__).parents[2] / "requirements"))
needs = importlib.import_module("wheelhouse_needs")
Target, Wheel, needed = needs.Target, needs.Wheel, needs.needed
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
GLIBC = platform.libc_ver()[1]


def wheel(name: str, *requires: str, version: str = "1.0") -> tuple[str, object]:
    return name, Wheel(name, version, f"https://example.org/{name}.whl", "0" * 64, requires)


def test_markers_are_read_for_the_machine_that_installs() -> None:
    """vLLM requires six and an older setuptools on Python 3.12 only."""
    wheels = dict([wheel("vllm", 'six>=1; python_version > "3.11"', 'old; python_version < "3.12"'), wheel("old")])
    assert needed(wheels, ["vllm"], Target("3.11", "2.35")) == ({"vllm", "old"}, [])
    assert needed(wheels, ["vllm"], Target("3.12", "2.35")) == ({"vllm"}, ["six>=1"])


def test_a_wheel_of_a_wrong_version_counts_as_missing() -> None:
    wheels = dict([wheel("torch", "setuptools"), wheel("vllm", "torch", 'setuptools<81; python_version > "3.11"')])
    wheels |= dict([wheel("setuptools", version="84.2.1")])
    assert needed(wheels, ["vllm"], Target("3.11", "2.35"))[1] == []
    assert needed(wheels, ["vllm"], Target("3.12", "2.35"))[1] == ["setuptools<81"]


def test_extras_and_circles_are_followed_and_nothing_else_is_kept() -> None:
    wheels = dict(
        [
            wheel("a", "B_b[fast]"),
            wheel("b-b", 'c; extra == "fast"', 'd; extra == "slow"', "a"),
            *(wheel(name) for name in "cde"),
        ]
    )
    assert needed(wheels, ["A"], Target("3.12", "2.35")) == ({"a", "b-b", "c"}, [])


def test_the_platforms_are_those_of_pip_on_a_machine_with_that_glibc() -> None:
    options = Target(PYTHON, GLIBC).pip_options()
    named = [value for option, value in pairwise(options) if option == "--platform"]
    assert sorted(named) == sorted(set(tags.platform_tags()))
