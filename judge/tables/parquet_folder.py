"""Folders of Parquet files that are one table: finds, reads and writes them.

The parts of a table are the files `*.parquet` (or `*.pq`) directly in the folder; their rows follow one another in the
order of the files' names. Files that other programs leave beside them (`_SUCCESS`, `.part-0.crc`) are ignored.
"""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from judge.errors import JudgeError, printable

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".pq")
PART_ROWS = 100_000  # rows that `write_folder` puts into a file


def parts_of(path: Path) -> list[Path]:
    """Return the files that a table consists of: the parts of a folder, sorted by name, or the file itself.

    Raises:
        JudgeError: a folder inside the folder holds Parquet files; they would be left out.
    """
    if not path.is_dir():
        return [path]
    nested = next((inner for inner in path.glob("*/*") if _is_part(inner) and _is_visible(inner.parent)), None)
    if nested is not None:
        raise JudgeError(
            f"{printable(str(path), 4096)}: holds a folder of Parquet files, {printable(nested.parent.name, 255)}; "
            "only files directly in it are read, so give that folder, or put all files into one"
        )
    return sorted(inner for inner in path.iterdir() if _is_part(inner))


def read_table(path: Path) -> pa.Table:
    """Return all columns of a Parquet file or folder.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables(pq.ParquetFile(part).read() for part in parts_of(path)).combine_chunks()


def check_replaceable(path: Path) -> None:
    """Check that `write_folder` may write to this path.

    Raises:
        JudgeError: a file is there, or a folder that holds other files than `write_folder` writes.
    """
    if path.is_file():
        raise JudgeError(f"{path}: is a file, expected a folder; a name without suffix is a folder of Parquet files")
    inside = list(path.iterdir()) if path.exists() else []
    strange = next((p for p in inside if not (p.is_file() and p.match("part-*.parquet"))), None)
    if strange is not None:
        raise JudgeError(
            f"{path}: is a folder that holds {printable(strange.name, 255)}, which are no predictions; give the name "
            "of a folder that judge may replace"
        )


def write_folder(path: Path, table: pa.Table, part_rows: int = PART_ROWS) -> None:
    """Write a table as a folder of Parquet files, `part-00000.parquet` and so on, whole or not at all.

    An existing folder of that name is removed first, so for a moment there is no folder.

    Raises:
        JudgeError: the folder cannot be written.
    """
    import pyarrow.parquet as pq

    check_replaceable(path)
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for number, start in enumerate(range(0, max(table.num_rows, 1), part_rows)):
            part = temporary / f"part-{number:05d}.parquet"
            pq.write_table(table.slice(start, part_rows), part)
            _to_disk(part)
        _to_disk(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise JudgeError(f"{path}: cannot be written ({reason})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_part(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and _is_visible(path) and path.is_file()


def _is_visible(path: Path) -> bool:
    return not path.name.startswith((".", "_"))


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
