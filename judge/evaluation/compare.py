"""Two judges on the same labelled rows: how much they differ, whether that is more than chance, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from judge.errors import JudgeError
from judge.evaluation.members import MemberRows, labelled_rows
from judge.evaluation.settings import CompareSettings
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import as_three
from judge.stats.metrics import MEASURES, Metric, hits
from judge.stats.permutation import sign_flip_test
from judge.stats.resample import Estimate, Resampler, check_resampling
from judge.stats.words import amount, amount_interval, p_text
from judge.tables.comparison import VERDICTS
from judge.tables.table import Table

# A difference counts as shown only if its p-value is below this.
SIGNIFICANT = 0.05
_MOST_PERMUTATIONS = 1_000_000


@dataclass(frozen=True)
class Difference:
    """A measure of both judges, B minus A, and the p-value of that difference (`sign_flip_test`).

    The log loss is in nats; the Brier score is the sum over verdicts of the squared errors, from 0 to 2.
    """

    a: Estimate
    b: Estimate
    difference: Estimate
    p_value: float
    conclusion: str


@dataclass(frozen=True)
class VerdictChanges:
    """How many rows changed their most probable verdict, and how many of them became right or wrong."""

    changed: int
    to_right: int
    to_wrong: int


@dataclass(frozen=True)
class ChangedRow:
    """A row on which the judges differ; `moved` is how much probability went to other verdicts, 0 to 1."""

    id: str
    moved: float
    a: tuple[float, float, float]
    b: tuple[float, float, float]
    human: str
    prompt: str


@dataclass(frozen=True)
class CompareResult:
    """The comparison of two judges, `names`, on a table; `differences` has the measures' names as keys."""

    names: tuple[str, str]
    table: str
    settings: CompareSettings
    rows: int
    groups: int
    unlabelled: int
    unpredicted: int
    dropped: int
    differences: dict[str, Difference]
    verdicts: VerdictChanges
    most_changed: list[ChangedRow]
    warnings: list[str]


def compare(
    members: Sequence[StoredPredictions], table: Table, settings: CompareSettings | None = None
) -> CompareResult:
    """Compare two judges on the labelled rows of a table.

    Args:
        members: two, of `judge.evaluation.members.read_members`: A and B.
        table: read twice, in a stream: for labels, and for the prompts of the rows that are listed.

    Raises:
        JudgeError: a setting is out of range, the ids are not the table's, no row has a label, or rows trained one of
            the judges (unless dropped).
    """
    settings = settings or CompareSettings()
    check_resampling(settings.resamples, settings.seed)
    if not 100 <= settings.permutations <= _MOST_PERMUTATIONS:
        raise JudgeError(f"--permutations={settings.permutations}: expected 100 to {_MOST_PERMUTATIONS:,}")
    if settings.rows < 0:
        raise JudgeError(f"--rows={settings.rows}: expected a number of 0 or more")
    labelled = labelled_rows(members, table, settings.trained_rows, settings.partial)
    names = (members[0].name, members[1].name)
    return CompareResult(
        names=names,
        table=table.name,
        settings=settings,
        rows=len(labelled.rows),
        groups=len(np.unique(labelled.rows.groups)),
        unlabelled=labelled.unlabelled,
        unpredicted=labelled.unpredicted,
        dropped=labelled.dropped,
        differences=_differences(labelled, names, settings),
        verdicts=_verdicts(labelled),
        most_changed=_most_changed(labelled, table, settings.rows),
        warnings=labelled.warnings(),
    )


def _differences(labelled: MemberRows, names: tuple[str, str], settings: CompareSettings) -> dict[str, Difference]:
    rows, (a, b) = labelled.rows, labelled.p
    resampler = Resampler(rows.groups, settings.resamples, settings.seed)
    result: dict[str, Difference] = {}
    for metric, measure in MEASURES.items():
        of_a, of_b = measure.scores(a, rows.labels), measure.scores(b, rows.labels)
        is_share = metric == "accuracy"
        columns = np.column_stack([of_a, of_b, of_b - of_a])
        estimate_a, estimate_b, difference = resampler.estimate(columns, shares=[is_share, is_share, False])
        p_value = sign_flip_test(of_b - of_a, rows.groups, settings.permutations, settings.seed)
        result[metric] = Difference(
            estimate_a, estimate_b, difference, p_value, _conclusion(metric, names, difference, p_value)
        )
    return result


def _conclusion(metric: Metric, names: tuple[str, str], difference: Estimate, p_value: float) -> str:
    """Return a sentence. A difference counts as shown if the interval excludes 0 and the p-value is below 0.05."""
    what, value = MEASURES[metric].name, difference.value
    change = amount(value, metric, "+")
    if difference.low is None or difference.high is None:
        return f"{what}: a difference of {change}; one prompt group leaves no interval"
    if difference.low <= 0 <= difference.high or p_value >= SIGNIFICANT:
        ends = amount_interval(difference, metric, "+")
        return f"{what}: no difference shown; {change}, the interval reaches from {ends}, {p_text(p_value)}"
    better = names[1] if (value > 0) == (metric == "accuracy") else names[0]
    size = difference if value > 0 else difference.times(-1)
    ends = amount_interval(size, metric)
    return f"{what}: {better} is better by {amount(size.value, metric)} ({ends}), {p_text(p_value)}"


def _verdicts(labelled: MemberRows) -> VerdictChanges:
    a, b = labelled.p
    most = [p == p.max(axis=1, keepdims=True) for p in (a, b)]  # equally probable verdicts are one verdict
    gained = hits(b, labelled.rows.labels) - hits(a, labelled.rows.labels)
    changed = (most[0] != most[1]).any(axis=1)
    return VerdictChanges(int(changed.sum()), int((gained > 0).sum()), int((gained < 0).sum()))


def _most_changed(labelled: MemberRows, table: Table, count: int) -> list[ChangedRow]:
    a, b = labelled.p
    moved = np.abs(a - b).sum(axis=1) / 2
    order = np.argsort(-moved, kind="stable")[:count]  # rows are sorted by id
    order = order[moved[order] > 0]
    ids = [str(labelled.rows.ids[i]) for i in order]
    prompts = prompts_of(table, set(ids))
    return [
        ChangedRow(
            id=row_id,
            moved=float(moved[i]),
            a=as_three(a[i]),
            b=as_three(b[i]),
            human=VERDICTS[labelled.rows.labels[i]],
            prompt=prompts[row_id],
        )
        for row_id, i in zip(ids, order, strict=True)
    ]


def prompts_of(table: Table, ids: set[str]) -> dict[str, str]:
    """Return the first prompt of each of these rows that is not blank; the table is read again, as far as needed."""
    prompts: dict[str, str] = {}
    for chunk in table.chunks() if ids else ():
        for row in chunk:
            if str(row.id) in ids:
                prompts[str(row.id)] = next((turn for turn in row.prompt if turn and turn.strip()), "")
        if len(prompts) == len(ids):
            break
    return prompts
