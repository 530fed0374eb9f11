"""Small charts as SVG: scales, axes and the elements that charts are made of.

We do not use matplotlib. Its SVG carries style attributes, which the report's Content-Security-Policy forbids. Its
colours are fixed; ours follow the page into dark mode. It draws text as paths; ours can be selected, searched and read
aloud. And our charts take a few kB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from judge.report.html import number, tag

# Width of a chart in its own units. A phone's screen of 375 px shows it at about 1:1, so text stays readable there.
WIDTH = 340.0
_FONT = 12.0
Form = Callable[[float], str]
Point = tuple[float, float]


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers (multiples of 1, 2 or 5 times a power of ten) between `low` and `high`, both included."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two positive numbers, or round numbers if these are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [s * 10.0**k for k in powers for s in (1, 2, 5) if low * (1 - 1e-9) <= s * 10.0**k <= high * (1 + 1e-9)]
    return ticks if len(ticks) >= 3 else nice_ticks(low, high, 4)


@dataclass(frozen=True)
class Scale:
    """Maps the numbers of a figure to positions, also those outside of `low` and `high`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether a number lies on the scale."""
        return self.low <= value <= self.high

    def inside(self, value: float) -> float:
        """Return the number on the scale that is nearest."""
        return min(max(value, self.low), self.high)

    def ticks(self, about: int = 5) -> list[float]:
        """Return the numbers to be written at the axis."""
        return log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high, about)


def span(values: Iterable[float | None], include: Sequence[float] = (), pad: float = 0.06) -> tuple[float, float]:
    """Return a range around the finite values, with some room; 0 to 1 if there are none."""
    finite = [v for v in (*values, *include) if v is not None and math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    room = (high - low) * pad or abs(high) * 0.1 or 0.1
    return low - room, high + room


def plain(ticks: Sequence[float]) -> Form:
    """Return a form that writes these ticks with as many decimals as they need."""
    need = max((next((d for d in range(6) if abs(round(t, d) - t) < 1e-9), 6) for t in ticks), default=0)
    return lambda value: f"{value:,.{need}f}".replace("-", "\N{MINUS SIGN}")


class Chart:
    """A chart with a horizontal and a vertical axis, filled piece by piece.

    Args:
        title: what it shows, for screen readers and as a tooltip.
        description: what it says, in words.
        x, y: the ranges of the axes.
        height: of the whole chart, in units of which the width has 340.
        foot: units below the horizontal axis's labels, for a strip of counts.
        log_y: whether the vertical axis is logarithmic.
    """

    def __init__(
        self,
        title: str,
        description: str,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        height: float = 240.0,
        foot: float = 0.0,
        log_y: bool = False,
    ) -> None:
        self.title, self.description, self.height = title, description, height
        self.left, self.right, self.top, self.bottom = 42.0, WIDTH - 12, 24.0, height - 42 - foot
        self.x = Scale(*x, self.left, self.right)
        self.y = Scale(*y, self.bottom, self.top, log_y)
        self._parts: list[Markup] = []

    def add(self, *parts: Markup) -> None:
        """Add elements in the chart's units."""
        self._parts += parts

    def axes(
        self, x_label: str, y_label: str, *, x_form: Form | None = None, y_form: Form | None = None, x_ticks: int = 5
    ) -> None:
        """Draw grid, ticks and labels. The vertical axis's label stands above it, where it can be read."""
        across, up = self.x.ticks(x_ticks), self.y.ticks(5)
        x_form, y_form = x_form or plain(across), y_form or plain(up)
        for value in up:
            at = self.y(value)
            self.add(line(self.left, at, self.right, at, "grid"))
            self.add(text(self.left - 6, at + 4, y_form(value), "end"))
        for value in across:
            self.add(line(self.x(value), self.bottom, self.x(value), self.bottom + 4, "axis"))
            self.add(text(self.x(value), self.bottom + 17, x_form(value)))
        self.add(line(self.left, self.bottom, self.right, self.bottom, "axis"))
        self.add(text(2, _FONT, y_label, "start", "label"))
        self.add(text((self.left + self.right) / 2, self.bottom + 34, x_label, "middle", "label"))

    def path(self, points: Sequence[Point], css: str) -> None:
        """Draw a line through points."""
        if points:
            steps = " L".join(f"{number(self.x(x))} {number(self.y(y))}" for x, y in points)
            self.add(tag("path", d=f"M{steps}", css=f"line {css}"))

    def whisker(self, x: float, low: float | None, high: float | None, css: str) -> None:
        """Draw an interval, where there is one."""
        if low is not None and high is not None:
            self.add(line(self.x(x), self.y(low), self.x(x), self.y(high), f"whisker {css}"))

    def dot(self, x: float, y: float, css: str, note: str | None = None, radius: float = 4.0) -> None:
        """Draw a point, with a tooltip."""
        hint = tag("title", note) if note else None
        self.add(tag("circle", hint, cx=self.x(x), cy=self.y(y), r=radius, css=f"dot {css}"))

    def level(self, y: float, note: str, *, below: bool = False) -> None:
        """Draw a dashed line across at a height, with its name above or below it."""
        at = self.y(y)
        self.add(line(self.left, at, self.right, at, "reference"))
        self.add(text(self.left + 4, at + (14 if below else -5), note, "start", "note"))

    def markup(self) -> Markup:
        """Return the chart."""
        return svg(self.title, self.description, self.height, self._parts)


def svg(title: str, description: str, height: float, parts: Iterable[Markup], width: float = WIDTH) -> Markup:
    """Return a picture that scales with the page and that a screen reader can name and describe."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *parts,
        role="img",
        aria_label=f"{title}. {description}",
        viewBox=f"0 0 {number(width)} {number(height)}",
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, css=css)


def text(
    x: float, y: float, content: str, anchor: Literal["start", "middle", "end"] = "middle", css: str | None = None
) -> Markup:
    """Return a line of text."""
    return tag("text", content, x=x, y=y, text_anchor=anchor, css=css)


def rect(x: float, y: float, width: float, height: float, css: str, note: str | None = None) -> Markup:
    """Return a box, with a tooltip."""
    hint = tag("title", note) if note else None
    return tag("rect", hint, x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), css=css)
