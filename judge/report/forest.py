"""Forest plots: each row has a figure with its interval, and all rows share one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from judge.report.html import tag
from judge.report.svg import Form, Scale, line, plain, rect, span, text
from judge.stats.resample import Estimate


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot.

    Attributes:
        name: what the figure is about; text or markup.
        figure: drawn with its interval; None is not drawn.
        shown: the figure in words, or why there is none.
        detail: small text below the name, such as how many rows.
        css: the colour.
        group: a heading stands above the first row of each group.
    """

    name: object
    figure: Estimate | None
    shown: object
    detail: str = ""
    css: str = "accent"
    group: str = ""


# Headings of slices whose dimension's own name does not say enough.
SLICE_TITLES = {
    "length": "Characters of prompt and responses",
    "budget": "Prompt, by the budget of tokens",
    "models": "Pair of models",
}
_LANE, _LANE_HEIGHT = 240.0, 24.0


def forest(
    rows: Sequence[ForestRow],
    head: tuple[str, str, str],
    *,
    reference: float | None = None,
    limit: float | None = None,
    band: tuple[float, float] | None = None,
    form: Form | None = None,
    within: tuple[float, float] | None = None,
    css: str = "forest",
) -> Markup:
    """Return a forest plot as a table: its names wrap and its numbers are text; each row has its lane of the chart.

    Args:
        head: the titles of the columns: names, chart, figures.
        reference: a dashed line through all lanes.
        limit: a line that figures should not cross.
        band: a shaded range.
        form: writes the numbers of the axis.
        within: the range of the axis; a figure beyond it is an arrow. By default all intervals fit.
        css: `forest long` where sentences stand below the names.
    """
    marks = [v for v in (reference, limit, *(band or ())) if v is not None]
    low, high = within or span((end for row in rows if row.figure for end in row.figure.ends), marks)
    x = Scale(low, high, 12.0, _LANE - 12)
    ground = _ground(x, reference, limit, band)
    body: list[Markup] = []
    group = ""
    for row in rows:
        if row.group and row.group != group:
            group = row.group
            title = tag("th", group, colspan=3, scope="rowgroup", role="rowheader")
            body.append(tag("tr", title, css="group", role="row"))
        name = tag("th", row.name, tag("small", row.detail) if row.detail else None, scope="row", role="rowheader")
        lane = tag("td", ground, _lane(x, row), css="lane", role="cell")
        body.append(tag("tr", name, lane, tag("td", row.shown, css="figures", role="cell"), role="row"))
    titles = tag("tr", *(tag("th", name, scope="col", role="columnheader") for name in head), role="row")
    axis = tag("tr", tag("td"), tag("td", _axis(x, form), css="lane"), tag("td"), css="axis-row", aria_hidden="true")
    parts = (tag("thead", titles, role="rowgroup"), tag("tbody", *body, role="rowgroup"), tag("tfoot", axis))
    return tag("table", *parts, css=css, role="table")


def _ground(x: Scale, reference: float | None, limit: float | None, band: tuple[float, float] | None) -> Markup:
    """Return the lines behind a row, stretched to its height, so that they run on from row to row."""
    ends = [x(x.inside(end)) for end in band or ()]
    parts = [rect(ends[0], 0, ends[1] - ends[0], 10, "band")] if ends else []
    parts += [line(x(at), 0, x(at), 10, "grid") for at in x.ticks(5)]
    parts += [
        line(x(at), 0, x(at), 10, css)
        for at, css in ((reference, "reference"), (limit, "limit"))
        if at is not None and x.holds(at)
    ]
    size = f"0 0 {_LANE:g} 10"
    return tag("svg", *parts, viewBox=size, preserveAspectRatio="none", aria_hidden="true", css="ground")


def _lane(x: Scale, row: ForestRow) -> Markup:
    """Return a dot and its interval, or an arrow at the edge if the value lies beyond it."""
    middle, parts = _LANE_HEIGHT / 2, []
    if row.figure is not None:
        value, low, high = row.figure.value, row.figure.low, row.figure.high
        if low is not None and high is not None and high >= x.low and low <= x.high:
            parts.append(line(x(x.inside(low)), middle, x(x.inside(high)), middle, f"whisker {row.css}"))
        if x.holds(value):
            parts.append(tag("circle", cx=x(value), cy=middle, r=4, css=row.css))
        else:
            way = 1 if value > x.high else -1
            tip = x(x.inside(value)) + 10 * way
            points = f"{tip:g},{middle:g} {tip - 9 * way:g},{middle - 5:g} {tip - 9 * way:g},{middle + 5:g}"
            parts.append(tag("polygon", points=points, css=row.css))
    return tag("svg", *parts, viewBox=f"0 0 {_LANE:g} {_LANE_HEIGHT:g}", aria_hidden="true")


def _axis(x: Scale, form: Form | None) -> Markup:
    ticks = x.ticks(5)
    form = form or plain(ticks)
    parts = [line(0, 0.5, _LANE, 0.5, "axis"), *(line(x(at), 0, x(at), 4, "axis") for at in ticks)]
    parts += [text(min(max(x(at), 12.0), _LANE - 12), 18, form(at)) for at in ticks]
    return tag("svg", *parts, viewBox=f"0 0 {_LANE:g} 24", aria_hidden="true")
