"""Finds templates by name: those that judge ships, and files that a user put into a folder.

A name stands for one template. A file with other content under a taken name is never used, so nothing in a working
directory can take the place of a shipped template.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from judge.errors import JudgeError, printable, suggestion

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class TemplateFile:
    """A template file that has a name.

    Attributes:
        name: the file's name without its suffix.
        rivals: files with other content under the same name; the name cannot be used while there are any.
    """

    name: str
    path: Path
    shipped: bool
    rivals: tuple[Path, ...] = ()

    @property
    def clash(self) -> str | None:
        """Says what to do about the rivals; None if there are none."""
        if not self.rivals:
            return None
        holder = "a template that judge ships" if self.shipped else printable(str(self.path), 200)
        rivals = ", ".join(printable(str(path), 200) for path in self.rivals)
        return f"the name {printable(self.name)!r} is taken by {holder}: rename {rivals}, or give its path"


def builtin_folder() -> Path:
    """Return the folder of the templates that judge ships (in a wheel or in a checkout)."""
    inside = Path(__file__).parents[1] / "prompts"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "prompts"


def builtin_names() -> list[str]:
    """Return the names of the templates that judge ships."""
    return sorted(path.stem for path in builtin_folder().glob("*.yaml"))


def template_folders() -> list[Path]:
    """Return the folders into which a user can drop templates: `prompts` here, and one for the whole account."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    # without a home directory, expanduser of os.path leaves the path as it is
    return [Path("prompts"), Path(os.path.expanduser(config)) / "judge" / "prompts"]  # noqa: PTH111


def template_files() -> list[TemplateFile]:
    """Return the templates that have a name: the shipped ones, then those of each folder, by name.

    A copy of a template under its own name is not a rival: judge's own checkout has the shipped templates in `prompts`.
    """
    files: dict[str, TemplateFile] = {}
    for folder in [builtin_folder(), *template_folders()]:
        for path in _files(folder):
            known = files.get(path.stem)
            if known is None:
                files[path.stem] = TemplateFile(path.stem, path, folder == builtin_folder())
            elif not _is_copy(known.path, path):
                files[path.stem] = TemplateFile(path.stem, known.path, known.shipped, (*known.rivals, path))
    return list(files.values())


def find_template(name: str) -> TemplateFile:
    """Return the file of a template's name.

    Raises:
        JudgeError: no template has this name, or two different ones have it.
    """
    files = {file.name: file for file in template_files()}
    file = files.get(name)
    if file is None:
        users = [printable(file.name) for file in files.values() if not file.shipped]
        raise JudgeError(
            f"no template {printable(name)!r}{suggestion(name, files)}; shipped: {', '.join(builtin_names())}; "
            + (f"your own: {', '.join(users)}; " if users else "")
            + "or give the path of a .yaml file"
        )
    if file.clash:
        raise JudgeError(file.clash)
    return file


def _files(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:  # there is no such folder, or it is not ours to read
        return []
    return [path for path in paths if path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()]


def _is_copy(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other) or one.read_bytes() == other.read_bytes()
    except OSError:
        return False
