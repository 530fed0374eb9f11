"""The report of an experiment: which arm judges better, on which rows, at what cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from judge.errors import counted, printable
from judge.evaluation.compare import prompts_of
from judge.experiment.arm_figures import ArmFigures, DisputedRow, apart, arm_figures, most_disputed, sweep_of
from judge.experiment.result import ExperimentResult
from judge.experiment.text import rate
from judge.predictions.file import StoredPredictions
from judge.report.experiment_plots import ArmPoint, axis_form, cost_plot, sweep_plot
from judge.report.experiment_prompts import prompts_section, settings_section
from judge.report.experiment_rows import disputed_section, slices_section
from judge.report.forest import ForestRow, forest
from judge.report.html import capitalised, estimate, paragraph, table, tag, warning_list
from judge.report.page import Section, section, write_page
from judge.report.row_data import ReportRow, rows_of
from judge.stats.metrics import MEASURES, Measure
from judge.stats.resample import Estimate
from judge.stats.words import amount
from judge.tables.table import Table

# The browser of rows holds at most so many: those on which the arms disagree most.
MOST_ROWS = 2_000
# A hyphen that stands for a minus sign.
_MINUS = re.compile(r"(?<!\w)-(?=\d)")
_COLOURS = {"baseline": "b", "better": "good", "worse": "bad", "equivalent": "accent", "undecided": "muted"}


def write_experiment_page(path: Path, result: ExperimentResult) -> None:
    """Write the page, whole or not at all; the table is read again for the texts that it shows.

    Raises:
        JudgeError: the table cannot be read any more.
    """
    disputed = most_disputed(result)
    prompts = prompts_of(_table(result), {row.id for row in disputed})
    title = f"{len(result.names)} arms on {result.table}"
    note = f"The rows below are shown with what {printable(result.settings.baseline_name)}, the baseline, says of them."
    if len(result.rows) > MOST_ROWS:
        note += f" They are the {MOST_ROWS:,} of {len(result.rows):,} on which the arms disagree most."
    write_page(path, title, experiment_sections(result, disputed, prompts, note), _browsed(result))


def _table(result: ExperimentResult) -> Table:
    settings = result.settings
    return Table.open(settings.data, settings.cells, settings.on_bad_row)


def _browsed(result: ExperimentResult) -> Iterator[ReportRow]:
    """Yield the rows that the page's browser shows, with the baseline's probabilities, in the table's order."""
    rows = result.rows.where(np.argsort(np.argsort(-apart(result), kind="stable")) < MOST_ROWS)
    with np.errstate(divide="ignore"):  # 0 is -inf, of which the softmax is 0 again
        first, second = np.log(rows.first), np.log(rows.second)
    stored = StoredPredictions(
        name=printable(result.settings.baseline_name),
        kind="predictions",
        ids=[str(row_id) for row_id in rows.ids],
        p=rows.p,
        verdict_mass=rows.verdict_mass,
        flags=rows.flags,
        first=first,
        second=second,
        cut=rows.cut,
    )
    languages = dict(zip(rows.ids.tolist(), rows.facts.language.tolist(), strict=True))
    return rows_of(stored, _table(result), languages)


def experiment_sections(
    result: ExperimentResult, disputed: Sequence[DisputedRow], prompts: Mapping[str, str], browser_note: str = ""
) -> list[Section]:
    """Return the sections, in the order in which they are read.

    Args:
        disputed: rows on which arms disagree most, of `most_disputed`.
        prompts: the beginnings of these rows' prompts, by id.
        browser_note: which rows the page's browser shows.
    """
    arms, measure = arm_figures(result), MEASURES[result.settings.metric]
    sections = [
        _differences(result, arms, measure),
        _sweep(result, arms, measure),
        _costs(arms, measure),
        slices_section(result, measure),
        prompts_section(result),
        disputed_section(result, disputed, prompts, browser_note),
        settings_section(result),
    ]
    return [section for section in sections if section is not None]


