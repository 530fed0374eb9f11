"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from judge.errors import JudgeError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the name `path` when the block ends without error.

    Raises:
        JudgeError: it cannot be written.
    """
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a process that was killed
        left_over.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # not of a file that is read meanwhile
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise JudgeError(f"{path}: cannot be written ({reason})") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_new_folder(output: Path, parent_needed: bool = True) -> None:
    """Check that a stage can write its folder to `output`.

    Args:
        parent_needed: refuse a folder whose parent does not exist; otherwise the stage makes it.

    Raises:
        JudgeError: it exists, or its parent does not.
    """
    if output.exists():
        raise JudgeError(f"{output}: exists already; choose another folder with -o, or remove it")
    if parent_needed and not output.resolve().parent.is_dir():
        raise JudgeError(f"{output}: there is no folder {output.parent} to write to")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        JudgeError: it cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
