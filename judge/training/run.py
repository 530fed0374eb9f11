"""A training run before a weight is loaded: its data, its split, how many steps it has, and what it says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from judge.errors import JudgeError, counted, printable
from judge.models.bundle import ModelFolder
from judge.models.trained_rows import TrainedRows, trained_rows_of
from judge.prompting.builder import PromptBuilder
from judge.runs.folder import Manifest
from judge.runs.progress import Progress
from judge.stats.metrics import label_rates, rates_text
from judge.tables.table import Table
from judge.training.heldout import prior_figures
from judge.training.model import TrainingMachine
from judge.training.rows import Split, TrainingRows, check_rows, read_rows, split_rows
from judge.training.settings import TrainSettings
from judge.version import __version__


@dataclass(frozen=True)
class TrainingRun:
    """Everything that is known before a weight is loaded.

    Attributes:
        bundle: the bundle to go on from, or None.
        eval_rows: the rows that `split.held_out` counts in: those of `eval_data`, else the same as `train_rows`.
        trained_before: what trained the base model and the bundle to go on from.
        notes: lines about the data and its split.
    """

    settings: TrainSettings
    base: ModelFolder
    bundle: ModelFolder | None
    builder: PromptBuilder
    machine: TrainingMachine
    train_rows: TrainingRows
    eval_rows: TrainingRows
    split: Split
    trained_before: TrainedRows | None
    notes: list[str]

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
    machine: TrainingMachine,
) -> Manifest:
    """Return the hashes and settings that decide what a run writes."""
    paths = [*settings.data, *([settings.eval_data] if settings.eval_data else [])]
    values = settings.model_dump(mode="json", exclude={"report_to", "model", "data", "eval_data", "template"})
    return {
        "version": __version__,
        "table": [Table.open(path, settings.cells, labels="required").digest() for path in paths],
        "model": [base.digest(), *([bundle.digest()] if bundle is not None else [])],
        "template": builder.template.digest,
        "prompt": builder.fingerprint(),
        "settings": {**values, "dtype": machine.dtype, "devices": machine.processes},
    }


def make_run(
    settings: TrainSettings,
    base: ModelFolder,
    bundle: ModelFolder | None,
    builder: PromptBuilder,
    machine: TrainingMachine,
    folder: Path,
    progress: Progress,
) -> TrainingRun:
    """Read and check the data.

    Raises:
        JudgeError: a table cannot be read, split or trained on.
    """
    rows = read_rows(settings.data, settings, builder, folder / "data", settings.swap != "off", progress)
    if settings.eval_data is None:
        eval_rows, split = rows, split_rows(rows, settings)
    else:
        eval_rows = read_rows([settings.eval_data], settings, builder, folder / "eval", False, progress)
        split = Split(np.arange(len(rows.records)), np.arange(len(eval_rows.records)))
    before = trained_rows_of(base, *([bundle] if bundle else []))
    notes, split = describe_split(rows, eval_rows, split, before)
    run = TrainingRun(settings, base, bundle, builder, machine, rows, eval_rows, split, before, notes)
    check_rows(rows, split.train, settings, run.rows_per_step)
    return run


def describe_split(
    rows: TrainingRows, eval_rows: TrainingRows, split: Split, before: TrainedRows | None = None
) -> tuple[list[str], Split]:
    """Return lines that describe a split, and the split without the held-out rows that cannot be evaluated.

    Rows without a hard label cannot, and neither can rows that trained the judge which the run goes on from.

    Args:
        before: what trained that judge.

    Raises:
        JudgeError: a row is on both sides, or no held-out row has a hard label.
    """
    shared = np.isin(eval_rows.records["row_key"][split.held_out], rows.records["row_key"][split.train])
    if shared.any():
        first = eval_rows.ids[split.held_out[np.flatnonzero(shared)[0]]]
        raise JudgeError(
            f"{counted(int(shared.sum()), 'row')} of eval_data (first: id {first}) also in the training data; take "
            "them out (judge data dedupe), or leave eval_data out and let part of the data be held out by prompt"
        )
    notes = []
    hard = eval_rows.records["label"][split.held_out] >= 0
    if not hard.all():
        notes.append(f"{counted(int((~hard).sum()), 'held-out row')} without a hard label left out of the evaluation")
        split = Split(split.train, split.held_out[hard])
    if before is not None:
        seen = np.isin(eval_rows.records["row_key"][split.held_out], before.rows)
        if seen.any():
            notes.append(
                f"{counted(int(seen.sum()), 'held-out row')} left out: they trained the judge that this run starts from"
            )
            split = Split(split.train, split.held_out[~seen])
    if not len(split.held_out):
        raise JudgeError(
            "no held-out row is left to evaluate on: none has a hard label"
            + (", or all trained the judge that this run goes on from; give eval_data" if before is not None else "")
        )
    notes = [*_sides(rows, eval_rows, split), *notes, *_overlap(rows, eval_rows, split)]
    prior = prior_figures(eval_rows.strata[split.held_out], rows.strata[split.train])
    losses = ", ".join(f"{name} {figures['log_loss']:.4f}" for name, figures in prior.items())
    return [*notes, f"held-out log loss to beat: {losses}"], split


def _sides(rows: TrainingRows, eval_rows: TrainingRows, split: Split) -> list[str]:
    lines = []
    for name, side, chosen in (("train", rows, split.train), ("held out", eval_rows, split.held_out)):
        groups = len(np.unique(side.records["group"][chosen]))
        lines.append(
            f"{name}: {counted(len(chosen), 'row')} of {counted(groups, 'prompt')}, "
            f"{rates_text(label_rates(side.strata[chosen]))}"
        )
    if len(rows.sources) > 1:
        pairs = np.unique(rows.records[["group", "source"]][split.train])
        shared = int((np.unique(pairs["group"], return_counts=True)[1] > 1).sum())
        lines.append(f"  prompts that several sources share: {shared}")
        source = rows.records["source"][split.train]
        lines += [
            f"  source {printable(name, 60)}: {counted(int((source == i).sum()), 'row')}, "
            f"{rates_text(label_rates(rows.strata[split.train][source == i]))}"
            for i, name in enumerate(rows.sources)
            if (source == i).any()
        ]
    return lines


def _overlap(rows: TrainingRows, eval_rows: TrainingRows, split: Split) -> list[str]:
    """Say how many held-out prompts are in the training data, exactly or nearly."""
    from judge.tables.overlap import near_duplicates

    train_groups = rows.records["group"][split.train]
    exact = np.isin(eval_rows.records["group"][split.held_out], train_groups)
    lines = []
    if exact.any():
        lines.append(f"warning: {counted(int(exact.sum()), 'held-out row')} share a prompt with a training row")
    left = sorted({rows.prompts[i] for i in split.train.tolist()})
    right = sorted({eval_rows.prompts[i] for i in split.held_out[~exact].tolist()})
    near = {number for _, number, _ in near_duplicates(left, right)}
    lines.append(f"held-out prompts that nearly equal a training prompt: {len(near)} of {len(right)}")
    return lines
