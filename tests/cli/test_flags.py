"""Flags that are made from the fields of settings models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from judge.cli.commands import Flags, single
from judge.errors import JudgeError


class Oven(BaseModel):
    """Settings of every kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    heat: int = Field(default=180, ge=50, description="Degrees.")
    mode: Literal["top", "bottom"] = Field(default="top", description="Where it is hot.")
    fan_speed: float | None = Field(default=None, gt=0, description="Turns a second. [default: by the heat]")
    trays: tuple[str, ...] = Field(default=(), description="A tray.", json_schema_extra={"flag": "--tray"})
    sides: tuple[float, float] = Field(default=(1.0, 2.0), description="Both sides.")
    shares: dict[str, float] = Field(default={}, description="Share of each dish.")
    light: bool = Field(default=True, description="Shine.")
    clean: bool = Field(default=False, description="Burn the rest.")
    folder: Path | None = Field(default=None, description="Where recipes are.")


@dataclass(frozen=True)
class Timer:
    """Settings in a dataclass."""

    minutes: int = Field(default=5, ge=1, description="How long.")


def run(function: Any, *arguments: str) -> None:
    single(function)(args=list(arguments), prog_name="bake", standalone_mode=False)


def baked(*arguments: str) -> tuple[Oven, Timer]:
    got: list[Any] = []

    def bake(oven: Annotated[Oven, Flags()], timer: Annotated[Timer, Flags()]) -> None:
        """Bake."""
        got.extend((oven, timer))

    run(bake, *arguments)
    oven, timer = got
    return oven, timer


def test_without_flags_the_settings_have_their_defaults() -> None:
    oven, timer = baked()
    assert (oven, timer) == (Oven(), Timer())
    assert oven.model_fields_set == set()


def test_every_kind_of_field_is_read_from_its_flag() -> None:
    arguments = "--heat 90 --mode bottom --fan-speed 2.5 --tray a --tray b --sides 3 4 --shares x=0.5 --shares y=1"
    oven, timer = baked(*arguments.split(), "--no-light", "--clean", "--folder", "r", "--minutes", "7")
    assert (oven.heat, oven.mode, oven.fan_speed, oven.trays, oven.sides) == (90, "bottom", 2.5, ("a", "b"), (3.0, 4.0))
    assert (oven.shares, oven.light, oven.clean, oven.folder) == ({"x": 0.5, "y": 1.0}, False, True, Path("r"))
    assert timer == Timer(7)


def test_all_impossible_values_are_named_by_their_flags() -> None:
    with pytest.raises(JudgeError) as caught:
        baked("--heat", "1", "--fan-speed", "0")
    assert str(caught.value) == (
        "--heat=1: input should be greater than or equal to 50; --fan-speed=0.0: input should be greater than 0"
    )
    with pytest.raises(JudgeError, match="--shares=x: expected NAME=NUMBER"):
        baked("--shares", "x")


def test_the_help_shows_descriptions_choices_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    baked_help(capsys)
    shown = " ".join(capsys.readouterr().out.split())
    for text in (
        "--heat <int> Degrees. [default: 180]",
        "--mode <top|bottom> Where it is hot. [default: top]",
        "--fan-speed <float> Turns a second. [default: by the heat]",
        "--tray <str> A tray.",
        "Both sides. [default: 1.0 2.0]",
        "--light / --no-light Shine. [default: on]",
        "--clean Burn the rest.",
    ):
        assert text in shown
    assert "--no-clean" not in shown


def baked_help(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()

    def bake(oven: Annotated[Oven, Flags()]) -> None:
        """Bake."""
        raise AssertionError(oven)

    run(bake, "--help")


def test_a_command_takes_the_fields_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    def bake(oven: Annotated[Oven, Flags("clean * heat")]) -> None:
        """Bake."""

    run(bake, "--help")
    shown = capsys.readouterr().out
    places = [shown.index(f"  {flag} ") for flag in ("--clean", "--mode", "--folder", "--heat")]
    assert places == sorted(places)

    def grill(oven: Annotated[Oven, Flags("heat")]) -> None:
        """Grill."""

    run(grill, "--help")
    shown = capsys.readouterr().out
    assert "--heat" in shown
    assert "--mode" not in shown


def test_a_command_that_reads_a_file_gets_what_was_given_unchecked() -> None:
    got: list[dict[str, Any]] = []

    def bake(given: Annotated[dict[str, Any], Flags(model=Oven)]) -> None:
        """Bake."""
        got.append(given)

    run(bake, "--heat", "1", "--no-clean")
    assert got == [{"heat": 1, "clean": False}]


def test_a_flag_given_several_times_becomes_a_list() -> None:
    got: list[dict[str, Any]] = []

    def bake(given: Annotated[dict[str, Any], Flags("heat mode", Oven, several=True)]) -> None:
        """Bake."""
        got.append(given)

    run(bake, "--heat", "60", "--heat", "70", "--mode", "top")
    assert got == [{"heat": [60, 70], "mode": ["top"]}]
