"""The plan of a run: everything that is known and checked before a weight is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from judge.models.bundle import ModelFolder
from judge.models.trained_rows import TrainedRows, joined, trained_rows_of
from judge.prompting.builder import Budget, PromptBuilder
from judge.runs.folder import Manifest
from judge.tables.table import Table
from judge.training.events import TrainingEvents
from judge.training.model import Machine
from judge.training.rows import Split, TrainingRows, check_rows, read_rows, split_rows
from judge.training.settings import TrainSettings
from judge.training.split_report import describe_split
from judge.version import __version__

# Read both orders from disk only where they are used.
BOTH_ORDERS = {"off": False, "random": True, "both": True}


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a weight is loaded.

    Attributes:
        base: the model to train.
        bundle: the bundle to go on from, or None.
        train_rows: the rows to train on, and those held out of them unless `eval_rows` is another table's.
        eval_rows: the rows that `split.held_out` counts in.
        group: rows computed together, over all devices.
        steps: optimizer steps of the run.
    """

    settings: TrainSettings
    base: ModelFolder
    bundle: ModelFolder | None
    builder: PromptBuilder
    machine: Machine
    train_rows: TrainingRows
    eval_rows: TrainingRows
    split: Split
    data_digests: tuple[str, ...]
    trained_before: tuple[TrainedRows, ...]
    notes: tuple[str, ...]

    @property
    def budget(self) -> Budget:
        """The budget of every prompt."""
        return self.builder.budget

    @property
    def group(self) -> int:
        """Rows that are computed together, over all devices."""
        return self.settings.batch_size * self.machine.processes

    @property
    def rows_per_step(self) -> int:
        """The effective batch size."""
        return self.group * self.settings.accumulation

    @property
    def rows_per_epoch(self) -> int:
        """Prompts in one epoch: comparisons, twice where both orders are shown."""
        return len(self.split.train) * (2 if self.settings.swap == "both" else 1)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run, counted as transformers' trainer counts them."""
        batches = math.ceil(self.rows_per_epoch / self.group)
        per_epoch = max(math.ceil(batches / self.settings.accumulation), 1)
        return self.settings.max_steps or math.ceil(self.settings.epochs * per_epoch)

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed twice to save memory."""
        chosen = self.settings.gradient_checkpointing
        return chosen if chosen is not None else self.machine.device == "cuda"


def run_manifest(
    settings: TrainSettings,
    base: ModelFolder,
    bundle: ModelFolder | None,
    builder: PromptBuilder,
    machine: Machine,
) -> Manifest:
    """Return the hashes and settings that decide what a run writes."""
    paths = [*settings.data, *([settings.eval_data] if settings.eval_data else [])]
    values = settings.model_dump(mode="json", exclude={"report_to", "model", "data", "eval_data", "template"})
    return {
        "version": __version__,
        "table": [_table_digest(path, settings) for path in paths],
        "model": [base.digest(), *([bundle.digest()] if bundle is not None else [])],
        "template": builder.template.digest,
        "prompt": builder.fingerprint(),
        "settings": {**values, "dtype": machine.dtype, "devices": machine.processes},
    }


def _table_digest(path: str, settings: TrainSettings) -> str:
    return Table.open(path, settings.cells, labels="required").digest()


def make_plan(
    settings: TrainSettings,
    base: ModelFolder,
    bundle: ModelFolder | None,
    builder: PromptBuilder,
    machine: Machine,
    folder: Path,
    events: TrainingEvents,
) -> Plan:
    """Read and check the data.

    Raises:
        JudgeError: see `judge.training.rows`.
    """
    both = BOTH_ORDERS[settings.swap]
    rows = read_rows(settings.data, settings, builder, folder / "data", both, events.reading)
    if settings.eval_data is None:
        eval_rows, split = rows, split_rows(rows, settings)
    else:
        eval_rows = read_rows([settings.eval_data], settings, builder, folder / "eval", False, events.reading)
        split = Split(np.arange(len(rows.records)), np.arange(len(eval_rows.records)))
    before = tuple(trained_rows_of(base) + (trained_rows_of(bundle) if bundle is not None else []))
    notes, split = describe_split(rows, eval_rows, split, joined(before))
    digests = tuple(_table_digest(path, settings) for path in settings.data)
    plan = Plan(settings, base, bundle, builder, machine, rows, eval_rows, split, digests, before, tuple(notes))
    check_rows(rows, split.train, settings, plan.rows_per_step)
    return plan
