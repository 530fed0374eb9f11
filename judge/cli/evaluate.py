"""`judge evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from judge.cli.commands import Flags
from judge.cli.options import AsJson, LabelledTable, PredictionsFile
from judge.cli.words import aligned
from judge.errors import counted, printable
from judge.evaluation.agreement import AgreementFigure
from judge.evaluation.bias import Bias, LengthBin, PositionFigures, TieFigures
from judge.evaluation.evaluate import Evaluation, Part
from judge.evaluation.evaluate import evaluate as measure
from judge.evaluation.judged_rows import left_out_text
from judge.evaluation.quality import Figure, Figures
from judge.evaluation.self_preference import ModelScore
from judge.evaluation.settings import EvaluateSettings
from judge.evaluation.slices import Slice
from judge.predictions.file import read_predictions
from judge.runs.terminal import Terminal
from judge.stats.metrics import BINS
from judge.stats.resample import CONFIDENCE, Estimate, Undefined
from judge.stats.words import interval, with_interval
from judge.tables.comparison import VERDICTS
from judge.tables.table import Table

_KINDS = {"predictions": "predictions", "submission": "a submission (winner_model_a, ...)"}
_TITLES: dict[Part, str] = {
    "all": "all rows, those that trained this judge included",
    "trained": "rows that trained this judge",
    "untrained": "other rows",
}


def evaluate(
    predictions: PredictionsFile,
    table: LabelledTable,
    settings: Annotated[EvaluateSettings, Flags()],
    brief: Annotated[bool, typer.Option("--brief", help="Print the headline figures and the warnings only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say how good predictions are on labelled rows, where they are biased, and on which kinds of rows.

    Every figure has an interval, and stands beside what saying nothing costs.
    """
    stored = read_predictions(predictions)
    with Terminal() as terminal:
        result = measure(stored, Table.open(table, on_bad_row="placeholder"), settings, terminal)
    for line in [json_text(result)] if as_json else text_lines(result, brief):
        typer.echo(line)


def json_text(evaluation: Evaluation) -> str:
    """Return an evaluation as a JSON object of several lines.

    A figure that cannot be computed is null, or an object with its `reason`.
    """
    content: dict[str, Any] = asdict(evaluation)
    content["settings"] = {**evaluation.settings.model_dump(), "level": CONFIDENCE}
    return json.dumps(content, indent=1, allow_nan=False)


def text_lines(evaluation: Evaluation, brief: bool = False) -> Iterator[str]:
    """Yield an evaluation as aligned lines of plain text.

    Args:
        evaluation: `judge.evaluation.evaluate.evaluate`.
        brief: only the headline figures and the warnings.
    """
    yield from _heading(evaluation)
    for part, figures in evaluation.figures.items():
        if evaluation.rows.trained_on:
            yield from _title(_TITLES[part])
        yield from _headline(figures)
        if not brief:
            yield from _verdict_lines(figures)
    if not brief:
        yield from _title("biases")
        yield from bias_lines(evaluation.bias)
        yield from _title("agreement and consistency as published benchmarks count them")
        yield from _agreement_lines(evaluation.agreement)
        if evaluation.slices:
            yield from _title("slices")
            yield from _slice_lines(evaluation.slices)
    if evaluation.warnings:
        yield ""
    for warning in evaluation.warnings:
        yield f"warning: {warning}"


def _heading(evaluation: Evaluation) -> Iterator[str]:
    rows = evaluation.rows
    yield _line("predictions", f"{evaluation.predictions}, {_KINDS[evaluation.kind]}")
    left_out = left_out_text(rows.unlabelled, rows.unpredicted, rows.dropped, "this judge") or ", all with a label"
    yield _line("table", f"{evaluation.table}, {counted(rows.table, 'row')}{left_out}")


def _title(text: str) -> Iterator[str]:
    yield ""
    yield f"== {text} =="


