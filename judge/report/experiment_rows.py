"""The report's sections about rows: the differences on parts of the rows, and the rows where arms disagree most."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from judge.errors import counted, printable
from judge.experiment.arm_figures import DisputedRow, SliceDifference, slice_differences
from judge.experiment.result import ExperimentResult
from judge.report.experiment_plots import axis_form
from judge.report.forest import SLICE_TITLES, ForestRow, forest
from judge.report.html import details, estimate, paragraph, table, tag
from judge.report.page import Section, section
from judge.report.svg import span
from judge.stats.metrics import Measure
from judge.tables.comparison import VERDICTS

_TITLES = {**SLICE_TITLES, "budget": "Prompt, by the baseline’s budget of tokens"}
_PREVIEW = 110
# Pieces after which a line may break. A long word must break, or it would push the arms' columns off the page.
_PIECES = re.compile(r"\S{20}|(?:\S{0,19}\s+)+\S{0,20}|\S+")


def slices_section(result: ExperimentResult, measure: Measure) -> Section | None:
    """Return each arm's difference from the baseline on parts of the rows, or None if the rows do not differ."""
    plots = [
        (difference.arm, _slice_plot(result, measure, parts))
        for difference in result.differences
        if (parts := slice_differences(result, difference.arm))
    ]
    if not plots:
        return None
    words = (
        "Arm minus baseline on parts of the rows. Of many intervals some exclude 0 by chance: these are not corrected "
        "for their number, so take them as hints for the next experiment. Grey ones have too few prompt groups to say "
        "much."
    )
    shown = [
        details(f"{printable(arm)} minus {printable(result.settings.baseline_name)}", plot, is_open=i == 0)
        for i, (arm, plot) in enumerate(plots)
    ]
    return section("slices", "On which rows", paragraph(words), *shown)


def _slice_plot(result: ExperimentResult, measure: Measure, parts: Sequence[SliceDifference]) -> Markup:
    margin = result.settings.smallest_that_matters
    rows = [
        ForestRow(
            printable(part.name, 80),
            part.difference,
            estimate(part.difference, measure.signed_form),
            f"{counted(part.rows, 'row')}, {counted(part.groups, 'group')}",
            "muted" if part.few else "accent",
            _TITLES.get(part.dimension, part.dimension.capitalize()),
        )
        for part in parts
    ]
    # a handful of rows can be far off by chance, and would leave no room for the others
    sure = [part.difference for part in parts if not part.few]
    within = span((end for difference in sure for end in difference.ends), (-1.5 * margin, 1.5 * margin))
    head = ("Rows", f"difference of {measure.name}{measure.of_unit}", f"{result.settings.level:.0%} interval")
    return forest(rows, head, reference=0.0, band=(-margin, margin), form=axis_form(measure), within=within)


def disputed_section(
    result: ExperimentResult, disputed: Sequence[DisputedRow], prompts: Mapping[str, str], browser_note: str
) -> Section:
    """Return the rows on which arms differ most, with what each arm says of them.

    Args:
        disputed: the rows, of `judge.experiment.arm_figures.most_disputed`.
        prompts: the beginnings of their prompts, by id.
        browser_note: which rows the page's browser shows.
    """
    if not disputed:
        return Section("disputed", "Where they disagree", paragraph("The arms say the same of every row."))
    words = (
        "The rows on which two arms differ most, with the probabilities of A, B and tie that each arm gives; the "
        "human’s verdict is underlined. “Apart” is the share of probability that the two arms that differ most give "
        "to other verdicts."
    )
    rows = [_disputed_row(row, result.names, prompts.get(row.id, "")) for row in disputed]
    head = ("Row", "Apart", "Human", *(printable(name) for name in result.names))
    note = paragraph(browser_note, css="note") if browser_note else None
    return section("disputed", "Where they disagree", paragraph(words), table(head, rows, css="figures disputed"), note)


def _disputed_row(row: DisputedRow, names: Sequence[str], prompt: str) -> list[object]:
    pieces = _PIECES.findall(printable(" ".join(prompt.split()), _PREVIEW))
    preview = tag("small", Markup("<wbr/>").join(pieces), css="beneath", dir="auto")
    name = Markup("").join((tag("bdi", printable(row.id, 40)), preview))
    return [name, f"{row.apart:.2f}", VERDICTS[row.label], *(_said(row.p[arm], row.label) for arm in names)]


def _said(p: tuple[float, float, float], label: int) -> Markup:
    """Return an arm's most probable verdict and its three probabilities."""
    verdict = p.index(max(p)) if p.count(max(p)) == 1 else 3
    badge = tag("span", (*VERDICTS, "?")[verdict], css=f"badge v{verdict}")
    shares = [tag("u" if k == label else "span", f"{value:.2f}") for k, value in enumerate(p)]
    return Markup(" ").join((badge, tag("small", Markup(" ").join(shares), css="three")))
