"""Another calibration for predictions that are there: their log-probabilities are enough, nothing is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.models.calibration import Calibration
from judge.predictions.file import StoredPredictions, read_predictions
from judge.predictions.predictions import (
    GivenUp,
    averaged,
    figures_of,
    given_up_figures,
    with_priors,
    write_predictions,
)
from judge.prompting.verdict import NAMES, Float
from judge.runs.folder import Manifest, without_calibration, write_run_record
from judge.tables.parquet_folder import read_table
from judge.tables.table import Table
from judge.tables.table_files import csv_rows

_P = tuple(f"p_{name}" for name in NAMES)


def recalibrate(
    output: Path, record: Path, old: Manifest, manifest: Manifest, calibration: Calibration | None, table: Table
) -> str:
    """Rewrite finished predictions and their record as a run with this calibration writes them, byte for byte.

    If it is stopped at any moment, the file is whole, and the same command goes on from the record.

    Args:
        output: predictions that `judge score` wrote.
        record: the record of that run.
        old: what the record says; it differs from `manifest` in the calibration alone.
        manifest: the manifest of the run that is wanted.
        calibration: the calibration of that run; None leaves the probabilities as they were read.
        table: the table of both runs.

    Returns:
        A line for the user.

    Raises:
        JudgeError: the file does not hold what that run wrote. Nothing is changed then.
    """
    stored = read_predictions(output)
    labels = _labels(stored, table)
    if stored.first is None or stored.second is None or stored.flags is None:
        raise JudgeError(
            f"{output}: has not all columns that judge score wrote (log-probabilities and flags), without which its "
            "calibration cannot be changed; pass --restart to score again"
        )
    p = averaged(stored.first, stored.second, calibration)
    given_up = _given_up(old["result"], stored)
    if given_up is not None:
        p = with_priors(p, stored.flags, given_up.rates)[0]
    before, after = (figures_of(values, labels, stored.flags) for values in (stored.p, p))
    after["calibration"] = calibration.in_words() if calibration else None
    if given_up is not None:
        after["given_up"] = given_up_figures(given_up, p, stored.flags)
    # between here and the end the record fits no run, so that no run takes the file for its own
    write_run_record(record, without_calibration(old), old["result"])
    _rewrite(output, p)
    write_run_record(record, manifest, old["result"] | after)
    what = f"are now calibrated ({after['calibration']})" if calibration else "are now as read, without a calibration"
    text = f"{output}: p_* {what}; they follow from its log-probabilities, so nothing was read again"
    if "log_loss" in after:
        text += f"; log loss {before['log_loss']:.4f} -> {after['log_loss']:.4f}"
    return text


def _given_up(figures: dict[str, Any], stored: StoredPredictions) -> GivenUp | None:
    """Return what a run with a deadline gave up, from its record; None for one without."""
    values = figures.get("given_up")
    if not isinstance(values, dict) or stored.flags is None:
        return None
    a, b, tie = values["training_rates"]
    return GivenUp(values["deadline"], stored.flags, (a, b, tie), values.get("smallest_budget", 0))


def _labels(stored: StoredPredictions, table: Table) -> NDArray[np.int64]:
    """Return the labels of the table's rows, shape (rows,).

    Raises:
        JudgeError: the predictions are of other rows, or in another order.
    """
    rows = [(str(row.id), row.label) for chunk in table.chunks() for row in chunk]
    if [row_id for row_id, _ in rows] != stored.ids:
        raise JudgeError(
            f"{stored.name}: has not the rows of {table.name} in their order, so it is not as judge score wrote it; "
            "pass --restart to score again"
        )
    return np.array([label for _, label in rows], dtype=np.int64)


def _rewrite(output: Path, p: Float) -> None:
    """Write the same file with other probabilities, whole or not at all; all else stays to the last byte."""
    import pyarrow as pa

    if output.suffix != ".csv":
        table = read_table(output)
        for name, values in zip(_P, p.T, strict=True):
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    else:  # every other cell stays the text that it is
        header, *rows = csv_rows(output, output.name)
        columns: dict[str, Any] = dict(zip(header, zip(*rows, strict=True), strict=True))
        table = pa.table(columns | dict(zip(_P, p.T, strict=True)))
    write_predictions(output, table)
