"""What `judge experiment` prints of its result, for a terminal of 100 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from judge.errors import counted, printable
from judge.experiment.arm_figures import ArmFigures, arm_figures
from judge.experiment.result import ExperimentResult
from judge.experiment.text import WIDTH, line, metric_text, rate
from judge.stats.metrics import MEASURES, Measure
from judge.stats.words import interval

_NAME = 20  # columns for an arm's name; a longer one gets a separate line


def result_lines(result: ExperimentResult) -> Iterator[str]:
    """Yield what the experiment found, as aligned lines."""
    measure, settings, arms = MEASURES[result.settings.metric], result.settings, arm_figures(result)
    groups = counted(len(set(result.rows.groups.tolist())), "prompt group")
    yield line("table", f"{printable(result.table, 60)}, {counted(len(result.rows), 'row')} in {groups}")
    yield line("metric", metric_text(settings))
    yield line("intervals", f"{settings.level:.0%}, over prompt groups; p-values after Holm's correction")
    yield ""
    yield from _quality_lines(arms, measure)
    yield ""
    for arm in arms:
        if arm.difference is not None:
            yield from _sentence_lines(arm.difference.sentence)
    yield ""
    yield from _cost_lines(arms)
    if result.warnings:
        yield ""
    for warning in result.warnings:
        yield f"warning: {warning}"


def _sentence_lines(sentence: str) -> Iterator[str]:
    whole = sentence.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    for part in textwrap.wrap(whole, WIDTH, subsequent_indent="  ", break_on_hyphens=False):
        yield part.replace("\N{NO-BREAK SPACE}", " ")


def _quality_lines(arms: Sequence[ArmFigures], measure: Measure) -> Iterator[str]:
    short = "Brier" if measure.name == "Brier score" else measure.name
    yield f"{'arm':{_NAME}}  {short:>8}  {'interval':16}  difference  {'interval':18}  {'p':>6}  verdict"
    for arm in arms:
        score = "-" if arm.score is None else f"{arm.score.value:{measure.form}}"
        around = "" if arm.score is None else interval(arm.score, measure.form)
        cells = f"{score:>8}  {around:16}"
        if arm.difference is None:
            yield from _named(arm.name, f"{cells}  (baseline)")
            continue
        change = arm.difference.estimate
        yield from _named(
            arm.name,
            f"{cells}  {format(change.value, measure.signed_form):>10}  {interval(change, measure.signed_form):18}"
            f"  {_p_text(arm.difference.p_holm):>6}  {arm.difference.call}",
        )


def _cost_lines(arms: Sequence[ArmFigures]) -> Iterator[str]:
    lost = any(arm.cost.not_scored for arm in arms)
    titles = ["tokens/row", "rows/s", "cut", "verdict mass", "consistent", *(["not scored"] if lost else [])]
    yield f"{'cost':{_NAME}}" + "".join(f"  {title:>{max(len(title), 8)}}" for title in titles)
    for arm in arms:
        cost = arm.cost
        cells = [
            f"{cost.tokens_per_row:,.0f}",
            "cached" if cost.rows_per_second is None else rate(cost.rows_per_second),
            f"{cost.cut_share:.1%}",
            "-" if cost.median_verdict_mass is None else f"{cost.median_verdict_mass:.4f}",
            "-" if cost.consistency is None else f"{cost.consistency:.1%}",
            *([f"{cost.not_scored:,}"] if lost else []),
        ]
        yield from _named(
            arm.name, "  ".join(f"{cell:>{max(len(title), 8)}}" for cell, title in zip(cells, titles, strict=True))
        )


def _named(name: str, figures: str) -> Iterator[str]:
    """Yield figures behind the arm's name, which gets a separate line where it is long."""
    shown = printable(name)
    if len(shown) > _NAME:
        yield shown
        shown = ""
    yield f"{shown:{_NAME}}  {figures}"


def _p_text(p_value: float) -> str:
    """Return a p-value in at most six characters."""
    if math.isnan(p_value):
        return "-"
    return f"{p_value:.4f}" if p_value >= 0.00005 else "<.0001"
