"""The files that an experiment leaves: `experiment.json`, with all that repeats it, and `results.parquet`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from judge.experiment.arms import Arm
from judge.experiment.result import ArmScores, ExperimentResult
from judge.experiment.rows import ExperimentRows
from judge.experiment.settings import ExperimentSettings
from judge.files import whole_file
from judge.prompting.template import template_data
from judge.prompting.verdict import NAMES
from judge.tables.comparison import VERDICTS
from judge.tables.table import Table
from judge.version import __version__, versions

if TYPE_CHECKING:
    import pyarrow as pa

RECORD = "experiment.json"
RESULTS = "results.parquet"
# What reads the prompts, or makes token ids of them.
_PACKAGES = ("numpy", "torch", "transformers", "tokenizers", "vllm")


def record_of(
    settings: ExperimentSettings, arms: Sequence[Arm], table: Table, rows: ExperimentRows, planned: float
) -> dict[str, Any]:
    """Return settings, digests of models, templates and table, and versions, as plain values.

    Args:
        planned: the smallest difference that was foreseen to show; infinite becomes null.
    """
    of_arms: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        of_arms.setdefault(arm.name, []).append(arm.record())
    return {
        "version": __version__,
        "versions": versions(_PACKAGES),
        "settings": settings.model_dump(mode="json"),
        "table": {
            "name": table.name,
            "digest": table.digest(),
            "rows": table.counts["rows"],
            "labelled": rows.labelled,
            "trained_on": rows.trained_on,
            "compared": len(rows),
        },
        "arms": of_arms,
        "templates": {arm.scorer.template.digest: template_data(arm.scorer.template) for arm in arms},
        "planned_smallest": planned if math.isfinite(planned) else None,
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record into the experiment's folder, whole or not at all."""
    with whole_file(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def is_complete(folder: Path) -> bool:
    """Return whether the folder holds the record of an experiment that was finished."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("state") == "complete"


def results_table(result: ExperimentResult) -> pa.Table:
    """Return what each arm (and each of its training seeds) says of each row of the table.

    Columns: `id` (text), `arm`, `seed` (null where nothing was trained), `p_a`, `p_b`, `p_tie`, `tokens` (of all orders
    that were read), `cut`, the metric of the row under its own name (`log_loss` in nats, `accuracy` as 0 or 1, or its
    share where verdicts are equally probable, `brier`), `label` (A, B or tie), and `prompt_group`. Where the engine
    gave no number, the probabilities are 1/3 and the metric is null.
    """
    import pyarrow as pa

    return pa.concat_tables([_arm_table(result, arm) for arm in result.arms])


def _arm_table(result: ExperimentResult, arm: ArmScores) -> pa.Table:
    import pyarrow as pa

    rows, n = result.rows, len(result.rows)
    scores = arm.row_scores(rows.labels, result.settings.metric)
    columns = {
        "id": pa.array(rows.ids.tolist(), pa.string()),
        "arm": pa.array([arm.name] * n, pa.string()),
        "seed": pa.array([arm.seed] * n, pa.int64()),
        **{f"p_{name}": pa.array(arm.p[:, k]) for k, name in enumerate(NAMES)},
        "tokens": pa.array(arm.tokens.astype(np.int64)),
        "cut": pa.array(arm.cut),
        result.settings.metric: pa.array(scores, mask=np.isnan(scores)),
        "label": pa.array([VERDICTS[label] for label in rows.labels.tolist()], pa.string()),
        "prompt_group": pa.array(rows.groups.astype(np.uint64), pa.uint64()),
    }
    return pa.table(columns)


def write_results(folder: Path, result: ExperimentResult) -> None:
    """Write the table of results into the experiment's folder as a Parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    with whole_file(folder / RESULTS) as temporary:
        pq.write_table(results_table(result), temporary)
