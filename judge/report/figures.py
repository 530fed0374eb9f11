"""The report's charts: pure functions from numbers to markup.

Positions depend on the numbers only; colours come from classes that page.css defines for light and dark pages. A figure
without an interval is drawn without one. Verdicts are in the order A, B, tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from judge.errors import counted
from judge.evaluation.reliability import Bin
from judge.report.html import tag
from judge.report.svg import WIDTH, Chart, Point, line, rect, svg, text
from judge.stats.resample import Estimate
from judge.tables.comparison import VERDICTS

COLOURS = ("a", "b", "tie")
_STRIP = 46.0  # units for the counts below a chart
_PERCENT = "{:.0%}".format
_LOSS_TITLE = "Loss while training"
_PICTURE_STYLE = (
    "svg { background: #fff } text { font: 12px sans-serif; fill: #625e57 } line { stroke: #dcd8d0 } "
    "line.axis { stroke: #625e57 } .reference { stroke: #625e57; stroke-dasharray: 4 4 } "
    ".accent { fill: #1d5fa6; stroke: #1d5fa6 } .muted { stroke: #9a958c } "
    "path.line { fill: none; stroke-width: 2 } path.thin { stroke-width: 1.2 }"
)


def figure(title: str, *content: object, note: str | None = None, css: str | None = None) -> Markup:
    """Return a chart with its title above and a note below."""
    below = tag("p", note, css="note") if note else None
    return tag("figure", tag("figcaption", title), *content, below, css=f"plot {css}" if css else "plot")


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Return what the colours mean; entries are a colour's class and its meaning."""
    return tag("ul", *(tag("li", tag("span", css=f"swatch {css}"), name) for css, name in entries), css="keys")


def reliability(title: str, bins: Sequence[Bin], x_label: str, y_label: str, css: str = "accent") -> Markup:
    """Return a reliability diagram: how often something came true by its predicted probability, above counts of rows.

    A perfect judge's points lie on the diagonal (M. H. DeGroot and S. E. Fienberg, The Statistician, 1983).
    """
    bins = [b for b in bins if b.rows]
    words = "; ".join(f"said {b.chance:.0%}, was so in {b.right.value:.0%} of {counted(b.rows, 'row')}" for b in bins)
    chart = Chart(title, words or "no rows", (0, 1), (0, 1), height=300, foot=_STRIP)
    chart.axes(x_label, y_label, x_form=_PERCENT, y_form=_PERCENT)
    chart.path([(0, 0), (1, 1)], "reference")
    for b in bins:
        chart.whisker(b.chance, b.right.low, b.right.high, css)
    chart.path([(b.chance, b.right.value) for b in bins], f"thin {css}")
    most = max((b.rows for b in bins), default=1)
    floor = chart.height - 2
    for b in bins:
        came_true = f"was so in {b.right.value:.1%} of {counted(b.rows, 'row')}"
        note = f"{b.low:.0%} to {b.high:.0%}: said {b.chance:.1%}, {came_true}"
        chart.dot(b.chance, b.right.value, css, note)
        tall = b.rows / most * (_STRIP - 10)
        left, right = chart.x(b.low), chart.x(b.high)
        chart.add(rect(left + 0.5, floor - tall, right - left - 1, tall, f"count {css}", note))
    chart.add(line(chart.left, floor, chart.right, floor, "axis"))
    chart.add(text(chart.left - 6, floor, "rows", "end"))
    return figure(title, chart.markup())


def confusion(counts: Sequence[Sequence[float]]) -> Markup:
    """Return the table of human verdicts (rows) against the judge's (columns): counts, and shares of each row.

    Counts may have decimals: where two verdicts are equally probable, each counts one half.
    """
    head = tag("tr", tag("th", "human", scope="col"), *(tag("th", f"judge: {v}", scope="col") for v in VERDICTS))
    body = []
    for i, row in enumerate(counts):
        total = sum(row)
        cells = []
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            words = f"{share:.0%}" if total else "no rows"
            kind = "right" if i == j else "wrong"
            cells.append(
                tag(
                    "td",
                    tag("b", f"{count:,.1f}".removesuffix(".0")),
                    " ",
                    words,
                    css=f"cell {kind} heat-{round(share * 10)}",
                )
            )
        body.append(tag("tr", tag("th", VERDICTS[i], tag("small", counted(round(total), "row")), scope="row"), *cells))
    return tag("table", tag("thead", head), tag("tbody", *body), css="confusion")


