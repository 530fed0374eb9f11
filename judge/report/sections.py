"""The report's sections about an evaluation: calibration, verdicts, probabilities, slices, agreement."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from judge.errors import counted, printable
from judge.evaluation.agreement import AgreementFigure
from judge.evaluation.bias import TieFigures
from judge.evaluation.evaluate import Evaluation
from judge.evaluation.judged_rows import JudgedRows
from judge.evaluation.quality import Figures
from judge.evaluation.slices import Slice
from judge.report.bias_section import bias_section
from judge.report.figures import confusion, distribution, figure, mass_bar, reliability
from judge.report.forest import SLICE_TITLES, ForestRow, forest
from judge.report.html import estimate, facts, paragraph, signed, table, tag
from judge.report.page import Section, section
from judge.report.summary_section import summary_section
from judge.stats.metrics import BINS
from judge.stats.resample import CONFIDENCE, Undefined


def evaluation_sections(evaluation: Evaluation, rows: JudgedRows, warnings: Sequence[str] = ()) -> list[Section]:
    """Return the sections, in the order in which they are read.

    Args:
        evaluation: what `judge evaluate` says.
        rows: the rows that its biases and slices are about (see `Evaluation`).
        warnings: further warnings, shown at the top.
    """
    figures = evaluation.figures.get("untrained", evaluation.figures["all"])  # of rows that are new to the judge
    return [
        summary_section(evaluation, figures, warnings),
        _calibration(figures),
        _verdicts(figures, evaluation.bias.ties),
        _distributions(figures, rows),
        bias_section(evaluation.bias, rows),
        _slices(evaluation.slices, figures),
        _agreement(evaluation.agreement),
    ]


def _calibration(figures: Figures) -> Section:
    top, *classes = figures.reliability
    charts = [reliability("Most probable verdict", top.bins, "its probability", "how often it was right")]
    for kind, css in zip(classes, ("a", "b", "tie"), strict=True):
        name = "a tie" if kind.of == "tie" else kind.of
        charts.append(
            reliability(f"Probability of {name}", kind.bins, f"judge's p({kind.of})", f"human said {name}", css)
        )
    rows: list[tuple[object, ...]] = [
        (
            "top-label" if kind is top else kind.of,
            estimate(kind.error),
            "" if kind.by_chance is None else f"{kind.by_chance:.4f}",
        )
        for kind in figures.reliability
    ]
    rows.append(("class-wise: mean of A, B, tie", estimate(figures.class_wise_ece), ""))
    words = (
        "On the diagonal, a probability is what it says. Below it the judge is too sure, above it not sure enough. "
        f"Bars below show how many rows lie in each of {BINS} bins of equal width."
    )
    chance = "“By chance alone” is the error that perfectly calibrated probabilities would show on as many such rows."
    first = (
        paragraph(words),
        table(("Calibration error", "ECE", "By chance alone"), rows),
        paragraph(chance, css="note"),
    )
    content = (tag("div", charts[0], tag("div", *first), css="beside"), tag("div", *charts[1:], css="plots"))
    return section("calibration", "Calibration", *content)


def _verdicts(figures: Figures, probability: TieFigures | None) -> Section:
    rows = [
        (
            verdict.verdict,
            f"{verdict.labelled:,}",
            f"{verdict.called:,.1f}".removesuffix(".0"),
            estimate(verdict.precision, ".1%"),
            estimate(verdict.recall, ".1%"),
            estimate(verdict.auc, ".3f"),
        )
        for verdict in figures.verdicts
    ]
    ties = figures.ties
    tie_rows = [("Log loss", estimate(ties.on_ties), estimate(ties.on_others))]
    if probability is not None:
        means = (estimate(probability.on_ties, ".3f"), estimate(probability.on_others, ".3f"))
        tie_rows.insert(0, ("Mean p(tie)", *means))
    share = ties.decided_accuracy
    decided: tuple[object, ...] = (
        "Where the human preferred one, the judge gives that one more than the other in ",
        estimate(share, ".1%"),
        " of rows, whatever it gives the tie.",
    )
    if isinstance(share, Undefined):
        decided = ("No row tells whether the judge prefers what the human prefers: ", f"{share.reason}.")
    content = (
        tag(
            "div",
            figure("Human against judge", confusion(figures.confusion), note="Per cent of each human verdict’s rows."),
            figure(
                "Ties",
                table(("Ties", "human: tie", "human: A or B"), tie_rows),
                paragraph(*decided),
            ),
            css="plots two",
        ),
        table(("Verdict", "Human", "Judge", "Precision", "Recall", "AUC"), rows),
        paragraph(
            "AUC: how often a verdict’s probability is higher where the human gave it than elsewhere.", css="muted"
        ),
    )
    return section("verdicts", "Verdict by verdict", *content)


def _distributions(figures: Figures, rows: JudgedRows) -> Section:
    p = rows.p / rows.p.sum(axis=1, keepdims=True)
    charts = [distribution(k, p[:, k], rows.labels) for k in range(3)]
    bars = facts(
        {
            "judge, mean probability": mass_bar(figures.mean_p, "Mean probabilities of the judge"),
            "human, share of rows": mass_bar(figures.label_rates, "Shares of the human verdicts"),
        }
    )
    mass = figures.median_verdict_mass
    content = [
        paragraph(
            "Each strip holds the rows with one human verdict, named at its left; the vertical mark is their median. "
            "The further apart the strips, the more the judge tells them from each other."
        ),
        tag("div", *charts, css="plots"),
        tag("div", bars, css="rates"),
    ]
    if mass is not None:
        content.append(
            paragraph(
                f"The three verdicts together have a probability of {mass:.4f} among all tokens (median). "
                "The rest goes to tokens that are no verdict.",
                css="note",
            )
        )
    return section("distributions", "What probabilities it gives", *content)


def _slices(slices: Sequence[Slice], figures: Figures) -> Section:
    if not slices:
        words = "These rows do not differ in language, turns, length, source or models."
        return Section("slices", "On which rows", paragraph(words))
    rows = []
    for part in slices:
        beside = f"accuracy {part.accuracy.value:.1%}; {signed(part.difference.value, '+.3f')} beside others"
        shown = Markup("").join((estimate(part.log_loss, ".3f"), tag("small", beside, css="beneath")))
        counts = f"{counted(part.rows, 'row')}, {counted(part.groups, 'group')}"
        title = SLICE_TITLES.get(part.dimension, part.dimension.capitalize())
        css = "muted" if part.few else "accent"
        rows.append(ForestRow(printable(part.name, 80), part.log_loss, shown, counts, css, title))
    plot = forest(rows, ("Rows", "log loss, nats", f"{CONFIDENCE:.0%} interval"), reference=figures.log_loss.value)
    words = (
        f"Log loss on parts of the rows. The dashed line is that of all rows, {figures.log_loss.value:.4f}. "
        "Grey ones have too few prompt groups to say much."
    )
    return section("slices", "On which rows", paragraph(words), plot)


def _agreement(figures: Sequence[AgreementFigure]) -> Section:
    rows = []
    missing: dict[str, list[str]] = {}
    for agreement in figures:
        if agreement.estimate is None:
            missing.setdefault(agreement.remark, []).append(agreement.name)
            continue
        form = ".3f" if agreement.key == "kappa" else ".1%"
        counts = tag("small", f"{counted(agreement.rows, 'row')} {agreement.remark}", css="beneath")
        shown = Markup("").join((estimate(agreement.estimate, form), counts))
        rows.append(ForestRow(agreement.name, agreement.estimate, shown, agreement.counts))
    content = [
        paragraph(
            "Published benchmarks count agreement in different ways. Lay a published number beside the line that "
            "counts as it does, and mind that it is of other rows."
        )
    ]
    if rows:
        content.append(
            forest(rows, ("As counted by", "0 to 1", f"{CONFIDENCE:.0%} interval"), within=(0, 1), css="forest long")
        )
    content += [
        paragraph(tag("b", "Not measured: "), f"{'; '.join(names)}. Reason: {reason}.", css="note")
        for reason, names in missing.items()
    ]
    return section("agreement", "As benchmarks count agreement", *content)
