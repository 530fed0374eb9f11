"""Choosing and fitting a calibration, and whether it helps on rows that it has not seen.

Every method is cross-validated over prompt groups. We take the best one, so its own cross-validated gain is too good.
What decides is the gain of the whole procedure, by nested cross-validation (S. Varma and R. Simon, Bias in error
estimation when using cross-validation for model selection, 2006): for each fold, the method is chosen by
cross-validation on the other folds. A calibration is accepted if the 95% interval of that gain lies above zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from judge.calibration.fit import Task, cross_validate, make_task
from judge.errors import JudgeError, counted
from judge.evaluation.judged_rows import JudgedRows, few_groups_text, join, without_trained
from judge.evaluation.settings import LabelledSettings
from judge.models.calibration import METHODS, ORDERS, Calibration, Fitted, Method, Orders, Three, orders_read
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float, entropy, mean_of_read
from judge.stats.metrics import expected_calibration_error, label_rates, log_losses
from judge.stats.resample import FEW_GROUPS, Estimate, Resampler, check_resampling
from judge.tables.comparison import UNREAD, VERDICTS, Flag
from judge.tables.split import folds
from judge.tables.table import Table

Choice = Method | Literal["auto"]

# Nested cross-validation leaves out every pair of folds once, so it needs three folds or more.
_FEWEST_FOLDS, _MOST_FOLDS = 3, 20
# With fewer prompts, chance alone looks like a gain too often. We simulated judges that need no calibration, with one
# row a prompt: 8 of 37 got a calibration with 5 prompts, and 12 of 439 with 10 to 15 prompts.
_FEWEST_GROUPS = 10
NO_MODEL = "it needs the model: give --bundle"


class CalibrateSettings(LabelledSettings):
    """How to calibrate."""

    method: Choice = Field(default="auto", description="How to calibrate; auto takes the best by cross-validation.")
    folds: int = Field(default=5, description="Folds of the cross-validation over prompt groups.")


@dataclass(frozen=True)
class CalibrationRows:
    """How many rows of the table are of each kind; `used` are those that the calibration was fitted to."""

    table: int
    unlabelled: int
    unpredicted: int
    dropped: int
    not_scored: int
    used: int


@dataclass(frozen=True)
class OutOfFold:
    """Figures of rows that the calibration was not fitted to.

    Attributes:
        log_loss: nats.
        gain: how much lower the log loss is than before the calibration.
        ece: top-label expected calibration error, 15 bins of equal width.
    """

    log_loss: Estimate
    gain: Estimate
    ece: float


@dataclass(frozen=True)
class MethodResult:
    """A method fitted to all rows, and its figures out of fold."""

    calibration: Calibration
    figures: OutOfFold


@dataclass(frozen=True)
class CalibrateResult:
    """The outcome of calibrating.

    Attributes:
        groups: prompt groups of the rows that were used.
        orders: in which orders they were read.
        log_loss, ece: before the calibration.
        class_rates_log_loss: log loss of always giving the rates of these labels, nats.
        methods: the methods that were tried.
        left_out: the methods that were not tried, and why.
        chosen: the one with the lowest log loss.
        after: figures of the whole procedure, which includes the choice of the method.
        accepted: whether the interval of its gain lies above zero.
        warnings: whole lines for the user.
    """

    predictions: str
    table: str
    settings: CalibrateSettings
    rows: CalibrationRows
    groups: int
    orders: Orders
    log_loss: Estimate
    class_rates_log_loss: float
    ece: float
    methods: dict[Method, MethodResult]
    left_out: dict[Method, str]
    chosen: Method
    after: OutOfFold
    accepted: bool
    warnings: list[str]

    def calibration(self, predictions: str, prompt: str | None = None) -> Calibration:
        """Return the chosen calibration with the record of what it was fitted on.

        Args:
            predictions: SHA-256 of the predictions file.
            prompt: fingerprint of the prompts that were read, where it is known.
        """
        gain = self.after.gain
        fitted = Fitted(
            predictions=predictions,
            prompt=prompt,
            orders=self.orders,
            rows=self.rows.used,
            groups=self.groups,
            log_loss=(self.log_loss.value, self.after.log_loss.value),
            ece=(self.ece, self.after.ece),
            gain=(gain.value, gain.low, gain.high),
        )
        return self.methods[self.chosen].calibration.model_copy(update={"fitted": fitted})


def calibrate(
    stored: StoredPredictions,
    table: Table,
    settings: CalibrateSettings | None = None,
    content_free: Callable[[], Three | str] = lambda: NO_MODEL,
) -> CalibrateResult:
    """Fit calibrations to predictions and the labels of their table.

    Predictions that were calibrated already are calibrated anew from their log-probabilities. A submission has none, so
    its probabilities are calibrated.

    Args:
        stored: `judge.predictions.file.read_predictions` of a file.
        table: read once, in a stream. Open it with `on_bad_row="placeholder"`.
        content_free: for `contextual`: returns probabilities of the first, the second and tie for prompts without
            content, or says why it cannot. It is called only if the method is wanted, and after all other checks.

    Raises:
        JudgeError: the ids of the two are not the same, no row has a label, a labelled row trained the judge (unless
            the settings drop it), all labels are the same, there are fewer prompt groups than 10 or than folds, or
            a setting is out of range or cannot be had with these predictions.
    """
    settings = settings or CalibrateSettings()
    if not _FEWEST_FOLDS <= settings.folds <= _MOST_FOLDS:
        raise JudgeError(f"--folds={settings.folds}: expected {_FEWEST_FOLDS} to {_MOST_FOLDS}")
    check_resampling(settings.resamples, settings.seed)
    joined = join(stored, table, partial=settings.partial)
    kept = without_trained(joined, [stored.name], settings.trained_rows, "and on those it is surer than on new ones")
    rows = _scored(kept, stored)
    fold = _folds(rows, table.name, settings)
    tasks, left_out = _tasks(rows, settings, content_free)
    fitted, after, nested = cross_validate(tasks, rows.first, rows.second, rows.labels, fold)
    log_loss, figures = _figures(rows, [*after, nested], settings)
    methods = {c.method: MethodResult(c, f) for c, f in zip(fitted, figures[:-1], strict=True)}
    low = figures[-1].gain.low
    return CalibrateResult(
        predictions=stored.name,
        table=table.name,
        settings=settings,
        rows=CalibrationRows(
            table=table.counts["rows"],
            unlabelled=table.counts["rows"] - table.counts["labelled"],
            unpredicted=table.counts["labelled"] - len(joined),
            dropped=len(joined) - len(kept),
            not_scored=len(kept) - len(rows),
            used=len(rows),
        ),
        groups=len(np.unique(rows.groups)),
        orders=orders_read(rows.first, rows.second),
        log_loss=log_loss,
        class_rates_log_loss=float(entropy(label_rates(rows.labels)[np.newaxis])[0]),
        ece=expected_calibration_error(rows.p, rows.labels),
        methods=methods,
        left_out=left_out,
        chosen=min(methods, key=lambda method: methods[method].figures.log_loss.value),
        after=figures[-1],
        accepted=low is not None and low > 0,
        warnings=_warnings(stored, rows),
    )


def _scored(rows: JudgedRows, stored: StoredPredictions) -> JudgedRows:
    """Return the rows that the judge could score, with the probabilities as read, without any calibration."""
    if stored.first is None:
        rows = replace(rows, first=rows.p, second=np.full_like(rows.p, np.nan))
    p = mean_of_read(rows.first, rows.second)
    return replace(rows, p=p).where(~np.isnan(p).any(axis=1) & ~rows.has(UNREAD))


def _folds(rows: JudgedRows, table: str, settings: CalibrateSettings) -> NDArray[np.int64]:
    """Return the fold of each row, shape (rows,), if there is enough to cross-validate on."""
    if not len(rows):
        raise JudgeError(f"{table}: no labelled row was scored")
    given = np.unique(rows.labels)
    if len(given) == 1:
        raise JudgeError(
            f"{table}: all {len(rows):,} labels are {VERDICTS[given[0]]}, which says nothing about the judge's "
            "probabilities; give rows with other labels too"
        )
    groups = len(np.unique(rows.groups))
    if groups < _FEWEST_GROUPS:
        raise JudgeError(
            f"{table}: the labelled rows have {counted(groups, 'prompt')}, too few to tell a gain from chance; give "
            f"rows with {_FEWEST_GROUPS} prompts or more"
        )
    if groups < settings.folds:
        raise JudgeError(
            f"{table}: the labelled rows have {groups} prompts, too few for {settings.folds} folds; give more rows "
            f"with a label, or --folds={groups}"
        )
    return folds(rows.groups, rows.labels, settings.folds, settings.seed)


def _tasks(
    rows: JudgedRows, settings: CalibrateSettings, content_free: Callable[[], Three | str]
) -> tuple[list[Task], dict[Method, str]]:
    """Return the methods to try, and why the others are left out."""
    left_out: dict[Method, str] = {}
    missing = [VERDICTS[k] for k in range(3) if not (rows.labels == k).any()]
    if missing:
        reason = f"no row is labelled {missing[0]}, so nothing is known of that verdict's bias"
        left_out |= {"temperature+bias": reason, "vector": reason, "position": reason}
    if orders_read(rows.first, rows.second) == "one":
        left_out["position"] = "each row was read in one order only: score with --swap=all"
    wanted = METHODS if settings.method == "auto" else (settings.method,)
    without = content_free() if "contextual" in wanted else None
    if isinstance(without, str):
        left_out["contextual"], without = without, None
    if settings.method in left_out:
        raise JudgeError(f"--method={settings.method}: {left_out[settings.method]}")
    offered = [method for method in wanted if method not in left_out]
    tasks = [make_task(method, rows.first, rows.second, rows.labels, without) for method in offered]
    return tasks, {method: reason for method, reason in left_out.items() if method in wanted}


def _figures(rows: JudgedRows, after: Sequence[Float], settings: CalibrateSettings) -> tuple[Estimate, list[OutOfFold]]:
    """Return the log loss before the calibration, and the figures of each array in `after`, on the same resamples."""
    old = log_losses(rows.p, rows.labels)
    new = [log_losses(p, rows.labels) for p in after]
    resampler = Resampler(rows.groups, settings.resamples, settings.seed)
    estimates = resampler.estimate(np.column_stack([old, *new, *(old - losses for losses in new)]))
    errors = [expected_calibration_error(p, rows.labels) for p in after]
    losses, gains = estimates[1 : 1 + len(new)], estimates[1 + len(new) :]
    return estimates[0], [OutOfFold(*parts) for parts in zip(losses, gains, errors, strict=True)]


def _warnings(stored: StoredPredictions, rows: JudgedRows) -> list[str]:
    """Return what the user must know, the most serious first."""
    warnings: list[str] = []
    if stored.flags is None:
        warnings.append("the predictions have no column flags, so it is not known whether rows trained this judge")
    same_prompt = int(rows.has(Flag.TRAINED_PROMPT).sum())
    if same_prompt:
        warnings.append(
            f"{counted(same_prompt, 'row')} with the prompt of another row that trained this judge, where it may be "
            "surer than on new ones"
        )
    groups = len(np.unique(rows.groups))
    if groups < FEW_GROUPS:
        warnings.append(few_groups_text(groups))
    if stored.first is None:
        warnings.append(
            "the predictions have no log-probabilities: what is calibrated are their probabilities, changed already or "
            "not"
        )
    elif orders_read(rows.first, rows.second) == "some":
        warnings.append(f"the judge read {ORDERS['some']}; score with the same --swap")
    return warnings
