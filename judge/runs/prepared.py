"""Prepared tables: every row's token ids and counts, on disk, built once and read shard by shard.

The token ids of all rows would not fit in memory for large tables; a flat file of int32 does not need to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge.files import whole_file
from judge.models.trained_rows import TrainedRows
from judge.prompting.builder import Prompt, PromptBuilder
from judge.tables.comparison import Comparison
from judge.tables.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

_ROW = np.dtype(
    [
        ("length", np.int32),
        ("prompt_hash", np.uint64),
        ("tokens", np.int32, 3),
        ("cut", np.int32, 3),
        ("cut_turns", np.int32),
        ("flags", np.uint32),
        ("label", np.int8),
    ]
)
_TOKEN = np.dtype("<i4")
_TOKENS, _ROWS, _IDS, DONE = "tokens.bin", "rows.npy", "ids.parquet", "prepared.json"


@dataclass
class Prepared:
    """A prepared table in a folder.

    Attributes:
        rows: one record a row (see `_ROW`): length of the prompt, a hash of the first prompt, the counts of
            `judge.prompting.builder.Prompt`, the flags and the label of `judge.tables.comparison.Comparison`.
        both_orders: whether the prompts with A and B exchanged are there too.
        counts: what the table holds (see `Table.counts`).
    """

    folder: Path
    rows: NDArray[np.void]
    both_orders: bool
    counts: dict[str, int]
    _starts: NDArray[np.int64]
    _ids: pa.Array | None = None

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each prompt, shape (rows,)."""
        return self.rows["length"]

    def ids(self) -> pa.Array:
        """Return the ids of the rows, in the table's order and type."""
        import pyarrow.parquet as pq

        if self._ids is not None:
            return self._ids
        return pq.read_table(self.folder / _IDS).column("id").combine_chunks()

    def prompt(self, row: int, swapped: bool) -> NDArray[np.int32]:
        """Return the token ids of one prompt, shape (tokens,)."""
        length = int(self.lengths[row])
        start = int(self._starts[row]) + (length if swapped else 0)
        offset = start * _TOKEN.itemsize
        return np.fromfile(self.folder / _TOKENS, dtype=_TOKEN, count=length, offset=offset)


def prepare(
    table: Table,
    builder: PromptBuilder,
    folder: Path,
    both_orders: bool,
    on_progress: Callable[[int], None],
    trained_rows: TrainedRows | None = None,
    only: NDArray[np.bool_] | None = None,
) -> Prepared:
    """Read a table, build its prompts and write them to `folder`; the last file says that all is there.

    Args:
        both_orders: also write each prompt with A and B exchanged.
        on_progress: called with the number of rows read so far.
        trained_rows: what the judge was trained on; such rows are flagged.
        only: rows to build prompts of, shape (rows,); the others have an empty one. All if None.

    Raises:
        JudgeError: the table cannot be read (see `Table.chunks`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[NDArray[np.void]] = []
    done = 0
    with whole_file(folder / _TOKENS) as tokens, tokens.open("wb") as file:
        for chunk in table.chunks():
            records = np.zeros(len(chunk), dtype=_ROW)
            chosen = np.arange(len(chunk)) if only is None else np.flatnonzero(only[done : done + len(chunk)])
            rows = [chunk[i] for i in chosen]
            if both_orders:
                pairs = builder.build_both_orders(rows)
            else:
                pairs = [(prompt, prompt) for prompt in builder.build(rows)]
            for i, row, (prompt, swapped) in zip(chosen, rows, pairs, strict=True):
                _fill(records[i], row, trained_rows, prompt)
                file.write(prompt.ids.astype(_TOKEN).tobytes())
                if both_orders:
                    file.write(swapped.ids.astype(_TOKEN).tobytes())
            parts.append(records)
            done += len(chunk)
            on_progress(done)
    with whole_file(folder / _ROWS) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(parts), allow_pickle=False)
    with whole_file(folder / _IDS) as temporary:
        pq.write_table(pa.table({"id": table.ids()}), temporary)
    summary = {"both_orders": both_orders, "counts": dict(table.counts), "checksums": _checksums(folder)}
    with whole_file(folder / DONE) as temporary:
        temporary.write_text(json.dumps(summary), encoding="utf-8")
    return open_prepared(folder)


def without_prompts(table: Table, folder: Path, trained_rows: TrainedRows | None) -> Prepared:
    """Return what is known of a table without a tokenizer: ids, labels and flags; every prompt is empty.

    It is held in memory: this is what a run has whose time is up before its prompts are built.

    Raises:
        JudgeError: the table cannot be read.
    """
    parts: list[NDArray[np.void]] = []
    for chunk in table.chunks():
        records = np.zeros(len(chunk), dtype=_ROW)
        for i, row in enumerate(chunk):
            _fill(records[i], row, trained_rows)
        parts.append(records)
    rows = np.concatenate(parts)
    return Prepared(folder, rows, False, dict(table.counts), np.zeros(len(rows), dtype=np.int64), table.ids())


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a whole prepared table, as it was written: disks fail, and copies end half-way."""
    try:
        summary = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return bool(summary["checksums"] == _checksums(folder))
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _checksums(folder: Path) -> dict[str, str]:
    found = {}
    for name in (_TOKENS, _ROWS, _IDS):
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return found


def open_prepared(folder: Path) -> Prepared:
    """Open what `prepare` wrote."""
    summary: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
    rows = np.load(folder / _ROWS, allow_pickle=False)
    each = rows["length"].astype(np.int64) * (2 if summary["both_orders"] else 1)
    starts = np.concatenate([[0], np.cumsum(each)[:-1]]).astype(np.int64)
    return Prepared(folder, rows, summary["both_orders"], summary["counts"], starts)


def _fill(record: np.void, row: Comparison, trained_rows: TrainedRows | None, prompt: Prompt | None = None) -> None:
    first = (row.prompt or (None,))[0] or ""
    digest = hashlib.blake2b(first.encode("utf-8", "replace"), digest_size=8).digest()
    record["prompt_hash"] = int.from_bytes(digest, "little")
    record["flags"], record["label"] = int(row.flags), row.label
    if trained_rows is not None:
        record["flags"] |= trained_rows.flags(row)
    if prompt is not None:
        record["length"] = len(prompt.ids)
        record["tokens"], record["cut"], record["cut_turns"] = prompt.tokens, prompt.cut, prompt.cut_turns
