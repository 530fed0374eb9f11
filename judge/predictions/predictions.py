"""Predictions: log-probabilities of scored rows, what follows from them, and the file that they are written to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted
from judge.files import whole_file
from judge.models.calibration import Calibration
from judge.models.judge_file import JudgeFile
from judge.prompting.verdict import NAMES, Float, mean_of_read, probabilities, unread, verdict_mass
from judge.runs.prepared import Prepared
from judge.stats.metrics import UNIFORM_LOG_LOSS, accuracy, log_loss
from judge.tables.comparison import Flag
from judge.tables.parquet_folder import check_replaceable, write_folder

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".csv")
# The training rows' class rates count in a prior as much as so many rows of the run.
PRIOR_ROWS = 100


@dataclass(frozen=True)
class GivenUp:
    """What a run with a deadline did not read for want of time.

    Attributes:
        deadline: as the user gave it.
        flags: what was given up of each row, shape (rows,).
        rates: class rates of the judge's training rows, or uniform (see `training_rates`).
        smallest_budget: the smallest that any row was read with.
        failed: how the engine failed for good, if it did: then it was not for want of time alone.
    """

    deadline: str
    flags: NDArray[np.uint32]
    rates: tuple[float, float, float]
    smallest_budget: int
    failed: str | None = None


@dataclass(frozen=True)
class Predictions:
    """Scored rows, in the table's order.

    Attributes:
        first: log-probabilities of A, B and tie with A shown first, shape (rows, 3); NaN if not scored.
        second: the same with B shown first, mapped back to the table's A and B; NaN where not read.
        has_mass: whether the log-probabilities are over the full vocabulary.
        seconds: wall time of the reading of verdicts in this session.
        tokens: prompt tokens read in this session.
        calibration: what is applied to the probabilities; the log-probabilities stay as they were read.
        given_up: of a run with a deadline.
    """

    prepared: Prepared
    first: Float
    second: Float
    has_mass: bool
    seconds: float
    tokens: int
    calibration: Calibration | None = None
    given_up: GivenUp | None = None

    @cached_property
    def p(self) -> Float:
        """Probabilities of A, B and tie, shape (rows, 3): uniform where a row could not be scored.

        Rows for which there was no time have the class prior.
        """
        p = averaged(self.first, self.second, self.calibration)
        return with_priors(p, self.flags, self.given_up.rates)[0] if self.given_up else p

    @cached_property
    def flags(self) -> NDArray[np.uint32]:
        """The rows' flags, shape (rows,)."""
        given_up = self.given_up.flags if self.given_up else np.zeros(len(self.first), dtype=np.uint32)
        lost = unread(self.first) & unread(self.second) & ((given_up & np.uint32(Flag.PRIOR)) == 0)
        not_scored = np.where(lost, np.uint32(Flag.NOT_SCORED), np.uint32(0))
        return np.asarray(self.prepared.rows["flags"] | given_up | not_scored)


def averaged(first: Float, second: Float, calibration: Calibration | None) -> Float:
    """Return probabilities of A, B and tie, shape (rows, 3): uniform where neither order was read.

    Args:
        first, second: log-probabilities as `Predictions` has them; a row whose first order failed may have the second.
        calibration: what is applied to them.
    """
    average = calibration.apply if calibration else mean_of_read
    p = average(probabilities(first), probabilities(second))
    return np.where(unread(p)[:, np.newaxis], 1 / 3, p)


def training_rates(judge: JudgeFile | None) -> tuple[float, float, float]:
    """Return the class rates of the rows that trained a judge, 1/3 each where its file does not say."""
    rates = judge.metrics.get("class prior") if judge else None
    values = [rates.get(f"p_{name}") for name in NAMES] if isinstance(rates, dict) else []
    numbers = [float(v) for v in values if isinstance(v, int | float) and 0 < v < 1]
    if len(numbers) != 3 or not math.isclose(sum(numbers), 1, abs_tol=1e-3):
        return (1 / 3, 1 / 3, 1 / 3)
    return (numbers[0], numbers[1], numbers[2])


