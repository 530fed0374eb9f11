"""Intervals, differences and p-values as text; every stage that prints one writes it here."""

from __future__ import annotations

from collections.abc import Callable

from judge.stats.metrics import MEASURES, Metric
from judge.stats.resample import Estimate


def interval(estimate: Estimate, form: str, *, none: str = "none", write: Callable[[float, str], str] = format) -> str:
    """Return the interval of a figure: `0.0123 to 0.0456`.

    Args:
        estimate: the figure.
        form: how each end is written: `.4f`, `.1%`, `+z.4f` (signed, and never -0.0000).
        none: what to return where there is no interval, as with a single prompt group.
        write: writes a number in a form; a page writes a true minus sign, for example.
    """
    if estimate.low is None or estimate.high is None:
        return none
    return f"{write(estimate.low, form)} to {write(estimate.high, form)}"


def with_interval(estimate: Estimate, form: str, *, none: str = "", write: Callable[[float, str], str] = format) -> str:
    """Return a figure with its interval in brackets: `54.3% (51.0% to 57.6%)`.

    Args:
        estimate, form, write: see `interval`.
        none: what stands in the brackets where there is no interval; empty for no brackets.
    """
    inside = interval(estimate, form, none=none, write=write)
    return write(estimate.value, form) + (f" ({inside})" if inside else "")


def amount(value: float, metric: Metric, sign: str = "") -> str:
    """Return a difference in a metric with its unit: `0.0123 nats`, `1.2 points` or `0.0123`; `sign` may be `+`."""
    return _number(value, metric, sign) + (" points" if metric == "accuracy" else MEASURES[metric].unit)


def amount_interval(estimate: Estimate, metric: Metric, sign: str = "") -> str:
    """Return the interval of such a difference without the unit: `0.0012 to 0.0234`; empty if there is none."""
    return interval(estimate, sign, none="", write=lambda value, form: _number(value, metric, form))


def _number(value: float, metric: Metric, sign: str) -> str:
    return f"{value * 100:{sign}z.1f}" if metric == "accuracy" else f"{value:{sign}z.4f}"


def p_text(p_value: float) -> str:
    """Return a p-value as `p = 0.0123`."""
    return f"p = {p_value:.4f}" if p_value >= 0.00005 else f"p = {p_value:.1e}"