def _headline(figures: Figures) -> Iterator[str]:
    yield _line("rows", f"{figures.rows:,} in {counted(figures.groups, 'prompt group')}")
    yield ""
    yield _line("", f"{'':9}  {CONFIDENCE:.0%} interval")
    yield _line("log loss", _figure(figures.log_loss, ".4f"))
    yield _line("  class rates", f"{figures.class_rates_log_loss:9.4f}")
    yield _line("  difference", _figure(figures.over_class_rates, "+z.4f"))
    if figures.length_baseline_log_loss is None:
        yield _line("  lengths alone", _figure(figures.over_length_baseline, ""))
    else:
        yield _line("  lengths alone", f"{figures.length_baseline_log_loss:9.4f}")
        yield _line("  difference", _figure(figures.over_length_baseline, "+z.4f"))
    yield _line("  uniform", f"{figures.uniform_log_loss:9.4f}")
    yield _line("accuracy", _figure(figures.accuracy, ".1%"))
    yield _line("  class rates", f"{figures.class_rates_accuracy:9.1%}")
    yield _line("  uniform", f"{figures.uniform_accuracy:9.1%}")
    yield _line("Brier score", _figure(figures.brier, ".4f"))
    yield _line("  class rates", f"{figures.class_rates_brier:9.4f}")
    yield _line("  uniform", f"{figures.uniform_brier:9.4f}")
    yield _line("ECE", _figure(figures.ece, ".4f") + f"  (most probable verdict, {BINS} equal bins)")
    if figures.reliability[0].by_chance is not None:
        yield _line("  by chance", f"{figures.reliability[0].by_chance:9.4f}")
    if figures.median_verdict_mass is not None:
        yield _line("verdict mass", f"{figures.median_verdict_mass:9.4f}  median")
    yield ""
    yield _columns("", VERDICTS)
    yield _columns("mean p", [f"{p:.3f}" for p in figures.mean_p])
    yield _columns("label rates", [f"{p:.3f}" for p in figures.label_rates])


def _verdict_lines(figures: Figures) -> Iterator[str]:
    classes = figures.reliability[1:]
    mean = figures.class_wise_ece
    errors = ["-" if isinstance(one.error, Undefined) else f"{one.error.value:.4f}" for one in classes]
    yield _columns("class-wise ECE", errors) + ("" if isinstance(mean, Undefined) else f"   mean {_short(mean, '.4f')}")
    yield ""
    yield _columns("", ["A", "B", "tie"]) + "   most probable verdict (columns) where people said (rows)"
    for name, counts in zip(VERDICTS, figures.confusion, strict=True):
        yield _columns(f"  {name}", [f"{count:,.4g}" if count % 1 else f"{count:,.0f}" for count in counts])
    yield ""
    rows = [("verdict", "precision", "recall", "AUC")]
    for one in figures.verdicts:
        cells = (_short(one.precision, ".1%"), _short(one.recall, ".1%"), _short(one.auc, ".3f"))
        rows.append((one.verdict, *cells))
    yield from aligned(rows, (8, 24, 24))
    ties, decided = figures.ties, figures.ties.decided_accuracy
    yield ""
    yield _line("ties", f"log loss where people tied {_short(ties.on_ties, '.4f')}")
    yield _line("", f"where they preferred one   {_short(ties.on_others, '.4f')}")
    if isinstance(decided, Undefined):
        yield _line("decided rows", f"none: {decided.reason}")
    else:
        yield _line("decided rows", f"the preferred one is given more than the other in {_short(decided, '.1%')}")


def _agreement_lines(figures: Sequence[AgreementFigure]) -> Iterator[str]:
    measured = [one for one in figures if one.estimate is not None]
    width = max((len(one.name) for one in measured), default=0)
    for one in measured:
        value = _short(one.estimate, "z.3f" if "kappa" in one.key else ".1%") if one.estimate else "-"
        yield f"{one.name:{width}}  {value}" + (f"  ({one.remark})" if one.remark else "")
    missing: dict[str, list[str]] = {}
    for one in figures:
        if one.estimate is None:
            missing.setdefault(one.remark, []).append(one.name)
    for reason, names in missing.items():
        yield f"not measured: {'; '.join(names)}: {reason}"  # some names hold a comma


def _slice_lines(slices: Sequence[Slice]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("", "", f"{'rows':>7}", "log loss", "accuracy", "log loss against all other rows")]
    dimension = ""
    for one in slices:
        label = one.dimension if one.dimension != dimension else ""
        dimension = one.dimension
        if one.few:
            cells = [f"{one.log_loss.value:.4f}, too few to say ({counted(one.groups, 'prompt group')})"]
        else:
            cells = [_short(one.log_loss, ".4f"), _short(one.accuracy, ".1%"), _short(one.difference, "+z.4f")]
        rows.append((label, _shown(one.name), f"{one.rows:7,}", *cells))
    yield from aligned(rows, (9, 9, 7, 24, 23))


def _shown(name: str) -> str:
    return printable(name, 48)


def _line(name: str, text: str) -> str:
    return f"{name:16}{text}".rstrip()


def _columns(name: str, cells: Sequence[str]) -> str:
    return f"{name:16}" + "".join(f"{cell:>9}" for cell in cells)


def _figure(figure: Figure, form: str) -> str:
    """Return a figure and its interval in columns."""
    if isinstance(figure, Undefined):
        return f"{'-':>9}  {figure.reason}"
    value = f"{figure.value:{form}}".rjust(9)
    return f"{value}  {interval(figure, form, none='none (one prompt group)')}"


def _short(figure: Figure, form: str) -> str:
    """Return a figure and its interval in brackets, or a dash."""
    if isinstance(figure, Undefined):
        return f"- ({figure.reason})"
    return with_interval(figure, form)


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
