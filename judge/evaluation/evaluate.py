"""Evaluating predictions: how good they are on rows with a label, where they are biased, and on which rows.

The figures are those of `judge.evaluation`; here they are put together, and rows that trained the judge are kept out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from judge.errors import counted
from judge.evaluation.agreement import AgreementFigure, agreement_figures
from judge.evaluation.bias import Bias, bias_report
from judge.evaluation.judged_rows import DROP, JudgedRows, few_groups_text, join, without_trained
from judge.evaluation.quality import Figures, figures_of
from judge.evaluation.settings import EvaluateSettings
from judge.evaluation.slices import Slice, slices_of
from judge.predictions.file import Kind, StoredPredictions
from judge.runs.progress import Progress
from judge.stats.metrics import MARGIN
from judge.stats.resample import FEW_GROUPS, Resampler, Undefined, check_resampling
from judge.tables.comparison import Flag
from judge.tables.table import Table

Part = Literal["all", "trained", "untrained"]


@dataclass(frozen=True)
class RowCounts:
    """How many rows there are of each kind; all but the first four count evaluated rows.

    Attributes:
        unpredicted: labelled rows without a prediction.
        dropped: labelled rows that were left out because they trained the judge.
        trained_on: rows that trained the judge; None where the predictions have no flags.
        trained_prompt: rows that share a prompt with one that trained the judge; None where there are no flags.
        impossible: rows whose true verdict got a probability of 0.
        bad_cells: rows of the table with a cell that cannot be read.
        priors, smaller_budget, swap_left_out: what a run with a deadline gave up (`judge.tables.comparison.Flag`).
    """

    table: int
    unlabelled: int
    unpredicted: int
    dropped: int
    evaluated: int
    trained_on: int | None
    trained_prompt: int | None
    not_scored: int
    impossible: int
    bad_cells: int
    priors: int = 0
    smaller_budget: int = 0
    swap_left_out: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The figures of predictions on a table.

    Attributes:
        figures: of the part `all`; if trained rows are marked, of `trained` and `untrained` too.
        bias, agreement, slices: of the rows that did not train the judge, where there are any.
        warnings: whole lines for the user.
    """

    predictions: str
    kind: Kind
    table: str
    settings: EvaluateSettings
    rows: RowCounts
    figures: dict[Part, Figures]
    bias: Bias
    agreement: list[AgreementFigure]
    slices: list[Slice]
    warnings: list[str]


def evaluate(
    stored: StoredPredictions,
    table: Table,
    settings: EvaluateSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare predictions with the labels of their table.

    Args:
        stored: `judge.predictions.file.read_predictions` of a file.
        table: read once, in a stream. Its texts only tell which rows share a prompt, so open it with
            `on_bad_row="placeholder"`.

    Raises:
        JudgeError: the ids of the two are not the same, no row has a label, a labelled row trained the judge
            (unless the settings allow it), or a setting is out of range.
    """
    settings = settings or EvaluateSettings()
    check_resampling(settings.resamples, settings.seed)
    return evaluate_joined(join(stored, table, progress, partial=settings.partial), stored, table, settings)


def evaluate_joined(
    joined: JudgedRows, stored: StoredPredictions, table: Table, settings: EvaluateSettings
) -> Evaluation:
    """Do what `evaluate` does with rows that `judge.evaluation.judged_rows.join` has joined.

    Raises:
        JudgeError: a row trained the judge, unless the settings allow it.
    """
    rows = joined
    if settings.trained_rows != "mark":
        ways = f"{DROP}, or --trained-rows=mark to evaluate all the same"
        why = "so its figures would say little about new rows"
        rows = without_trained(joined, [stored.name], settings.trained_rows, why, ways)
    trained = rows.has(Flag.TRAINED_ON)
    parts: dict[Part, JudgedRows] = {"all": rows}
    if trained.any() and not trained.all():
        parts |= {"trained": rows.where(trained), "untrained": rows.where(~trained)}
    flagged = stored.flags is not None
    counts = RowCounts(
        table=table.counts["rows"],
        unlabelled=table.counts["rows"] - table.counts["labelled"],
        unpredicted=table.counts["labelled"] - len(joined),
        dropped=len(joined) - len(rows),
        evaluated=len(rows),
        trained_on=int(trained.sum()) if flagged else None,
        trained_prompt=int((rows.has(Flag.TRAINED_PROMPT) & ~trained).sum()) if flagged else None,
        not_scored=int(rows.has(Flag.NOT_SCORED).sum()),
        impossible=int((rows.p[np.arange(len(rows)), rows.labels] == 0).sum()),
        bad_cells=table.counts["bad_cell"],
        priors=int(rows.has(Flag.PRIOR).sum()),
        smaller_budget=int(rows.has(Flag.SMALLER_BUDGET).sum()),
        swap_left_out=int(rows.has(Flag.SWAP_LEFT_OUT).sum()),
    )
    resamplers = {name: Resampler(part.groups, settings.resamples, settings.seed) for name, part in parts.items()}
    figures = {name: figures_of(part, resamplers[name]) for name, part in parts.items()}
    new, resampler = list(parts.values())[-1], list(resamplers.values())[-1]  # untrained rows, if some trained
    return Evaluation(
        stored.name,
        stored.kind,
        table.name,
        settings,
        counts,
        figures,
        bias_report(new, resampler, settings.self_names),
        agreement_figures(new, resampler),
        slices_of(new, resampler),
        _warnings(counts, figures),
    )


def _warnings(counts: RowCounts, figures: dict[Part, Figures]) -> list[str]:
    """Return what the user must know to read the figures, the most serious first."""
    judged = figures.get("untrained", figures["all"])
    about_judge: list[tuple[Any, str]] = [
        (
            counts.trained_on,
            f"TRAINED ROWS: {counts.trained_on} of {counted(counts.evaluated, 'row')} trained this judge; figures "
            "that include them say little about new rows",
        ),
        (
            counts.trained_on is None,
            "the predictions have no column flags, so it is not known whether rows trained this judge",
        ),
        (
            counts.trained_prompt,
            f"{counted(counts.trained_prompt or 0, 'row')} with the prompt of another row that trained this judge: "
            "the figures may be too good",
        ),
        (
            judged.over_class_rates.value >= -MARGIN,
            "the judge knows nothing that the class rates don't say: its log loss is "
            f"{judged.log_loss.value:.4f}, that of always giving the class rates {judged.class_rates_log_loss:.4f}",
        ),
        (judged.groups < FEW_GROUPS, few_groups_text(judged.groups)),
        (isinstance(judged.ece, Undefined), f"no calibration error: {getattr(judged.ece, 'reason', '')}"),
    ]
    about_rows = (
        (counts.impossible, "got a probability of 0 for the true verdict, 36 nats each"),
        (counts.not_scored, "could not be scored and count with 1/3 each"),
        (counts.priors, "could not be read before the deadline and count with the class priors"),
        (counts.smaller_budget, "were read with fewer tokens than the budget, for the deadline"),
        (counts.swap_left_out, "were not read in the exchanged order, for the deadline"),
        (
            counts.bad_cells,
            "of the table with a cell that cannot be read: rows with such a prompt are grouped by their responses",
        ),
    )
    return [text for holds, text in about_judge if holds] + [
        f"{counted(rows, 'row')} {what}" for rows, what in about_rows if rows
    ]
