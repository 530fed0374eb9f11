"""Agreement and consistency as published benchmarks count them, to compare a judge with their published numbers.

The benchmarks differ in the orders that they read, in what they do with a verdict that changes with the order, and in
whether a tie is an answer. Each figure here follows the benchmark's own scoring code where that is public:

- Auto-J: github.com/GAIR-NLP/auto-j, codes/leaderboard/pairwise_eval.py
- PandaLM: github.com/WeOpenML/PandaLM, data/compute_metrics.py
- JudgeLM: github.com/baaivision/JudgeLM, judgelm/llm_judge/eval_model_judgement.py
- MT-Bench: arXiv 2306.05685, section 4.2, and github.com/lm-sys/FastChat, fastchat/llm_judge/compute_agreement.py
- JudgeBench: github.com/ScalerLab/JudgeBench, utils/metrics.py
- LLMBar: github.com/princeton-nlp/LLMBar, LLMEvaluator/evaluate.py
- RewardBench: github.com/allenai/reward-bench, scripts/run_generative.py

A verdict is the most probable of A, B and tie; it is a tie where several are equally probable. LLMBar and RewardBench
offer no tie: there the verdict is the more probable of A and B. A row that the judge could not score has no verdict: it
counts as wrong and as inconsistent. If only some rows were read in both orders, nobody knows which of the rows without
a score were meant to be among them, so the figures of both orders leave these rows out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from judge.evaluation.judged_rows import JudgedRows
from judge.prompting.verdict import Float
from judge.stats.metrics import verdicts
from judge.stats.resample import Estimate, Resampler, Statistic
from judge.tables.comparison import Flag

Readings = Literal["reported", "one order", "both orders"]
Mask = NDArray[np.bool_]
Verdicts = NDArray[np.int64]  # 0 (A), 1 (B), 2 (tie) or -1, shape (rows,)

NO_VERDICT = -1
_TIE = 2
_ONE_ORDER = "needs both orders, and only one was read (score with --swap all)"
_NO_ORDER = "the file does not hold the log-probabilities of an order"


@dataclass(frozen=True)
class AgreementFigure:
    """A figure as a benchmark counts it.

    Attributes:
        name: the benchmark and what it calls the figure.
        source: where the benchmark defines it.
        rows: how many rows count.
        estimate: None where these rows cannot show it.
        remark: why they cannot, or what the reader must know; often empty.
    """

    key: str
    name: str
    counts: str
    source: str
    rows: int
    estimate: Estimate | None
    remark: str = ""


@dataclass(frozen=True)
class _Verdicts:
    """The verdicts of some rows; every array has shape (rows,).

    Attributes:
        reported: verdicts of the probabilities that the file reports.
        first, second: verdicts of the order that shows A first and of the other one, in the table's A and B.
        forced_first, forced_second: the same without ties: the more probable of A and B, -1 where both are equal.
        winner: whether the label is A or B.
        has: the rows that have the readings which a figure needs.
    """

    labels: Verdicts
    reported: Verdicts
    first: Verdicts
    second: Verdicts
    forced_first: Verdicts
    forced_second: Verdicts
    winner: Mask
    has: dict[Readings, Mask]


@dataclass(frozen=True)
class _Definition:
    """How a figure is counted.

    Attributes:
        key, name, counts, source: see `AgreementFigure`.
        needs: the readings that a row must have to count.
        values: the numbers that are added up over rows, shape (rows,) or (rows, columns).
        only: a further condition on the rows.
        statistic: turns the totals of the values and, last, the number of rows into the figure; the mean if None.
        decided: whether only rows whose label is A or B count.
        otherwise: why there is no figure if no row is left.
    """

    key: str
    name: str
    counts: str
    source: str
    needs: Readings
    values: Callable[[_Verdicts], Float]
    only: Callable[[_Verdicts], Mask] = lambda seen: np.ones(len(seen.labels), dtype=bool)
    statistic: Statistic | None = None
    decided: bool = False
    otherwise: str = "no row's label is A or B"


def agreement_figures(rows: JudgedRows, resampler: Resampler) -> list[AgreementFigure]:
    """Return a judge's agreement with the labels, and with itself, as published benchmarks count them."""
    seen = _verdicts(rows)
    return [_figure(definition, seen, resampler, rows) for definition in _DEFINITIONS]


