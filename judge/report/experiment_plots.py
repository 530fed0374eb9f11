"""The charts of an experiment's report: quality against cost, and the curve of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from judge.errors import printable
from judge.report.figures import figure, legend
from judge.report.html import signed
from judge.report.svg import Chart, Form, Scale, span, text
from judge.stats.metrics import Measure
from judge.stats.resample import Estimate
from judge.stats.words import interval

# If the largest value is so many times the smallest, the horizontal axis is logarithmic.
WIDE = 4.0
_LABEL_CHARACTERS = 26
_CHARACTER = 6.2  # units that a character of a label takes, about
_LINE = 13.0
_MOST_LABELS = 8


@dataclass(frozen=True)
class ArmPoint:
    """An arm on a chart: its cost or its setting, its score, its colour, and what its tooltip adds."""

    name: str
    x: float
    score: Estimate
    css: str = "muted"
    note: str = ""


def cost_plot(points: Sequence[ArmPoint], measure: Measure, x_label: str, keys: Sequence[tuple[str, str]]) -> Markup:
    """Return each arm's score against what it costs; `keys` are colours and what they mean."""
    title = "Quality against cost"
    chart = _chart(title, points, measure, x_label)
    for point in points:
        chart.whisker(point.x, point.score.low, point.score.high, point.css)
    for point in points:
        chart.dot(point.x, point.score.value, point.css, _note(point, measure, x_label))
    chart.add(*_labels(chart, points))
    down = "down and to the left" if measure.better == "lower" else "up and to the left"
    return figure(title, legend(keys), chart.markup(), note=f"Better and cheaper is {down}.{_scale(chart)}")


def sweep_plot(points: Sequence[ArmPoint], measure: Measure, title: str, x_label: str, level: float) -> Markup:
    """Return the curve of a sweep: each arm's score, with its interval, by the number that the arms differ in.

    Args:
        points: the arms in rising order of that number.
        level: of the intervals.
    """
    chart = _chart(title, points, measure, x_label)
    chart.path([(point.x, point.score.value) for point in points], "thin accent")
    for point in points:
        chart.whisker(point.x, point.score.low, point.score.high, point.css)
        chart.dot(point.x, point.score.value, point.css, _note(point, measure, x_label))
    return figure(title, chart.markup(), note=f"With {level:.0%} intervals.{_scale(chart)}")


def _scale(chart: Chart) -> str:
    return " The horizontal axis is logarithmic." if chart.x.log else ""


def axis_form(measure: Measure) -> Form | None:
    """Return how an axis writes the differences of a measure; None leaves it to the axis."""
    if measure.name != "accuracy":
        return None
    return lambda value: f"{signed(round(100 * value, 6), 'g')}%"


def _chart(title: str, points: Sequence[ArmPoint], measure: Measure, x_label: str) -> Chart:
    low, high = span(end for point in points for end in point.score.ends)
    if measure.name == "accuracy":
        low, high = max(low, 0.0), min(high, 1.0)
    words = "; ".join(f"{point.name}: {_score(point.score, measure)} at {_amount(point.x)}" for point in points)
    values = [point.x for point in points]
    chart = Chart(title, words or "no arms", span(values, pad=0.08), (low, high), height=270)
    is_wide = bool(values) and min(values) > 0 and max(values) / min(values) >= WIDE
    if is_wide:
        room = (max(values) / min(values)) ** 0.08
        chart.x = Scale(min(values) / room, max(values) * room, chart.x.start, chart.x.end, log=True)
    ticks = [tick for tick in chart.x.ticks() if tick >= 0]
    chart.axes(
        x_label,
        f"{measure.name}{measure.of_unit} ({measure.better} is better)",
        x_form=_with_room(ticks, chart.x),
        y_form=(lambda value: f"{round(100 * value, 6):g}%") if measure.name == "accuracy" else None,
    )
    return chart


def _with_room(ticks: Sequence[float], x: Scale) -> Form:
    """Return a form for the horizontal axis that leaves out numbers without room, powers of ten last."""
    taken: list[tuple[float, float]] = []
    shown = set()
    for tick in sorted(ticks, key=lambda value: (not math.log10(value or 1.0).is_integer(), value)):
        half = (len(_amount(tick)) * _CHARACTER + 8) / 2
        low, high = x(tick) - half, x(tick) + half
        if all(high <= start or low >= end for start, end in taken):
            taken.append((low, high))
            shown.add(tick)
    return lambda value: _amount(value) if value in shown else ""


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:,.3g}"


def _score(score: Estimate, measure: Measure) -> str:
    ends = interval(score, measure.form, none="", write=signed)
    return f"{signed(score.value, measure.form)}{measure.unit}" + (f" ({ends})" if ends else "")


def _note(point: ArmPoint, measure: Measure, x_label: str) -> str:
    after = f"; {point.note}" if point.note else ""
    return f"{point.name}: {_score(point.score, measure)} at {_amount(point.x)} {x_label}{after}"


def _labels(chart: Chart, points: Sequence[ArmPoint]) -> list[Markup]:
    """Return the arms' names beside their points if there is room; the tooltips show all names."""
    if len(points) > _MOST_LABELS:
        return []
    places = [(chart.x(point.x), chart.y(point.score.value)) for point in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for point, (x, _) in zip(points, places, strict=True):
        low, high = point.score.low, point.score.high
        if low is not None and high is not None:
            taken.append((x - 2, chart.y(high), x + 2, chart.y(low)))
    labels = []
    for point, (x, y) in zip(points, places, strict=True):
        name = printable(point.name, _LABEL_CHARACTERS)
        wide = len(name) * _CHARACTER
        for left, base in ((x + 9, y + 4), (x - 9 - wide, y + 4), (x + 9, y - 9), (x - 9 - wide, y - 9)):
            box = (left, base - _LINE + 3, left + wide, base + 3)
            inside = box[0] >= chart.left and box[2] <= chart.right + 8 and box[1] >= chart.top
            if inside and not any(
                box[0] < right and start < box[2] and box[1] < bottom and top < box[3]
                for start, top, right, bottom in taken
            ):
                taken.append(box)
                labels.append(text(left, base, name, "start", "note"))
                break
    return labels