def with_priors(p: Float, flags: NDArray[np.uint32], rates: Sequence[float]) -> tuple[Float, Float]:
    """Return probabilities with the class prior in the rows flagged so, and the prior, shape (3,).

    The prior is the mean of the rows that were read, with the training rows' rates as `PRIOR_ROWS` rows more: with many
    rows it is what this judge says of this table, with none what it was taught.

    Args:
        p: shape (rows, 3), calibrated where the judge is.
        flags: shape (rows,).
        rates: class rates of the judge's training rows.
    """
    asked = (flags & np.uint32(Flag.PRIOR)) != 0
    scored = p[~asked & ((flags & np.uint32(Flag.NOT_SCORED)) == 0)]
    prior = (scored.sum(axis=0) + PRIOR_ROWS * np.asarray(rates)) / (len(scored) + PRIOR_ROWS)
    prior = prior / prior.sum()
    return np.where(asked[:, np.newaxis], prior, p), prior


def given_up_figures(given_up: GivenUp, p: Float, flags: NDArray[np.uint32]) -> dict[str, Any]:
    """Return what the record of a run says about its deadline.

    Args:
        p: shape (rows, 3), as read: what the rows flagged PRIOR have does not matter.
        flags: of the predictions, shape (rows,).
    """
    counts = {
        f"{str(flag.name).lower()}_rows": int(((flags & np.uint32(flag)) != 0).sum())
        for flag in (Flag.SWAP_LEFT_OUT, Flag.SMALLER_BUDGET, Flag.PRIOR)
    }
    result: dict[str, Any] = {"deadline": given_up.deadline, **counts, "training_rates": list(given_up.rates)}
    if counts["smaller_budget_rows"]:
        result["smallest_budget"] = given_up.smallest_budget
    if counts["prior_rows"]:
        result["prior"] = [float(v) for v in with_priors(p, flags, given_up.rates)[1]]
    if given_up.failed is not None:
        result["failed"] = given_up.failed
    return result


def what_is_missing(figures: dict[str, Any]) -> str:
    """Return what a finished run gave up for its deadline, as `, but …`, or an empty text.

    Args:
        figures: of the run (see `summary`).
    """
    given_up = figures.get("given_up")
    if not isinstance(given_up, dict):
        return ""
    parts = []
    if rows := given_up["swap_left_out_rows"]:
        parts.append(f"{rows:,} rows lack the exchanged order")
    if rows := given_up["smaller_budget_rows"]:
        parts.append(f"{rows:,} rows were cut to fewer tokens ({given_up['smallest_budget']:,} at least)")
    if rows := given_up["prior_rows"]:
        a, b, tie = given_up["prior"]
        parts.append(f"{counted(rows, 'row')} got the class priors (A {a:.3f}   B {b:.3f}   tie {tie:.3f})")
    return f", but {'; '.join(parts)}" if parts else ""


def figures_of(p: Float, labels: NDArray[np.integer], flags: NDArray[np.uint32]) -> dict[str, Any]:
    """Return those figures of a run that follow from its probabilities.

    Args:
        p: shape (rows, 3).
        labels: 0, 1, 2, or below 0 where there is none, shape (rows,).
        flags: shape (rows,); rows that trained the judge do not count in the log loss.
    """
    result: dict[str, Any] = {"mean_p": [float(v) for v in p.mean(axis=0)]}
    labelled = (labels >= 0) & ((flags & Flag.TRAINED_ON) == 0)
    if labelled.any():
        known = labels[labelled].astype(np.int64)
        result |= {
            "labelled_rows": int(labelled.sum()),
            "log_loss": log_loss(p[labelled], known),
            "uniform_log_loss": UNIFORM_LOG_LOSS,
            "accuracy": accuracy(p[labelled], known),
        }
    return result