def _figure(definition: _Definition, seen: _Verdicts, resampler: Resampler, rows: JudgedRows) -> AgreementFigure:
    needed = seen.has[definition.needs]
    part: Mask = needed & definition.only(seen) & (seen.winner | (not definition.decided))
    number = int(part.sum())
    words = (definition.key, definition.name, definition.counts, definition.source)
    if not number:
        not_read = _ONE_ORDER if seen.has["one order"].any() else _NO_ORDER
        return AgreementFigure(*words, 0, None, definition.otherwise if needed.any() else not_read)
    values, statistic = definition.values(seen), definition.statistic
    if statistic is None:
        estimate = resampler.means([values], part, shares=True)[0]
    else:
        columns = np.column_stack([values * part[:, np.newaxis], part])
        estimate = resampler.estimate(columns, statistic, about=part)[0]
    if not np.isfinite(estimate.value):
        return AgreementFigure(*words, number, None, definition.otherwise)
    read = int(needed.sum())
    remarks = [] if read == len(rows) else [f"over the {read:,} of {len(rows):,} rows read in {definition.needs}"]
    if statistic is not None and estimate.low is not None and estimate.low == estimate.high:
        # all rows are right, all are wrong, or one side gives one verdict only: no resample can show anything else
        estimate = Estimate(estimate.value, None, None)
        remarks.append("no interval: it is the same in all resamples")
    return AgreementFigure(*words, number, estimate, "; ".join(remarks))


def _verdicts(rows: JudgedRows) -> _Verdicts:
    unscored = rows.has(Flag.NOT_SCORED)
    first, second = (np.asarray(np.isfinite(p).all(axis=1)) for p in (rows.first, rows.second))
    of_first, forced_first = _verdicts_of(rows.first, first & ~unscored)
    of_second, forced_second = _verdicts_of(rows.second, second & ~unscored)
    has_first, has_second = (_counted(read, unscored) for read in (first, second))
    return _Verdicts(
        labels=rows.labels,
        reported=_verdicts_of(rows.p, ~unscored)[0],
        first=of_first,
        second=of_second,
        forced_first=forced_first,
        forced_second=forced_second,
        winner=rows.labels != _TIE,
        has={"reported": np.ones(len(rows), dtype=bool), "one order": has_first, "both orders": has_first & has_second},
    )


def _counted(read: Mask, unscored: Mask) -> Mask:
    """Return the rows that count in an order: those read in it, and the unscored rows if all others were read in it."""
    all_read = bool(read.any() and read[~unscored].all())
    return np.asarray(read | unscored if all_read else read)


def _verdicts_of(p: Float, scored: Mask) -> tuple[Verdicts, Verdicts]:
    """Return the most probable of the three verdicts, and the more probable of A and B (-1 where both are equal)."""
    filled = np.where(scored[:, np.newaxis], p, 0.0)
    forced = np.where(filled[:, 0] == filled[:, 1], NO_VERDICT, filled[:, :2].argmax(axis=1))
    return np.where(scored, verdicts(filled), NO_VERDICT), forced


def _same(a: Verdicts, b: Verdicts) -> Float:
    """Return 1 where two verdicts are the same, 0 elsewhere, also where there is no verdict."""
    return np.asarray((a == b) & (a != NO_VERDICT), dtype=np.float64)


def _combined(seen: _Verdicts) -> Verdicts:
    """Return MT-Bench's verdict: the verdict of both orders where they agree, otherwise a tie."""
    return np.where(seen.first == seen.second, seen.first, _TIE)


def _judgebench(seen: _Verdicts) -> Float:
    """Return 1 where the two orders name the better response more often than the worse one; a tie names neither."""
    worse = 1 - seen.labels
    named = sum(_same(verdicts, seen.labels) - _same(verdicts, worse) for verdicts in (seen.first, seen.second))
    return np.asarray(named > 0, dtype=np.float64)


def _rewardbench(seen: _Verdicts) -> Float:
    """Return the mean over the orders read of 1 for the better response, 0 for the worse one, 0.5 for neither."""
    first, second = (np.where(v == NO_VERDICT, 0.5, v == seen.labels) for v in (seen.forced_first, seen.forced_second))
    return np.where(seen.has["both orders"], (first + second) / 2, first)


def _table(labels: Verdicts, verdicts: Verdicts) -> Float:
    """Return the table of labels and verdicts, one row at a time: a 1 in the row's cell, shape (rows, 12).

    The cell of label i and verdict j is 4 i + j; j = 3 stands for no verdict.
    """
    cell = 4 * labels + np.where(verdicts == NO_VERDICT, 3, verdicts)
    return np.asarray(np.arange(12) == cell[:, np.newaxis], dtype=np.float64)


def _macro_f1(totals: Float, _: Float) -> Float:
    """Return the mean F1 of the three verdicts from the totals of `_table`."""
    table = totals[:-1].reshape(3, 4, -1)
    right = np.stack([table[k, k] for k in range(3)])  # (3, resamples)
    named = table.sum(axis=1) + table.sum(axis=0)[:3]  # labels plus verdicts of each kind, (3, resamples)
    return np.asarray(np.where(named > 0, 2 * right / named, 0.0).mean(axis=0, keepdims=True))


