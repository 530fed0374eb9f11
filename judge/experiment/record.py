"""`experiment.json`: everything that is needed to repeat an experiment."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from judge.experiment.arms import Arm
from judge.experiment.rows import ExperimentRows
from judge.experiment.settings import ExperimentSettings
from judge.files import whole_file
from judge.prompting.template import template_data
from judge.tables.table import Table
from judge.version import __version__

RECORD = "experiment.json"
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
        "versions": _versions(),
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


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