def distribution(verdict: int, p: NDArray[np.floating], labels: NDArray[np.integer], bins: int = 20) -> Markup:
    """Return histograms of the probability of a verdict, one above the other by the human's verdict.

    Each is the share of that human verdict's rows, on one scale, so that they can be compared.

    Args:
        verdict: 0, 1 or 2.
        p: probabilities of that verdict, shape (rows,).
        labels: human verdicts, shape (rows,).
    """
    edges = np.linspace(0, 1, bins + 1)
    # a softmax can be 1 + 2e-16
    values = np.clip(p, 0, 1)
    counts = [np.histogram(values[labels == k], edges)[0] for k in range(3)]
    shares = [found / max(found.sum(), 1) for found in counts]
    most = max(float(share.max()) for share in shares) or 1.0
    medians = [float(np.median(values[labels == k])) if (labels == k).any() else None for k in range(3)]
    named = (*VERDICTS[:2], "a tie")
    title = f"Probability of {named[verdict]}"
    words = "; ".join(
        f"where the human said {named[k]}: median {m:.2f}" for k, m in enumerate(medians) if m is not None
    )
    chart = Chart(title, words or "no rows", (0, 1), (0, 1), height=236)
    tall = (chart.bottom - 8) / 3
    for value in chart.x.ticks():
        chart.add(line(chart.x(value), 8, chart.x(value), chart.bottom + 4, "grid"))
        chart.add(text(chart.x(value), chart.bottom + 17, f"{value:g}"))
    for k, share in enumerate(shares):
        base = 8 + tall * (k + 1)
        chart.add(*_columns(chart, share, counts[k], edges, base, (tall - 16) / most, COLOURS[k]))
        chart.add(line(chart.left, base, chart.right, base, "axis"))
        chart.add(text(chart.left - 6, base - 4, VERDICTS[k], "end", "label"))
        median = medians[k]
        if median is not None:
            chart.add(line(chart.x(median), base - tall + 12, chart.x(median), base, "median"))
    chart.add(text((chart.left + chart.right) / 2, chart.bottom + 34, f"judge's p({VERDICTS[verdict]})", css="label"))
    return figure(title, chart.markup())


def _columns(
    chart: Chart,
    heights: NDArray[np.floating],
    counts: NDArray[np.integer],
    edges: NDArray[np.floating],
    base: float,
    unit: float,
    css: str,
) -> list[Markup]:
    """Return the boxes of a histogram that stands on `base`."""
    found = []
    for i in np.flatnonzero(counts):
        left, right = chart.x(float(edges[i])), chart.x(float(edges[i + 1]))
        tall = float(heights[i]) * unit
        note = f"{edges[i]:.2f} to {edges[i + 1]:.2f}: {counted(int(counts[i]), 'row')}"
        found.append(rect(left + 0.5, base - tall, right - left - 1, tall, f"box {css}", note))
    return found


def shift_histogram(shifts: NDArray[np.floating], mean: float | None = None) -> Markup:
    """Return how much higher each row's A scores when it is shown first; 0 where the order does not matter.

    Args:
        shifts: score of A shown first minus its score shown second, shape (rows,), -1 to 1; NaN is left out.
        mean: marked where given.
    """
    edges = np.linspace(-1, 1, 41)
    values = np.clip(shifts[np.isfinite(shifts)], -1, 1)
    counts = np.histogram(values, edges)[0]
    title = "What being shown first is worth, row by row"
    words = counted(len(values), "row") + ("" if mean is None else f", mean {mean:+.3f}")
    chart = Chart(title, words, (-1, 1), (0, max(float(counts.max()), 1) * 1.05), height=220)
    chart.axes("score shown first minus score shown second", "rows")
    unit = (chart.bottom - chart.top) / chart.y.high
    chart.add(*_columns(chart, counts.astype(float), counts, edges, chart.bottom, unit, "accent"))
    chart.add(line(chart.x(0), chart.top, chart.x(0), chart.bottom, "reference"))
    if mean is not None:
        chart.add(line(chart.x(mean), chart.top, chart.x(mean), chart.bottom, "median"))
    return figure(title, chart.markup(), note="The solid line is the mean." if mean is not None else None)


@dataclass(frozen=True)
class Curve:
    """A curve with intervals: a point for each bin; None in a bin without rows."""

    name: str
    css: str
    shares: Sequence[Estimate | None]


