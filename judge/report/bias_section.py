"""The report's section on biases: each effect in a sentence, with its interval beside the margin that matters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from judge.errors import counted, printable
from judge.evaluation.bias import Bias, LengthBin, PositionFigures
from judge.evaluation.bias_effects import LEAST_GROUPS, Effect, score_of_a
from judge.evaluation.judged_rows import JudgedRows
from judge.report.figures import Curve, figure, share_curves, shift_histogram
from judge.report.forest import ForestRow, forest
from judge.report.html import capitalised, details, estimate, paragraph, signed, table, tag
from judge.report.page import Section, section
from judge.report.svg import span
from judge.stats.resample import CONFIDENCE

_COLOURS = {"present": "bad", "absent": "good"}
_MOST_MODELS = 30  # in the forest plot; the rest would be a wall


def bias_section(bias: Bias, rows: JudgedRows) -> Section:
    """Return the section about the biases that were measured on these rows."""
    charts = [chart for chart in (_shifts(bias, rows), _orders(bias.position), _lengths(bias.lengths)) if chart]
    content = [
        paragraph(
            "What moves the judge that should not, in points of score: a response scores 100 where it surely wins, 50 "
            "at a tie. An effect is called present where its interval excludes 0 and it is at least "
            f"{bias.margin * 100:g} points, absent where its interval lies within that margin, which is shaded."
        ),
        _effects(bias.effects, bias.margin),
        tag("div", *charts, css="plots") if charts else None,
        _models(bias) if bias.models else None,
    ]
    return section("bias", "Biases", *content)


def _effects(effects: Sequence[Effect], margin: float) -> Markup:
    rows = []
    for effect in effects:
        title = capitalised(effect.title)
        points = None if effect.estimate is None else effect.estimate.times(100)
        shown = tag("span", effect.call, css=f"call {effect.call.replace(' ', '-')}")
        if effect.rows:
            counts = f"{counted(effect.rows, 'row')}, {counted(effect.groups, 'group')}"
            shown = Markup(" ").join((shown, tag("small", counts)))
        sentence = capitalised(effect.sentence.removeprefix(f"{title}: "))
        rows.append(ForestRow(tag("b", title), points, shown, sentence, _COLOURS.get(effect.call, "muted")))
    # a handful of rows can be 80 points off by chance, and would leave no room for the others
    sure = [row.figure for row, effect in zip(rows, effects, strict=True) if effect.groups >= LEAST_GROUPS]
    ends = [end for points in sure if points for end in points.ends]
    within = span(ends, (-300 * margin, 300 * margin))
    head = ("Effect", f"points of score, {CONFIDENCE:.0%} interval", "Is it there?")
    return forest(rows, head, reference=0.0, band=(-100 * margin, 100 * margin), within=within, css="forest long")


def _shifts(bias: Bias, rows: JudgedRows) -> Markup | None:
    if bias.position is None:
        return None
    with np.errstate(invalid="ignore"):
        shifts = score_of_a(rows.first) - score_of_a(rows.second)
    position = next(effect for effect in bias.effects if effect.key == "position")
    return shift_histogram(shifts, None if position.estimate is None else position.estimate.value)


def _lengths(bins: Sequence[LengthBin]) -> Markup | None:
    if not any(part.rows for part in bins):
        return None
    curves = [
        Curve("judge", "accent", [part.judge for part in bins]),
        Curve("people", "muted", [part.people for part in bins]),
    ]
    names = [f"\N{LESS-THAN OR EQUAL TO}{part.high:g}" if part.high else f">{part.low:g}" for part in bins]
    x_label = "how many times as long as the other it is"
    return share_curves(
        "How the longer response fares", curves, x_label, "its mean score", names, [part.rows for part in bins]
    )


def _orders(position: PositionFigures | None) -> Markup | None:
    if position is None:
        return None
    named = {
        "the verdict is the same in both orders": position.consistency,
        "it changes with the order": position.flip_rate,
        "… towards the response shown first": position.to_first,
        "… towards the response shown second": position.to_second,
    }
    rows = [(name, estimate(value, ".1%")) for name, value in named.items()]
    return figure("Both orders", table((f"Of {counted(position.rows, 'row')}", "Share"), rows))


def _models(bias: Bias) -> Markup:
    widest = sorted(bias.models, key=lambda model: (-model.rows, model.name))[:_MOST_MODELS]
    shown = sorted(widest, key=lambda model: (-model.difference.value, model.name))
    rows = []
    for model in shown:
        points = model.difference.times(100)
        p = "" if model.p_value is None else f", p {signed(model.p_value, '.3f')}"
        words = f"{counted(model.rows, 'row')}; judge {model.judge.value:.0%}, people {model.people.value:.0%}{p}"
        rows.append(
            ForestRow(
                printable(model.name, 60), points, estimate(points, "+.1f"), words, _COLOURS.get(model.call, "muted")
            )
        )
    left_out = bias.models_left_out + len(bias.models) - len(shown)
    note = "Responses of each model: score with the judge minus score with people."
    if left_out:
        note += f" Left out: {counted(left_out, 'model')} with fewer rows."
    plot = forest(rows, ("Model", "points of score", f"{CONFIDENCE:.0%} interval"), reference=0.0)
    return details(f"Models the judge likes more or less than people do ({len(shown)})", paragraph(note), plot)