def _kappa(totals: Float, _: Float) -> Float:
    """Return Cohen's kappa from the totals of `_table`; NaN where even chance always agrees."""
    table, rows = totals[:-1].reshape(3, 4, -1), totals[-1]
    observed = np.stack([table[k, k] for k in range(3)]).sum(axis=0) / rows
    expected = (table.sum(axis=1) * table.sum(axis=0)[:3]).sum(axis=0) / rows**2
    return np.asarray((observed - expected) / (1 - expected))[np.newaxis]  # 0 / 0 is NaN


_DEFINITIONS = [
    _Definition(
        "kappa",
        "Cohen's kappa",
        "agreement of the most probable reported verdict with the label beyond chance: 0 is chance, 1 is perfect",
        "J. Cohen, Educ. Psychol. Meas. 20, 1960",
        "reported",
        lambda seen: _table(seen.labels, seen.reported),
        statistic=_kappa,
        otherwise="all labels and verdicts are the same one",
    ),
    _Definition(
        "one_order_agreement",
        "PandaLM accuracy, JudgeLM agreement",
        "the verdict with A shown first, ties included, is the label",
        "PandaLM compute_metrics.py, JudgeLM eval_model_judgement.py",
        "one order",
        lambda seen: _same(seen.first, seen.labels),
    ),
    _Definition(
        "macro_f1",
        "PandaLM and JudgeLM macro F1",
        "F1 of each verdict with A shown first, mean of the three (0 for one that never occurs)",
        "PandaLM compute_metrics.py, JudgeLM eval_model_judgement.py",
        "one order",
        lambda seen: _table(seen.labels, seen.first),
        statistic=_macro_f1,
    ),
    _Definition(
        "autoj_agreement",
        "Auto-J agreement",
        "the verdicts of both orders, ties included, are the label; a verdict that changes is wrong",
        "Auto-J pairwise_eval.py",
        "both orders",
        lambda seen: _same(seen.first, seen.labels) * _same(seen.second, seen.labels),
    ),
    _Definition(
        "consistency",
        "Auto-J, JudgeLM and MT-Bench consistency",
        "the verdicts of both orders, ties included, are the same",
        "Auto-J pairwise_eval.py, JudgeLM eval_model_judgement.py, MT-Bench table 2",
        "both orders",
        lambda seen: _same(seen.first, seen.second),
    ),
    _Definition(
        "mtbench_s1",
        "MT-Bench agreement, setup S1",
        "the verdict, a tie where the two orders differ, is the label; ties count",
        "MT-Bench section 4.2",
        "both orders",
        lambda seen: _same(_combined(seen), seen.labels),
    ),
    _Definition(
        "mtbench_s2",
        "MT-Bench agreement, setup S2",
        "the same over rows that neither the label nor the judge (a tie where the orders differ) calls a tie",
        "MT-Bench section 4.2",
        "both orders",
        lambda seen: _same(_combined(seen), seen.labels),
        lambda seen: np.isin(_combined(seen), (0, 1)),
        decided=True,
        otherwise="no row where neither the label nor the judge's verdict is a tie",
    ),
    _Definition(
        "judgebench",
        "JudgeBench accuracy",
        "more of the two orders' verdicts name the label than its rival (label and tie: right; label and rival: "
        "wrong); rows labelled A or B",
        "JudgeBench utils/metrics.py",
        "both orders",
        _judgebench,
        decided=True,
    ),
    _Definition(
        "llmbar_accuracy",
        "LLMBar average accuracy",
        "the more probable of A and B is the label, mean of both orders; rows labelled A or B",
        "LLMBar evaluate.py",
        "both orders",
        lambda seen: (_same(seen.forced_first, seen.labels) + _same(seen.forced_second, seen.labels)) / 2,
        decided=True,
    ),
    _Definition(
        "llmbar_agreement",
        "LLMBar positional agreement rate",
        "the more probable of A and B is the same in both orders; rows labelled A or B",
        "LLMBar evaluate.py",
        "both orders",
        lambda seen: _same(seen.forced_first, seen.forced_second),
        decided=True,
    ),
    _Definition(
        "rewardbench",
        "RewardBench accuracy",
        "the more probable of A and B is the label (equal: 1/2), mean of the orders read where the benchmark draws one "
        "at random; rows labelled A or B",
        "RewardBench run_generative.py",
        "one order",
        _rewardbench,
        decided=True,
    ),
]
