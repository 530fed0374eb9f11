"""Several prediction files for the same rows, side by side: what an ensemble and a comparison start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted, printable
from judge.evaluation.judged_rows import JudgedRows, few_groups_text, join, only_in_one, without_trained
from judge.evaluation.settings import RefuseOrDrop
from judge.predictions.file import StoredPredictions, read_predictions
from judge.prompting.verdict import Float
from judge.stats.resample import FEW_GROUPS
from judge.tables.comparison import UNREAD, Flag
from judge.tables.table import Table


@dataclass(frozen=True)
class MemberRows:
    """The labelled rows of a table with what each member says of them.

    Attributes:
        rows: in the order of their ids as text; `flags` are those of all members together, everything else (`p`,
            `verdict_mass`, `first`, ...) is the first member's.
        p: probabilities of A, B and tie, shape (members, rows, 3).
        scored: which members could score which rows, shape (members, rows).
        unlabelled: how many of the table's rows have no label.
        unpredicted, dropped: how many labelled rows have no prediction, or trained a member; they are left out.
        flagless: names of the members whose file has no flags.
    """

    rows: JudgedRows
    p: Float
    scored: NDArray[np.bool_]
    unlabelled: int
    unpredicted: int
    dropped: int
    flagless: tuple[str, ...]

    def warnings(self) -> list[str]:
        """Return what the user must know to read figures of these rows, as whole lines."""
        groups = len(np.unique(self.rows.groups))
        same_prompt = int(self.rows.has(Flag.TRAINED_PROMPT).sum())
        not_scored = int((~self.scored).any(axis=0).sum())
        warnings: list[tuple[object, str]] = [
            (
                self.flagless,
                f"{', '.join(self.flagless)}: no column flags, so it is not known whether rows trained the judge",
            ),
            (
                same_prompt,
                f"{counted(same_prompt, 'row')} with the prompt of another row that trained a judge: the figures may "
                "be too good",
            ),
            (groups < FEW_GROUPS, few_groups_text(groups)),
            (
                not_scored,
                f"{counted(not_scored, 'row')} that a judge could not score: they count with 1/3 each for that judge",
            ),
        ]
        return [text for holds, text in warnings if holds]


def read_members(paths: Sequence[Path]) -> list[StoredPredictions]:
    """Read files of predictions and bring them into the order of the first one's rows.

    Files with the same name get their path as a name.

    Raises:
        JudgeError: a file cannot be read (`read_predictions`), its ids are not those of the first, a file is given
            twice, or two files hold the same probabilities.
    """
    for k, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:k]]:
            raise JudgeError(f"{printable(str(path), 4096)}: is given twice; give each judge once")
    members = [read_predictions(path) for path in paths]
    names = Counter(member.name for member in members)
    members = [
        replace(member, name=printable(str(path), 4096)) if names[member.name] > 1 else member
        for member, path in zip(members, paths, strict=True)
    ]
    aligned = [_aligned(member, members[0]) for member in members]
    for k, member in enumerate(aligned):
        same = next((other.name for other in aligned[:k] if np.array_equal(other.p, member.p)), None)
        if same is not None:
            raise JudgeError(f"{member.name}: holds the same probabilities as {same}; give each judge once")
    return aligned


def _aligned(member: StoredPredictions, first: StoredPredictions) -> StoredPredictions:
    """Return a member's rows in the order of the first member's."""
    places = {row_id: i for i, row_id in enumerate(member.ids)}
    problems = only_in_one(
        set(first.ids),
        places.keys(),
        f"has no prediction for {{}} of {first.name}",
        f"has predictions for {{}} that {first.name} does not have",
    )
    if problems:
        raise JudgeError(f"{member.name}: {'; '.join(problems)}; give predictions of the same table")
    order = np.array([places[row_id] for row_id in first.ids])
    ordered = {name: values[order] for name, values in vars(member).items() if isinstance(values, np.ndarray)}
    return replace(member, ids=first.ids, **ordered)


def joint_flags(members: Sequence[StoredPredictions]) -> NDArray[np.uint32]:
    """Return the flags of aligned members together, shape (rows,); a row is not scored if no member scored it."""
    known = [member.flags for member in members if member.flags is not None]
    flags = np.bitwise_or.reduce([np.zeros(len(members[0].ids), dtype=np.uint32), *known])
    unread = np.all([member.has(UNREAD) for member in members], axis=0)
    return np.asarray(np.where(unread, flags, flags & ~np.uint32(UNREAD)))


def labelled_rows(
    members: Sequence[StoredPredictions], table: Table, trained_rows: RefuseOrDrop, partial: bool = False
) -> MemberRows:
    """Join aligned members with a table's labels, without the rows that trained any of them.

    Args:
        members: of `read_members`.
        table: read once, in a stream; open it with `on_bad_row="placeholder"`.

    Raises:
        JudgeError: the ids are not the table's, no row has a label, rows trained a member and are refused, or no row
            is left.
    """
    together = replace(members[0], flags=joint_flags(members))
    rows = join(together, table, partial=partial)
    names = [member.name for member in members if member.has(Flag.TRAINED_ON).any()]
    kept = without_trained(rows, names, trained_rows, "so figures on them would say little about new rows")
    places = {row_id: i for i, row_id in enumerate(members[0].ids)}
    order = np.array([places[row_id] for row_id in kept.ids])
    return MemberRows(
        rows=kept,
        p=np.stack([member.p[order] for member in members]),
        scored=np.stack([~member.has(UNREAD)[order] for member in members]),
        unlabelled=table.counts["rows"] - table.counts["labelled"],
        unpredicted=table.counts["labelled"] - len(rows),
        dropped=len(rows) - len(kept),
        flagless=tuple(member.name for member in members if member.flags is None),
    )