def _differences(result: ExperimentResult, arms: Sequence[ArmFigures], measure: Measure) -> Section:
    settings = result.settings
    margin = settings.smallest_that_matters
    better = "left" if measure.better == "lower" else "right"
    head = ("Arm", f"{measure.name} minus the baseline’s{measure.of_unit}", "Is it better?")
    plot = forest(
        [_difference_row(arm, measure) for arm in arms],
        head,
        reference=0.0,
        band=(-margin, margin),
        form=axis_form(measure),
        css="forest long",
    )
    groups = len(set(result.rows.groups.tolist()))
    planned = amount(result.planned_smallest, settings.metric)
    notes = (
        f"On {counted(len(result.rows), 'row')} in {counted(groups, 'prompt group')} of {printable(result.table, 80)}, "
        f"the same for every arm. Intervals are {settings.level:.0%}, over prompt groups, each for its arm alone; "
        "p-values and calls are corrected for the number of arms (Holm). "
        f"Before the run, {planned} was the smallest difference that these rows were expected to show with "
        f"{settings.power:.0%} power."
    )
    words = (
        f"Each arm judged the same rows as the baseline. Better lies {better} of the dashed line. Differences in the "
        f"shaded range, {amount(margin, settings.metric)} to either side, do not matter: an arm is called equivalent "
        "where that is shown, and undecided where these rows show neither."
    )
    content = [
        warning_list(result.warnings),
        paragraph(verdict_line(result), css="lead"),
        paragraph(words),
        plot,
        paragraph(notes, css="note"),
    ]
    return section("arms", "Which arm judges better", *content)


def _difference_row(arm: ArmFigures, measure: Measure) -> ForestRow:
    name, difference = tag("b", printable(arm.name)), arm.difference
    call = "baseline" if difference is None else difference.call
    change = None if difference is None or math.isnan(difference.estimate.value) else difference.estimate
    badge = tag("span", call, css=f"call {call}")
    above = badge if change is None else Markup(" ").join((badge, estimate(change, measure.signed_form)))
    below = Markup(" ").join((measure.name, estimate(arm.score, measure.form)))
    shown = Markup("").join((above, tag("span", below, css="beneath")))
    if difference is None:
        return ForestRow(name, Estimate(0.0, None, None), shown, "The others are compared with it.", "muted")
    sentence = _MINUS.sub("\N{MINUS SIGN}", difference.sentence.removeprefix(f"{measure.name}: "))
    return ForestRow(name, change, shown, sentence, "muted" if change is None else _COLOURS[call])


def verdict_line(result: ExperimentResult) -> str:
    """Return in a sentence which arms are better, worse, equivalent or undecided."""
    calls: dict[str, list[str]] = {"better": [], "worse": [], "equivalent": [], "undecided": []}
    for difference in result.differences:
        calls[difference.call].append(f"“{printable(difference.arm)}”")
    baseline = f"“{printable(result.settings.baseline_name)}”"
    margin = amount(result.settings.smallest_that_matters, result.settings.metric)
    words = {
        "better": f"better than {baseline}",
        "worse": f"worse than {baseline}",
        "equivalent": f"equivalent to {baseline} within {margin}",
        "undecided": "undecided on these rows",
    }
    said = []
    for call, names in calls.items():
        if names:
            *others, last = names
            said.append(f"{', '.join(others)} and {last} are {words[call]}" if others else f"{last} is {words[call]}")
    none = "" if calls["better"] else f"No arm is shown to be better than {baseline}. "
    return none + "; ".join(said) + "."


