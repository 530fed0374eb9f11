"""The files around a blend: predictions in, blended predictions, a submission and a record out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.errors import JudgeError
from judge.evaluation.ensemble import Ensemble, ensemble
from judge.evaluation.members import read_members
from judge.evaluation.settings import EnsembleSettings
from judge.files import whole_file
from judge.models.bundle import file_digest
from judge.predictions.predictions import check_output, write_predictions
from judge.predictions.submission import SubmissionOptions, check_form, write_submission
from judge.prompting.verdict import NAMES
from judge.stats.resample import CONFIDENCE
from judge.tables.comparison import Flag
from judge.tables.table import Table
from judge.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa


def blend_files(
    members: Sequence[Path],
    table_path: Path | None,
    output: Path | None,
    settings: EnsembleSettings,
    submission: SubmissionOptions,
) -> Ensemble:
    """Blend files of predictions, and write the blend where that is wanted.

    Args:
        members: files of predictions, at least two.
        table_path: labelled table to fit the weights on and to measure with; its order of rows is the output's.
        output: where to write predictions, `.parquet` or `.csv`, with a record `OUTPUT.run.json` beside them.
        settings: see `judge.evaluation.ensemble.ensemble`.
        submission: where to write a contest submission.

    Raises:
        JudgeError: any mistake in the input or the settings; nothing is written then.
    """
    form = submission.form()
    record = None if output is None else output.with_name(output.name + ".run.json")
    if output is not None:
        check_output(output)
    if table_path is None and output is None and submission.path is None and len(members) > 1:
        raise JudgeError("nothing to do: give -o for a blended file, or --table to measure the blend")
    inputs = [*members, *([table_path] if table_path else []), *([submission.sample] if submission.sample else [])]
    outputs = [path for path in (output, record, submission.path) if path is not None]
    _refuse_same_files(inputs, outputs)
    for path in outputs:  # before anything is written, so that there is not one output without the other
        if not os.access(path.resolve().parent, os.W_OK, effective_ids=True):
            raise JudgeError(f"{path}: cannot be written, its folder may not be written to")
    stored = read_members(members)
    table = None if table_path is None else Table.open(table_path, on_bad_row="placeholder")
    found = ensemble(stored, table, settings)
    ids, order = _ids(stored[0].ids, table)
    check_form(form, ids.to_pylist())
    if output is not None and record is not None:
        record.unlink(missing_ok=True)  # it belongs to the file that is overwritten now
        write_predictions(output, predictions_table(found, ids, order))
    if submission.path is not None:
        write_submission(submission.path, ids.to_pylist(), found.p[order], form, submission.floor)
    if record is not None:
        _write_record(record, members, table_path, settings, found)
    return found


def content_of(found: Ensemble, settings: EnsembleSettings) -> dict[str, Any]:
    """Return weights, settings and figures of a blend as plain values for JSON."""
    return {
        "names": found.names,
        "weights": found.weights,
        "fitted": found.fitted,
        "rows": len(found.p),
        "settings": {**settings.model_dump(), "level": CONFIDENCE},
        "measured": None if found.measured is None else asdict(found.measured),
    }


def _refuse_same_files(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    for i, path in enumerate(outputs):
        for other in (*inputs, *outputs[:i]):
            if path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
                raise JudgeError(f"{path}: is to be written, but is also {other}; choose another output")


def _ids(ids: list[str], table: Table | None) -> tuple[pa.Array, list[int]]:
    """Return the ids of the output in their own type, and the place of each among the first member's rows."""
    import pyarrow as pa

    if table is not None:
        places = {row_id: i for i, row_id in enumerate(ids)}
        own = table.ids()
        predicted = [i for i, row_id in enumerate(own.to_pylist()) if str(row_id) in places]  # all, unless --partial
        own = own.take(pa.array(predicted, pa.int64()))
        return own, [places[str(row_id)] for row_id in own.to_pylist()]
    order = list(range(len(ids)))
    if all(text.isascii() and text.isdecimal() and (text == "0" or text[0] != "0") for text in ids):
        try:
            return pa.array([int(text) for text in ids], pa.int64()), order
        except (OverflowError, pa.ArrowInvalid, ValueError):
            pass
    return pa.array(ids, pa.string()), order


def predictions_table(found: Ensemble, ids: pa.Array, order: Sequence[int]) -> pa.Table:
    """Return a blend as a table of predictions: `id`, `p_a`, `p_b`, `p_tie` (float64), `flags`."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {"id": ids}
    columns |= {f"p_{name}": pa.array(found.p[order, i]) for i, name in enumerate(NAMES)}
    columns["flags"] = pa.array([Flag(int(f)).names() for f in found.flags[order]], pa.string())
    return pa.table(columns)


def _write_record(
    path: Path, members: Sequence[Path], table: Path | None, settings: EnsembleSettings, found: Ensemble
) -> None:
    content = {
        "version": __version__,
        "kind": "ensemble",
        "members": [
            {"name": name, "sha256": file_digest(file), "weight": weight}
            for name, file, weight in zip(found.names, members, found.weights, strict=True)
        ],
        "table": None if table is None else file_digest(table),
        **content_of(found, settings),
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
