"""Templates that are found by name: shipped ones, and files in folders of the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from judge.cli.prompt import list_lines
from judge.errors import JudgeError
from judge.prompting.template import (
    load_template,
)
from judge.prompting.template_folders import builtin_folder, builtin_names, template_files
from tests.kit.template_values import GOOD, SHIPPED, parse


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty working directory's folder of templates, and that of the account."""
    here, account = tmp_path / "work" / "prompts", tmp_path / "config" / "judge" / "prompts"
    here.mkdir(parents=True)
    account.mkdir(parents=True)
    monkeypatch.chdir(here.parent)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return here, account


def drop(folder: Path, file_name: str, **changes: Any) -> Path:
    path = folder / file_name
    path.write_text(yaml.safe_dump({**GOOD, "name": path.stem, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_template_that_is_dropped_into_a_folder_has_a_name(
    places: tuple[Path, Path], place: int, suffix: str
) -> None:
    path = drop(places[place], f"short{suffix}", cue="Short:")
    assert load_template("short").cue == "Short:"
    assert builtin_names() == SHIPPED
    line = list(list_lines())[-1]
    assert line == f"short          A template for a test. ({path if place else 'prompts/short' + suffix})"
    with pytest.raises(JudgeError, match=r"^no template 'shrt' \(did you mean 'short'\?\).*; your own: short; or give"):
        load_template("shrt")


def test_the_accounts_folder_is_in_the_home_directory_by_default(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / ".config" / "judge" / "prompts"
    folder.mkdir(parents=True)
    drop(folder, "mine.yaml")
    assert load_template("mine") == parse()
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    with pytest.raises(JudgeError, match=r"^no template 'mine'; shipped: "):
        load_template("mine")
    assert places[0].exists()


def test_a_file_cannot_take_the_place_of_a_shipped_template_silently(places: tuple[Path, Path]) -> None:
    drop(places[0], "minimal.yaml")
    for name in set(SHIPPED) - {"minimal"}:
        assert load_template(name).name == name
    with pytest.raises(JudgeError) as error:
        load_template("minimal")
    reason = "the name 'minimal' is taken by a template that judge ships: rename prompts/minimal.yaml, or give its path"
    assert str(error.value) == reason
    assert list(list_lines())[-1] == f"cannot be used: {reason}"
    assert load_template("prompts/minimal.yaml").description == GOOD["description"]


def test_two_own_templates_of_one_name_are_refused_unless_copies(places: tuple[Path, Path]) -> None:
    drop(places[0], "mine.yaml")
    other = drop(places[1], "mine.yaml")
    assert load_template("mine") == parse()
    drop(places[1], "mine.yaml", cue="Other:")
    with pytest.raises(JudgeError) as error:
        load_template("mine")
    assert str(error.value) == (f"the name 'mine' is taken by prompts/mine.yaml: rename {other}, or give its path")
    assert len(list(list_lines())) == 6


def test_copies_of_the_shipped_templates_are_no_rivals(places: tuple[Path, Path]) -> None:
    for path in builtin_folder().glob("*.yaml"):
        (places[0] / path.name).write_bytes(path.read_bytes())
        (places[1] / path.name).symlink_to(path)
    assert [file.name for file in template_files()] == SHIPPED
    assert all(file.shipped and not file.rivals for file in template_files())
    assert len(list(list_lines())) == 4


def test_a_checkout_of_judge_has_no_rivals_in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(builtin_folder().parent)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert [(file.name, file.shipped, file.rivals) for file in template_files()] == [(n, True, ()) for n in SHIPPED]


def test_other_files_in_a_folder_do_no_harm_and_are_told_in_the_list(places: tuple[Path, Path]) -> None:
    here = places[0]
    (here / "notes.txt").write_text("notes")
    (here / ".hidden.yaml").write_text("hidden")
    (here / "folder.yaml").mkdir()
    (here / "gone.yaml").symlink_to(here / "nothing.yaml")
    (here / "chain.yaml").write_text("_type: prompt\ntemplate: 'Tell a joke'\n")
    (here / "bad\x1b[31m.yaml").write_text("- a\n")
    drop(here, "copied.yaml", name="other")
    drop(here, "fine.yaml")
    assert load_template("fine").name == "fine"
    lines = list(list_lines())
    assert all(line.isprintable() for line in lines)
    assert [line.split()[0] for line in lines[:5]] == [*SHIPPED, "fine"]
    assert lines[5].startswith("cannot be used: prompts/bad\\x1b[31m.yaml: expected a mapping")
    assert lines[6].startswith("cannot be used: prompts/chain.yaml: unknown key '_type'; ")
    assert lines[7] == (
        "cannot be used: prompts/copied.yaml: calls itself 'other'; give the template the name of its file, or name "
        "the file other.yaml"
    )
    assert len(lines) == 8
    with pytest.raises(JudgeError, match="calls itself 'other'"):
        load_template("copied")


def test_a_folder_that_cannot_be_read_is_passed_over(places: tuple[Path, Path]) -> None:
    places[0].rmdir()
    places[0].write_text("a file, no folder")
    assert [file.name for file in template_files()] == SHIPPED
