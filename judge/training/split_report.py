"""What a split is like: sizes, class rates, and prompts that its two sides share or nearly share."""

from __future__ import annotations

import numpy as np

from judge.errors import JudgeError, counted, printable
from judge.models.trained_rows import TrainedRows
from judge.stats.metrics import label_rates, rates_text
from judge.training.heldout import prior_figures
from judge.training.rows import Split, TrainingRows


def describe_split(
    rows: TrainingRows, eval_rows: TrainingRows, split: Split, before: TrainedRows | None = None
) -> tuple[list[str], Split]:
    """Check a split and return lines that describe it, and the split without held-out rows that cannot be evaluated.

    These are rows without a hard label, and rows that trained the judge that the run goes on from (`before`).

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
    pairs = near_duplicates(left, right)
    near = {number for _, number, _ in pairs}
    lines.append(f"held-out prompts that nearly equal a training prompt: {len(near)} of {len(right)}")
    return lines