def share_curves(
    title: str, curves: Sequence[Curve], x_label: str, y_label: str, names: Sequence[str], rows: Sequence[int]
) -> Markup:
    """Return shares by bin, several curves side by side, with intervals.

    Args:
        names: what each bin is called on the horizontal axis.
        rows: of each bin.
    """
    said = [f"{c.name}: " + ", ".join(f"{share.value:.0%}" for share in c.shares if share) for c in curves]
    chart = Chart(title, "; ".join(said) or "no rows", (-0.5, max(len(names), 1) - 0.5), (0, 1), height=250)
    for value in chart.y.ticks():
        chart.add(line(chart.left, chart.y(value), chart.right, chart.y(value), "grid"))
        chart.add(text(chart.left - 6, chart.y(value) + 4, _PERCENT(value), "end"))
    for i, name in enumerate(names):
        chart.add(text(chart.x(i), chart.bottom + 17, name))
    chart.add(line(chart.left, chart.bottom, chart.right, chart.bottom, "axis"))
    chart.add(text(2, 12, y_label, "start", "label"))
    chart.add(text((chart.left + chart.right) / 2, chart.bottom + 34, x_label, "middle", "label"))
    chart.add(line(chart.left, chart.y(0.5), chart.right, chart.y(0.5), "reference"))
    for k, curve in enumerate(curves):
        aside = (k - (len(curves) - 1) / 2) * 0.14
        points = [(i + aside, share, rows[i]) for i, share in enumerate(curve.shares) if share]
        for at, share, _ in points:
            chart.whisker(at, share.low, share.high, curve.css)
        chart.path([(at, share.value) for at, share, _ in points], curve.css)
        for at, share, count in points:
            chart.dot(at, share.value, curve.css, f"{curve.name}: {share.value:.1%} of {counted(count, 'row')}")
    return figure(title, legend([(c.css, c.name) for c in curves]), chart.markup())


def loss_chart(
    train: Sequence[Point], held_out: Sequence[Point], levels: Sequence[tuple[str, float]], best: int | None = None
) -> Chart:
    """Return the training loss and the held-out log loss by optimizer step, in nats, on a logarithmic axis.

    Args:
        train, held_out: step and loss.
        levels: baselines, name and log loss.
        best: the step whose weights were kept.
    """
    points = [*train, *held_out]
    values = [y for _, y in points if y > 0] + [y for _, y in levels]
    low, high = (min(values) * 0.85, max(values) * 1.15) if values else (0.1, 1.0)
    words = "held-out log loss: " + ", ".join(f"{y:.3f} at step {x:g}" for x, y in held_out)
    chart = Chart(
        _LOSS_TITLE, words, (0, max((x for x, _ in points), default=1) or 1), (low, high), height=260, log_y=True
    )
    chart.axes("optimizer step", "nats (logarithmic)")
    for i, (name, value) in enumerate(sorted(levels, key=lambda level: -level[1])):
        chart.level(value, name, below=i > 0)
    chart.path([(x, y) for x, y in train if y > 0], "thin muted")
    chart.path(held_out, "accent")
    for x, y in held_out:
        kept = ", these weights were kept" if x == best else ""
        chart.dot(x, y, "accent", f"step {x:g}: held-out log loss {y:.4f}{kept}", 5 if x == best else 4)
    return chart


def loss_figure(chart: Chart) -> Markup:
    """Return a chart of `loss_chart` for the report, with what its colours mean."""
    return figure(_LOSS_TITLE, legend([("muted", "training loss"), ("accent", "held-out log loss")]), chart.markup())


def loss_picture(chart: Chart) -> str:
    """Return a chart of `loss_chart` as an SVG file, which brings the colours that the report's page has otherwise."""
    chart.add(text(WIDTH - 12, 12, "blue: held-out log loss, grey: training loss", "end"))
    chart.add(tag("style", _PICTURE_STYLE))
    return str(chart.markup()).replace("<svg", "<svg xmlns='http://www.w3.org/2000/svg'")


def mass_bar(shares: Sequence[float], title: str) -> Markup:
    """Return one bar divided among A, B and tie, with their per cents."""
    parts, left = [], 0.0
    for share, css, name in zip(shares, COLOURS, VERDICTS, strict=True):
        wide = share * WIDTH
        parts.append(rect(left, 0, wide, 22, f"box {css}", f"{name}: {share:.1%}"))
        words = f"{name} {share:.0%}" if wide > 50 else f"{share:.0%}"
        if wide > 24:
            parts.append(text(left + wide / 2, 15.5, words, css="on-box"))
        left += wide
    said = ", ".join(f"{name} {share:.1%}" for name, share in zip(VERDICTS, shares, strict=True))
    return svg(title, said, 22, parts)
