"""The file of an experiment's numbers: what each arm said of each row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from judge.experiment.racing import scores_of
from judge.experiment.result import ExperimentResult
from judge.files import whole_file
from judge.prompting.verdict import NAMES
from judge.tables.comparison import VERDICTS

if TYPE_CHECKING:
    import pyarrow as pa

    from judge.experiment.arm_scores import ArmScores

NAME = "results.parquet"


def results_table(result: ExperimentResult) -> pa.Table:
    """Return a row for each arm (for each of its training seeds) and each row of the table.

    Columns: `id` (text), `arm`, `seed` (null where nothing was trained), `p_a`, `p_b`, `p_tie`, `tokens` (of all orders
    that were read), `cut`, the metric of the row under its own name (`log_loss` in nats, `accuracy` as 0 or 1, or its
    share where verdicts are equally probable, `brier`), `label` (A, B or tie), and `prompt_group`. Where an arm was
    dropped before it came to a row, its figures of that row are null; where the engine gave no number, the
    probabilities are 1/3 and the metric is null.
    """
    import pyarrow as pa

    return pa.concat_tables([_arm_table(result, arm) for arm in result.arms])


def _arm_table(result: ExperimentResult, arm: ArmScores) -> pa.Table:
    import pyarrow as pa

    rows, n = result.rows, len(result.rows)
    scores = scores_of(arm, rows.labels, result.settings.metric)
    unread = ~arm.read
    columns = {
        "id": pa.array(rows.ids.tolist(), pa.string()),
        "arm": pa.array([arm.name] * n, pa.string()),
        "seed": pa.array([arm.seed] * n, pa.int64()),
    }
    for k, name in enumerate(NAMES):
        columns[f"p_{name}"] = pa.array(arm.p[:, k], mask=unread)
    columns["tokens"] = pa.array(arm.tokens.astype(np.int64), mask=unread)
    columns["cut"] = pa.array(arm.cut, mask=unread)
    columns[result.settings.metric] = pa.array(scores, mask=np.isnan(scores))
    columns["label"] = pa.array([VERDICTS[label] for label in rows.labels.tolist()], pa.string())
    columns["prompt_group"] = pa.array(rows.groups.astype(np.uint64), pa.uint64())
    return pa.table(columns)


def write_results(path: Path, result: ExperimentResult) -> None:
    """Write the table as a Parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    with whole_file(path) as temporary:
        pq.write_table(results_table(result), temporary)