def summary(predictions: Predictions) -> dict[str, Any]:
    """Return the figures of a run that its manifest keeps and the terminal shows."""
    p, rows, flags = predictions.p, predictions.prepared.rows, predictions.flags
    figures = figures_of(p, rows["label"], flags)
    read = predictions.first[~unread(predictions.first)]
    return {
        "rows": len(rows),
        "median_verdict_mass": float(np.median(verdict_mass(read))) if predictions.has_mass and len(read) else None,
        "swapped_rows": int((~unread(predictions.second)).sum()),
        "cut_rows": int(((rows["cut"].sum(axis=1) > 0) | (rows["cut_turns"] > 0)).sum()),
        "not_scored_rows": int(((flags & Flag.NOT_SCORED) != 0).sum()),
        "table": predictions.prepared.counts,
        "mean_prompt_tokens": float(rows["length"].mean()),
        "tokens": predictions.tokens,
        "seconds": predictions.seconds,
        "trained_on_rows": int(((flags & Flag.TRAINED_ON) != 0).sum()),
        "calibration": predictions.calibration.in_words() if predictions.calibration else None,
        **figures,
        **({"given_up": given_up_figures(predictions.given_up, p, flags)} if predictions.given_up else {}),
    }


def check_output(path: Path) -> None:
    """Check before a run that its predictions can be written to `path`.

    Raises:
        JudgeError: an unknown suffix, or no such folder; a folder that is not judge's to replace.
    """
    if not path.suffix:
        check_replaceable(path)
    elif path.is_dir():
        raise JudgeError(f"{path}: is a folder; give the name of a file")
    elif path.suffix not in SUFFIXES:
        raise JudgeError(f"{path}: predictions are written as {' or '.join(SUFFIXES)}, or without suffix as a folder")
    if not path.resolve().parent.is_dir():
        raise JudgeError(f"{path}: there is no folder {path.parent} to write to")


def predictions_table(predictions: Predictions) -> pa.Table:
    """Return the predictions as a table.

    Columns: `id`; `p_a, p_b, p_tie` (float64, averaged over the orders that were read, and calibrated where the judge
    has a calibration); `logprob_*` (as read, A shown first) and `swap_logprob_*` (B shown first, mapped back to the
    table's A and B; null where not read); `verdict_mass` and `swap_verdict_mass` (null where the read-out does not know
    it); `prompt_tokens`; `tokens_*` before cutting, `cut_*` the tokens lost, `cut_turns` the turns left out; `flags`,
    names joined by commas.
    """
    import pyarrow as pa

    rows, flags = predictions.prepared.rows, predictions.flags
    orders, unknown = {"": predictions.first, "swap_": predictions.second}, np.full(len(rows), np.nan)
    masses = {prefix: verdict_mass(v) if predictions.has_mass else unknown for prefix, v in orders.items()}
    columns: dict[str, pa.Array] = {"id": predictions.prepared.ids()}
    columns |= {f"p_{name}": pa.array(predictions.p[:, i]) for i, name in enumerate(NAMES)}
    for prefix, logprobs in orders.items():
        for i, name in enumerate(NAMES):
            columns[f"{prefix}logprob_{name}"] = pa.array(logprobs[:, i], from_pandas=True)
        columns[f"{prefix}verdict_mass"] = pa.array(masses[prefix], from_pandas=True)
    columns["prompt_tokens"] = pa.array(rows["length"])
    for kind in ("tokens", "cut"):
        for i, part in enumerate(("prompt", "a", "b")):
            columns[f"{kind}_{part}"] = pa.array(np.ascontiguousarray(rows[kind][:, i]))
    columns["cut_turns"] = pa.array(np.ascontiguousarray(rows["cut_turns"]))
    columns["flags"] = pa.array([Flag(int(f)).names() for f in flags], pa.string())
    return pa.table(columns)


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write predictions, whole or not at all; to a name without suffix, as a folder of Parquet files."""
    import pyarrow.parquet as pq

    if not path.suffix:
        write_folder(path, table)
        return
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        else:
            table.to_pandas().to_csv(temporary, index=False)
