"""The report's first section: how good the judge is, beside answers that need less knowledge."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from judge.errors import counted
from judge.evaluation.evaluate import Evaluation, Part
from judge.evaluation.judged_rows import left_out_text
from judge.evaluation.quality import Figures
from judge.report.figures import figure
from judge.report.forest import ForestRow, forest
from judge.report.html import estimate, interval, paragraph, signed, table, tag, warning_list
from judge.report.page import Section, section
from judge.stats import words
from judge.stats.metrics import BINS, MARGIN
from judge.stats.resample import CONFIDENCE, Estimate, Undefined

_TITLES: dict[Part, str] = {
    "all": "all rows",
    "trained": "rows that trained this judge",
    "untrained": "rows that did not",
}


def summary_section(evaluation: Evaluation, figures: Figures, more_warnings: Sequence[str] = ()) -> Section:
    """Return the section: warnings, what the judge knows in a sentence, the figures and the baselines."""
    lead = knows(figures)
    # the lead says this one with an interval
    said = lead.split(":")[0].casefold()
    shown = [w for w in (*evaluation.warnings, *more_warnings) if w.split(":")[0].casefold() != said]
    counts = evaluation.rows
    left_out = left_out_text(counts.unlabelled, counts.unpredicted, counts.dropped, "this judge")
    on = f"{counted(figures.rows, 'row')} in {counted(figures.groups, 'prompt group')}{left_out}"
    content = [
        warning_list(shown),
        paragraph(lead, css="lead"),
        tag("div", *_cards(figures), css="cards"),
        _baselines(figures),
        _parts(evaluation),
        paragraph(
            f"On {on}. Intervals are {CONFIDENCE:.0%}, from {evaluation.settings.resamples:,} resamples of prompt "
            "groups.",
            css="note",
        ),
    ]
    return section("summary", "How good the judge is", *content)


def _cards(figures: Figures) -> list[Markup]:
    loss = _beside(figures.class_rates_log_loss, figures.uniform_log_loss)
    accuracy = _beside(figures.class_rates_accuracy, figures.uniform_accuracy, ".1%")
    brier = _beside(figures.class_rates_brier, figures.uniform_brier)
    by_chance = figures.reliability[0].by_chance
    chance = "" if by_chance is None else f"; {by_chance:.4f} by chance alone"
    return [
        _card("Log loss, nats", figures.log_loss, ".4f", loss),
        _card("Accuracy", figures.accuracy, ".1%", accuracy),
        _card("Brier score", figures.brier, ".4f", brier),
        _card("Calibration error", figures.ece, ".4f", f"top-label, {BINS} equal bins{chance}"),
    ]


def knows(figures: Figures) -> str:
    """Return in a sentence whether the judge knows more than how often each verdict occurs."""
    over = figures.over_class_rates
    size = f"its log loss is {abs(over.value):.4f} nats {'lower' if over.value < 0 else 'higher'}"
    if over.low is not None and over.high is not None:
        ends = sorted((abs(over.low), abs(over.high))) if over.low * over.high > 0 else None
        size += f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else f" ({words.interval(over, '+.4f', write=signed)})"
    if over.value >= -MARGIN:
        return f"The judge knows nothing that the class rates don't say: {size} than always giving them."
    if over.high is None or over.high >= 0:
        return f"The judge may know more than the class rates, but these rows cannot show it: {size} than theirs."
    lead = f"The judge knows more than the class rates: {size} than always giving them."
    length = figures.over_length_baseline
    if isinstance(length, Undefined):
        return lead
    if length.high is not None and length.high < 0:
        return f"{lead} It also knows more than the lengths of the responses say."
    return f"{lead} That it knows more than the lengths of the responses say is not shown."


def _card(title: str, figure_: Estimate | Undefined, form: str, note: str) -> Markup:
    if isinstance(figure_, Undefined):
        value, range_ = tag("strong", "\N{EN DASH}"), tag("small", figure_.reason)
    else:
        value, range_ = tag("strong", signed(figure_.value, form)), interval(figure_, form)
    return tag("div", tag("h3", title), value, range_, tag("small", note, css="note"), css="card")


def _beside(class_rates: float, uniform: float, form: str = ".4f") -> str:
    return f"class rates {class_rates:{form}}, uniform {uniform:{form}}"


def _baselines(figures: Figures) -> Markup:
    """Return the judge's log loss beside the log losses of simpler answers."""
    loss, over, length = figures.log_loss, figures.over_length_baseline, figures.length_baseline_log_loss
    rows = [
        ForestRow("This judge", loss, estimate(loss)),
        _baseline("Lengths alone", length, over, "a model of the two responses' lengths, cross-validated"),
        _baseline("Class rates", figures.class_rates_log_loss, figures.over_class_rates, "how often each verdict is"),
        _baseline("Uniform", figures.uniform_log_loss, _shifted(loss, -figures.uniform_log_loss), "one third each"),
    ]
    plot = forest(rows, ("Log loss of", "nats", f"{CONFIDENCE:.0%} interval"), reference=figures.class_rates_log_loss)
    return figure("Beside what knows less", plot, css="wide")


def _baseline(name: str, value: float | None, over: Estimate | Undefined, detail: str) -> ForestRow:
    if value is None:
        return ForestRow(name, None, estimate(over), detail, "muted")
    beside = tag("small", "judge ", estimate(over, "+.4f"), css="beneath")
    shown = Markup("").join((tag("span", tag("b", f"{value:.4f}"), css="estimate"), beside))
    return ForestRow(name, Estimate(value, None, None), shown, detail, "muted")


def _shifted(figure_: Estimate, by: float) -> Estimate:
    low, high = (None if end is None else end + by for end in (figure_.low, figure_.high))
    return Estimate(figure_.value + by, low, high)


def _parts(evaluation: Evaluation) -> Markup | None:
    """Return the parts beside each other, where rows that trained the judge were marked."""
    if len(evaluation.figures) < 2:
        return None
    rows = [
        (_TITLES[part], f"{one.rows:,}", estimate(one.log_loss), estimate(one.accuracy, ".1%"))
        for part, one in evaluation.figures.items()
    ]
    note = "All other figures of this report are of the rows that did not train this judge."
    return figure("Trained rows apart", table(("Rows", "Number", "Log loss", "Accuracy"), rows), note=note, css="wide")
