"""`judge data validate`, `split` and `dedupe`: checks tables for training, splits them, takes copies out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from judge.data.survey import Survey, contradicting, copy_sets, group_counts, rates, source_overlaps, survey_all
from judge.errors import JudgeError, counted, printable
from judge.stats.metrics import rates_text
from judge.tables.comparison import VERDICTS, Cells
from judge.tables.overlap import THRESHOLD, jaccard, overlap, shingles
from judge.tables.split import folds, hold_out, normalise, responses_key
from judge.tables.table import Table
from judge.tables.table_files import SUFFIXES
from judge.tables.table_writing import check_output, copy_rows

Conflicts = Literal["keep-first", "drop"]

# If their order is random, A and B win equally often. A difference of four standard deviations and a tenth of the
# decided rows is not chance.
_ORDER_SIGMAS, _ORDER_SHARE = 4.0, 0.1
_SHOWN = 5
_PART = re.compile(rf"(train|heldout|fold-[0-9]+)(-.*)?({'|'.join(map(re.escape, SUFFIXES))})", re.DOTALL)
# A prompt is compared with so many prompts of the same two responses; "yes" and "no" may have thousands.
_MOST_PROMPTS = 200


@dataclass(frozen=True)
class DataFindings:
    """What a check found: facts, problems that harm a training, and notes on what may harm it."""

    facts: list[str]
    problems: list[str]
    notes: list[str]


def validate(paths: Sequence[Path], cells: Cells = "auto") -> DataFindings:
    """Read tables as training does and say what is wrong with them.

    Raises:
        JudgeError: a table cannot be read, or a row has no clear verdict.
    """
    tables, _ = survey_all(paths, cells)
    found = DataFindings([], [], [])
    for table in tables:
        found.facts.append(f"{table.name}: {_summary(table.rows)}")
        found.facts.append(f"  {_labels_and_flags(table)}")
        found.notes.extend(f"{table.name}: {note}" for note in _notes(table.rows))
        if not table.rows["weight"].any():
            found.problems.append(f"{table.name}: every weight is 0, so nothing would be learnt")
    rows = np.concatenate([table.rows for table in tables])
    sets = copy_sets(rows)
    is_copy, contradict = sets != np.arange(len(rows)), contradicting(sets, rows["agreed"])
    if is_copy.any():
        where = _places(tables, is_copy)
        found.notes.append(f"{counted(int(is_copy.sum()), 'row')} with the texts of an earlier row: {where}")
    if contradict.any():
        where = _places(tables, contradict)
        found.problems.append(f"{counted(int(contradict.sum()), 'row')} with one text and several verdicts: {where}")
    return found


def _summary(rows: NDArray[Any]) -> str:
    prompts = len(np.unique(rows["group"]))
    return f"{counted(len(rows), 'row')}, {counted(prompts, 'prompt')}; {rates_text(rates(rows['verdict']))}"


def _labels_and_flags(table: Survey) -> str:
    weights = table.rows["weight"]
    parts = [f"soft labels {int(table.rows['soft'].sum()):,}"]
    if (weights != 1).any():
        parts.append(f"weights {weights.min():g} to {weights.max():g}")
    parts += [f"{name} {table.counts[name]:,}" for name in sorted(table.counts) if name not in ("rows", "labelled")]
    return ", ".join(part for part in parts if not part.endswith(" 0")) or "no flags"


def _notes(rows: NDArray[Any]) -> Iterator[str]:
    counts = np.bincount(rows["verdict"], minlength=3)
    for name, count in zip(VERDICTS, counts, strict=True):
        if count == 0:
            yield f"no row has the verdict {name}"
    a, b = int(counts[0]), int(counts[1])
    if abs(a - b) > max(_ORDER_SIGMAS * (a + b) ** 0.5, _ORDER_SHARE * (a + b)):
        yield f"A wins {a:,} times and B {b:,}: the order gives verdicts away; exchange A and B in half of the rows"
    decided = int((rows["identical"] & (rows["verdict"] != 2)).sum())
    if decided:
        yield f"{counted(decided, 'row')} with a winner between two identical responses"


def _places(tables: Sequence[Survey], chosen: NDArray[np.bool_]) -> str:
    names = [(table.name, row_id) for table in tables for row_id in table.ids]
    shown = [names[i] for i in np.flatnonzero(chosen)[:_SHOWN]]
    texts = [f"{name} id {printable(i, 40)}" if len(tables) > 1 else f"id {printable(i, 40)}" for name, i in shown]
    return ", ".join(texts) + (", …" if chosen.sum() > _SHOWN else "")


def split_tables(
    paths: Sequence[Path],
    folder: Path,
    share: float = 0.1,
    count: int | None = None,
    seed: int = 0,
    suffix: str | None = None,
    cells: Cells = "auto",
) -> list[str]:
    """Split tables by groups of rows with the same first prompt, all tables together.

    Args:
        paths: the tables; each is split into files of its own.
        folder: where to write `train` and `heldout`, or `fold-1` to `fold-N`; the names of several tables are appended.
        share: the share of the rows to hold out.
        count: the number of folds; with it, `share` does not matter.
        seed: another seed gives another split.
        suffix: format of the files; the format of each table if not given.
        cells: how cells are read.

    Returns:
        The report: sizes and verdicts of each side, and what the sides and the sources have in common.

    Raises:
        JudgeError: a table cannot be read, there are too few groups, or the folder has files of another split.
    """
    names = ["train", "heldout"] if count is None else [f"fold-{i + 1}" for i in range(count)]
    outputs = _split_outputs(paths, folder, names, suffix)
    tables, prompts = survey_all(paths, cells)
    rows = np.concatenate([table.rows for table in tables])
    if count is None:
        part = hold_out(rows["group"], rows["verdict"], share, seed).astype(np.int64)
    else:
        part = folds(rows["group"], rows["verdict"], count, seed)
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.cumsum([0, *map(len, tables)])
    for (t, number), path in outputs.items():
        keep = part[starts[t] : starts[t + 1]] == number
        path.unlink(missing_ok=True)  # a file of an earlier split; a part without rows gets no file
        if keep.any():
            copy_rows(paths[t], keep, path)
    lines = [f"{name}: {_summary(rows[part == i])}" for i, name in enumerate(names)]
    for i, name in [(1, "heldout")] if count is None else list(enumerate(names)):
        other = "train" if count is None else "the others"
        lines += overlap(prompts, group_counts(rows[part != i]), group_counts(rows[part == i])).lines(other, name)
    for left, right, found in source_overlaps(tables, prompts):
        lines += found.lines(f"source {printable(left)}", f"source {printable(right)}")
    return lines


def _split_outputs(
    paths: Sequence[Path], folder: Path, names: list[str], suffix: str | None
) -> dict[tuple[int, int], Path]:
    """Return the file of each (table, part), after checking that they can be written."""
    if folder.exists() and not folder.is_dir():
        raise JudgeError(f"{printable(str(folder), 4096)}: is a file, expected a folder")
    outputs = {}
    for t, path in enumerate(paths):
        stem = "" if len(paths) == 1 else f"-{path.stem}"
        for i, name in enumerate(names):
            outputs[t, i] = folder / f"{name}{stem}{suffix or path.suffix.lower()}"
    if len(set(outputs.values())) < len(outputs):
        raise JudgeError("two tables have the same name, and so would their parts; rename one")
    expected = {path.resolve() for path in (*outputs.values(), *paths)}
    for other in sorted(folder.glob("*")):
        if _PART.fullmatch(other.name) and other.resolve() not in expected:
            shown = printable(str(other), 4096)
            raise JudgeError(f"{shown}: is of another split; move it away, or give another folder")
    if folder.exists():
        for output in outputs.values():
            check_output(output, paths)
    return outputs


def dedupe(
    path: Path, output: Path, near: bool = False, conflicts: Conflicts = "keep-first", cells: Cells = "auto"
) -> list[str]:
    """Write a table without the rows that compare the same texts as an earlier row.

    Such rows have equal prompts and the same two responses, in either order (`judge.tables.split.row_key`).

    Args:
        path: the table.
        output: the table to write.
        near: also take out rows with the same responses and near-duplicate prompts (`judge.tables.overlap`).
        conflicts: whether to keep the first or none of several copies with different verdicts.
        cells: how cells are read.

    Returns:
        The report.

    Raises:
        JudgeError: the table cannot be read, or nothing would be left.
    """
    check_output(output, [path])
    (table,), _ = survey_all([path], cells)
    sets = copy_sets(table.rows)
    exact = int((sets != np.arange(len(sets))).sum())
    if near:
        sets = _near_sets(path, cells, sets)
    keep = sets == np.arange(len(sets))
    contradict = contradicting(sets, table.rows["agreed"])
    if conflicts == "drop":
        keep &= ~contradict
    if not keep.any():
        raise JudgeError(f"{table.name}: every row has a copy with another verdict; nothing would be left")
    copy_rows(path, keep, output)
    all_copies = int((sets != np.arange(len(sets))).sum())
    rest = rates_text(rates(table.rows["verdict"][keep]))
    lines = [f"{counted(len(table), 'row')}, of which {keep.sum():,} stay; {rest}", f"copies: {exact:,}"]
    if near:
        lines.append(f"near-copies: {all_copies - exact:,}")
    if contradict.any():
        done = "the first of each is kept" if conflicts == "keep-first" else "all of them are dropped"
        n = counted(int(contradict.sum()), "row")
        lines.append(f"{n} with one text and several verdicts, {done}: {_places([table], contradict)}")
    return lines


def _near_sets(path: Path, cells: Cells, sets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the sets whose prompts are near-duplicates and whose responses are the same."""
    table = Table.open(path, cells, labels="required")
    joined = sets.copy()
    firsts: dict[int, list[tuple[int, NDArray[np.uint64]]]] = {}  # the sets of the same responses, with their shingles
    rows = (row for chunk in table.chunks() for row in chunk)
    for number, row in enumerate(rows):
        if sets[number] == number:
            ours = shingles("\n".join(normalise(turn or "") for turn in row.prompt))
            known = firsts.setdefault(responses_key(row), [])
            alike = (s for s, theirs in known[-_MOST_PROMPTS:] if jaccard(ours, theirs) >= THRESHOLD)
            joined[number] = next(alike, number)
            if joined[number] == number:
                known.append((number, ours))
        else:
            joined[number] = joined[sets[number]]
    return joined
