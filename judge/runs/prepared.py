"""Prepared tables: every row's token ids and counts, on disk, built once and read shard by shard.

The token ids of all rows would not fit in memory for large tables; a flat file of int32 does not need to.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge.deadline import DeadlinePassed
from judge.files import whole_file, write_whole
from judge.models.trained_rows import TrainedRows
from judge.prompting.builder import Prompt, PromptBuilder
from judge.runs.progress import Progress
from judge.runs.shards import Shard
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
        length = int(self.rows["length"][row])
        start = int(self._starts[row]) + (length if swapped else 0)
        offset = start * _TOKEN.itemsize
        return np.fromfile(self.folder / _TOKENS, dtype=_TOKEN, count=length, offset=offset)

    def prompts(self, shard: Shard) -> list[NDArray[np.int32]]:
        """Return the token ids of a shard's prompts, shape (tokens,) each."""
        return [self.prompt(int(row), bool(swapped)) for row, swapped in zip(shard.rows, shard.swapped, strict=True)]


def prepare(
    table: Table,
    builder: PromptBuilder,
    folder: Path,
    both_orders: bool,
    progress: Progress,
    trained_rows: TrainedRows | None = None,
    only: NDArray[np.bool_] | None = None,
    stop_at: float = math.inf,
) -> Prepared:
    """Read a table, build its prompts and write them to `folder`; the last file says that all is there.

    Args:
        both_orders: also write each prompt with A and B exchanged.
        trained_rows: what the judge was trained on; such rows are flagged.
        only: rows to build prompts of, shape (rows,); the others have an empty one. All if None.
        stop_at: when to give up, of time.monotonic().

    Raises:
        JudgeError: the table cannot be read (see `Table.chunks`).
        DeadlinePassed: the time was up before the end.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[NDArray[np.void]] = []
    done = 0
    places = [whole_file(folder / name) for name in (_TOKENS, _ROWS, _IDS)]
    with places[0] as tokens, places[1] as rows_file, places[2] as ids_file, tokens.open("wb") as file:
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
            if time.monotonic() >= stop_at:
                raise DeadlinePassed
            progress.step("reading the table", text=f"{done:,} rows")
        all_records = np.concatenate(parts)
        with rows_file.open("wb") as file_of_rows:
            np.save(file_of_rows, all_records, allow_pickle=False)
        pq.write_table(pa.table({"id": table.ids()}), ids_file)
        file.close()
        counts, starts = dict(table.counts), _starts_of(all_records, both_orders)
        summary = {"both_orders": both_orders, "counts": counts, "checksums": _checksums(tokens, rows_file, ids_file)}
    write_whole(folder / DONE, json.dumps(summary).encode())
    return Prepared(folder, all_records, both_orders, counts, starts)


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


def _checksums(*paths: Path) -> list[str]:
    sums = []
    for path in paths:
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest())
    return sums


def open_prepared(folder: Path) -> Prepared | None:
    """Open what `prepare` wrote; None if it is not there, or not as it was written: disks fail, copies end half-way."""
    try:
        summary: dict[str, Any] = json.loads((folder / DONE).read_text(encoding="utf-8"))
        if summary["checksums"] != _checksums(*(folder / name for name in (_TOKENS, _ROWS, _IDS))):
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    rows = np.load(folder / _ROWS, allow_pickle=False)
    return Prepared(folder, rows, summary["both_orders"], summary["counts"], _starts_of(rows, summary["both_orders"]))


def _starts_of(rows: NDArray[np.void], both_orders: bool) -> NDArray[np.int64]:
    """Return where each row's token ids begin in the file, in tokens, shape (rows,)."""
    each = rows["length"].astype(np.int64) * (2 if both_orders else 1)
    return np.concatenate([[0], np.cumsum(each)[:-1]]).astype(np.int64)


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
