"""The predictions file: one row a comparison, in the table's order, as Parquet or CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from judge.comparison import Flag
from judge.errors import JudgeError
from judge.run_folder import whole_file
from judge.score import Predictions
from judge.verdict import NAMES, verdict_mass

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".csv")


def check_output(path: Path) -> None:
    """Check before a run that its predictions can be written to `path`.

    Raises:
        JudgeError: an unknown suffix, or no such folder.
    """
    if path.suffix not in SUFFIXES:
        raise JudgeError(f"{path}: predictions are written as {' or '.join(SUFFIXES)}")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise JudgeError(f"{path}: there is no folder {path.parent} to write to")


def predictions_table(predictions: Predictions) -> pa.Table:
    """Return the predictions as a table.

    Columns: `id`; `p_a, p_b, p_tie` (float64, averaged over the orders that were read); `logprob_*` (A shown
    first) and `swap_logprob_*` (B shown first, mapped back to the table's A and B; null where not read);
    `verdict_mass` and `swap_verdict_mass` (null where the read-out does not know it); `prompt_tokens`;
    `tokens_*` before cutting, `cut_*` the tokens lost, `cut_turns` the turns left out; `flags`, names joined
    by commas.
    """
    import pyarrow as pa

    rows, p = predictions.prepared.rows, predictions.p
    columns: dict[str, pa.Array] = {"id": predictions.prepared.ids()}
    columns |= {f"p_{name}": pa.array(p[:, i]) for i, name in enumerate(NAMES)}
    for prefix, logprobs in (("", predictions.first), ("swap_", predictions.second)):
        for i, name in enumerate(NAMES):
            columns[f"{prefix}logprob_{name}"] = pa.array(logprobs[:, i], from_pandas=True)
        mass = verdict_mass(logprobs) if predictions.has_mass else np.full(len(rows), np.nan)
        columns[f"{prefix}verdict_mass"] = pa.array(mass, from_pandas=True)
    columns["prompt_tokens"] = pa.array(rows["length"])
    for kind in ("tokens", "cut"):
        for i, part in enumerate(("prompt", "a", "b")):
            columns[f"{kind}_{part}"] = pa.array(np.ascontiguousarray(rows[kind][:, i]))
    columns["cut_turns"] = pa.array(np.ascontiguousarray(rows["cut_turns"]))
    columns["flags"] = pa.array([Flag(int(f)).names() for f in predictions.flags], pa.string())
    return pa.table(columns)


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write predictions, whole or not at all."""
    import pyarrow.parquet as pq

    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        else:
            table.to_pandas().to_csv(temporary, index=False)
