"""The bias report as plain text."""

from __future__ import annotations

from collections.abc import Iterator

from judge.cli.words import aligned
from judge.errors import counted, printable
from judge.evaluation.bias import Bias, LengthBin, PositionFigures, TieFigures
from judge.evaluation.self_preference import ModelScore
from judge.stats.resample import CONFIDENCE, Estimate
from judge.stats.words import with_interval


def bias_lines(bias: Bias) -> Iterator[str]:
    """Yield the report as aligned lines; figures are percentages with their intervals."""
    for effect in bias.effects:
        yield f"{effect.title:21}{effect.call:14}{effect.sentence}"
    for lines in (
        _position_lines(bias.position),
        _length_lines(bias.lengths),
        _tie_lines(bias.ties),
        _model_lines(bias.models, bias.models_left_out),
    ):
        first = next(lines, None)
        if first is not None:
            yield ""
            yield first
            yield from lines


def _position_lines(figures: PositionFigures | None) -> Iterator[str]:
    if figures is None:
        return
    yield f"both orders, {counted(figures.rows, 'row')} (most probable verdicts, {CONFIDENCE:.0%} intervals)"
    yield f"  {'consistency':24}{percent(figures.consistency)}"
    yield f"  {'flip rate':24}{percent(figures.flip_rate)}"
    yield f"  {'  to the first shown':24}{percent(figures.to_first)}"
    yield f"  {'  to the second shown':24}{percent(figures.to_second)}"


def _length_lines(bins: list[LengthBin]) -> Iterator[str]:
    if not any(one.rows for one in bins):
        return
    rows = [("the longer response scores", f"{'rows':>6}", "with the judge", "with people")]
    for one in bins:
        name = f"  over {one.low:g}" + (f" to {one.high:g} times" if one.high else " times") + " as long"
        rows.append((name, f"{one.rows:6,}", percent(one.judge), percent(one.people)))
    yield from aligned(rows, (32, 6, 22))


def _tie_lines(ties: TieFigures | None) -> Iterator[str]:
    if ties is None:
        return
    yield f"ties, {counted(ties.rows, 'row')}"
    yield f"  {'mean probability':24}{percent(ties.judge)}"
    yield f"  {'people call a tie':24}{percent(ties.people)}"
    yield f"  {'most probable verdict':24}{percent(ties.most_probable)}"
    yield f"  {'mean on those ties':24}{percent(ties.on_ties)}"
    yield f"  {'mean on other rows':24}{percent(ties.on_others)}"
    yield f"  {'difference of the two':24}{percent(ties.separation, '+z.1%')}"


def _model_lines(models: list[ModelScore], left_out: int) -> Iterator[str]:
    if not models:
        return
    rows: list[tuple[str, ...]] = [
        ("model", f"{'rows':>8}", "with the judge", "with people", "difference", "p (Holm)"),
    ]
    for model in models:
        p = "none" if model.p_value is None else f"{model.p_value:.3f}"
        scores = (percent(model.judge), percent(model.people), percent(model.difference, "+z.1%"))
        rows.append((f"  {printable(model.name, 26)}", f"{model.rows:8,}", *scores, p, model.call))
    yield from aligned(rows, (28, 8, 22, 22, 24, 8))
    if left_out:
        yield f"  and {counted(left_out, 'model')} with too few rows"


def percent(estimate: Estimate | None, form: str = ".1%") -> str:
    """Return `54.3% (51.0% to 57.6%)`; without an estimate `no rows`."""
    return "no rows" if estimate is None else with_interval(estimate, form, none="no interval")
