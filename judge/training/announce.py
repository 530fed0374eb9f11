"""What a run says before its first step: the data, what is supervised, how much there is to do and what it takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from judge.errors import counted, printable
from judge.runs.terminal import duration
from judge.training.cost import estimate_memory, estimate_seconds, length_figures, seconds_per_token
from judge.training.events import TrainingEvents
from judge.training.plan import Plan
from judge.training.rows import IGNORED, token_dataset

if TYPE_CHECKING:
    from judge.training.trainer import VerdictTrainer


def announce(plan: Plan, going_on: bool, checkpoint: Path | None, events: TrainingEvents) -> None:
    """Say what is about to happen: which kind of start, the data, the prompts and what is supervised in them."""
    settings = plan.settings
    if going_on:
        place = f"from {checkpoint.name}" if checkpoint else "from the start, as no checkpoint was written"
        events.note(f"resuming the unfinished run, {place}")
    elif settings.continue_from:
        events.note(f"a new run that continues from {settings.continue_from}")
    else:
        events.note("a new run")
    for line in plan.notes:
        events.note(line)
    lengths = length_figures(plan.train_rows.lengths[plan.split.train])
    events.note(
        f"prompt: template {plan.builder.template.name}, {lengths['mean']:,.0f} tokens on average, 95 % under "
        f"{lengths['p95']:,.0f}, longest {lengths['max']:,.0f}; budget {plan.budget.max_tokens:,}"
    )
    for line in samples(plan):
        events.note(line)


def samples(plan: Plan, count: int = 3) -> list[str]:
    """Return decoded training samples: the end of each with the supervised token marked, its first and last ids."""
    chosen = plan.split.train[np.linspace(0, len(plan.split.train) - 1, count).astype(int)]
    dataset = token_dataset(plan.train_rows, chosen, plan.settings, plan.builder.verdict_ids, False, training=True)
    tokenizer = plan.builder.encoder.tokenizer
    lines = []
    for row in dataset:
        ids, labels = list(row["input_ids"]), list(row["labels"])
        marked = [i for i, label in enumerate(labels) if label != IGNORED]
        text = tokenizer.decode(ids[: marked[0]])
        shown = text if len(text) <= 240 else f"{text[:100]} […] {text[-130:]}"
        verdict = tokenizer.decode([ids[marked[0]]])
        lines.append(f"sample id {plan.train_rows.ids[row['row']]}: {printable(shown, 400)}>>>{printable(verdict)}<<<")
        lines.append(f"  {counted(len(ids), 'token')}, {len(marked)} supervised; ids {ids[:6]} … {ids[-6:]}")
    return lines


def announce_cost(plan: Plan, trainer: VerdictTrainer, events: TrainingEvents) -> None:
    """Say how much there is to do, what share of the weights learns, and what memory and time it will take."""
    settings = plan.settings
    parameters = list(trainer.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = plan.base.loaded_bytes(1) + (trainable if settings.method != "full" else 0)
    events.note(
        f"training {trainable:,} of {total:,} parameters ({trainable / total:.2%}), {settings.method}, "
        f"{plan.machine.dtype} on {plan.machine.device}"
    )
    events.note(
        f"effective batch {plan.rows_per_step} rows ({settings.batch_size} x {settings.accumulation} x "
        f"{counted(plan.machine.processes, 'device')}), {counted(plan.steps, 'step')}, learning rate {settings.rate:g}"
    )
    lengths = plan.train_rows.lengths[plan.split.train]
    longest = int(lengths.max())
    memory = estimate_memory(settings, plan.base, plan.machine, trainable, longest, plan.checkpointing)
    shown = [part / 2**30 for part in (memory.total, memory.weights, memory.training, memory.activations)]
    events.note(
        f"memory: about {shown[0]:.1f} GiB a device (weights {shown[1]:.1f}, gradients and optimizer {shown[2]:.1f}, "
        f"activations up to {shown[3]:.1f})"
    )
    per_token = seconds_per_token(trainer)
    rows = plan.steps * plan.rows_per_step / plan.machine.processes
    held_out = plan.eval_rows.lengths[plan.split.held_out].sum() / plan.machine.processes
    seconds = estimate_seconds(per_token, rows * float(lengths.mean()), float(held_out), settings.evaluations + 1)
    if math.isnan(per_token):
        events.warn("the first batch does not fit into memory; lower batch_size or max_tokens, raise accumulation")
        return
    events.note(f"time: about {duration(seconds)} ({1 / per_token:,.0f} tokens/s a device on the first batch)")