def _sweep(result: ExperimentResult, arms: Sequence[ArmFigures], measure: Measure) -> Section | None:
    sweep = sweep_of(result)
    if sweep is None:
        return None
    by_name = {arm.name: arm for arm in arms}
    swept = [(at, by_name[name]) for at, name in sweep.points]
    points = [
        ArmPoint(printable(arm.name), at, arm.score, "accent", f"{arm.cost.cut_share:.1%} of rows cut")
        for at, arm in swept
        if arm.score is not None
    ]
    title, axis = {
        "max_tokens": ("Token budget", "token budget"),
        "train_rows": ("Learning curve", "rows trained on"),
    }[sweep.of]
    chart = sweep_plot(points, measure, f"{capitalised(measure.name)} by {axis}", axis, result.settings.level)
    rows = [
        (
            f"{at:,.0f}",
            estimate(arm.score, measure.form),
            f"{arm.cost.cut_share:.1%}",
            f"{arm.cost.tokens_per_row:,.0f}",
        )
        for at, arm in swept
    ]
    figures = table((capitalised(axis), capitalised(measure.name), "Rows cut", "Tokens per row"), rows)
    words = paragraph(
        "Intervals here are of each arm by itself; they overlap more than the paired differences above, which decide.",
        css="note",
    )
    return Section("sweep", title, tag("div", chart, tag("div", figures, words), css="beside"))


def _costs(arms: Sequence[ArmFigures], measure: Measure) -> Section:
    chart = _cost_chart(arms, measure)
    lost = any(arm.cost.not_scored for arm in arms)
    head = ["Arm", "Tokens per row", "Rows/s", "Rows cut", "Verdict mass", "Consistent"]
    head += ["Not scored"] if lost else []
    words = (
        "Tokens count both orders where both are read. Rows/s is the speed of this run’s own reading on this machine; "
        "“cached” where nothing had to be read. Verdict mass is the median probability of the three verdicts among "
        "all tokens. Consistent are rows whose verdict is the same in both orders, of those read in both."
    )
    if chart is None:
        words += " There is no chart: the arms cost the same."
    note = paragraph(words, css="note")
    above = note if chart is None else tag("div", chart, tag("div", note), css="beside")
    rows = table(head, [_cost_row(arm, lost) for arm in arms])
    return section("cost", "Quality and cost", above, rows)


def _cost_row(arm: ArmFigures, lost: bool) -> list[object]:
    cost, none = arm.cost, tag("span", "not known", css="undefined")
    both = "" if cost.both_share in (0.0, 1.0) else f" of {cost.both_share:.0%} of rows"
    return [
        printable(arm.name),
        f"{cost.tokens_per_row:,.0f}",
        tag("span", "cached", css="undefined") if cost.rows_per_second is None else rate(cost.rows_per_second),
        f"{cost.cut_share:.1%}",
        none if cost.median_verdict_mass is None else f"{cost.median_verdict_mass:.4f}",
        tag("span", "one order", css="undefined") if cost.consistency is None else f"{cost.consistency:.1%}{both}",
        *([f"{cost.not_scored:,}"] if lost else []),
    ]


def _cost_chart(arms: Sequence[ArmFigures], measure: Measure) -> Markup | None:
    """Return the score against tokens per row, or, where all arms have as many, against the time; None if equal."""
    scored = [(arm, arm.score) for arm in arms if arm.score is not None]
    tokens = [arm.cost.tokens_per_row for arm, _ in scored]
    speeds = [arm.cost.rows_per_second for arm, _ in scored]
    if tokens and max(tokens) > 1.005 * min(tokens):
        costs, axis = tokens, "prompt tokens per row"
    elif len(scored) > 1 and all(speeds):
        costs, axis = [1000 / speed for speed in speeds if speed], "seconds for 1,000 rows"
    else:
        return None
    calls: list[str] = [arm.difference.call if arm.difference else "baseline" for arm, _ in scored]
    points = [
        ArmPoint(printable(arm.name), at, score, _COLOURS[call], call)
        for (arm, score), at, call in zip(scored, costs, calls, strict=True)
    ]
    keys = [(css, call) for call, css in _COLOURS.items() if call in {"baseline", *calls}]
    return cost_plot(points, measure, axis, keys)
