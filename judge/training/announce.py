"""What a run says before its first step: the data, what is supervised, how much there is to do and what it takes.

Memory is estimated by arithmetic, time by trying one batch.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np

from judge.errors import counted, printable
from judge.runs.progress import Progress
from judge.runs.terminal import duration
from judge.training.batches import token_dataset
from judge.training.rows import IGNORED
from judge.training.run import TrainingRun
from judge.training.trainer import VerdictTrainer

# Activations of one transformer layer in bytes per token and hidden unit, at 2 bytes a value: 34 without the attention
# matrix (Korthikanti et al. 2022, arXiv 2205.05198, equation 1); 35 to 43 counted for Llama layers with and without
# LoRA, padded and not, by torch's saved-tensor hooks.
_ACTIVATION_BYTES = 40
# A forward pass is about a third of a forward and backward pass.
_FORWARD_SHARE = 1 / 3


def announce(run: TrainingRun, going_on: bool, checkpoint: Path | None, progress: Progress) -> None:
    """Say what is about to happen: which kind of start, the data, the prompts and what is supervised in them."""
    settings = run.settings
    if going_on:
        place = f"from {checkpoint.name}" if checkpoint else "from the start, as no checkpoint was written"
        progress.note(f"resuming the unfinished run, {place}")
    elif settings.continue_from:
        progress.note(f"a new run that continues from {settings.continue_from}")
    else:
        progress.note("a new run")
    lengths = run.train_rows.lengths[run.split.train]
    prompt = (
        f"prompt: template {run.builder.template.name}, {lengths.mean():,.0f} tokens on average, 95 % under "
        f"{np.percentile(lengths, 95):,.0f}, longest {lengths.max():,}; budget {run.builder.budget.max_tokens:,}"
    )
    for line in [*run.notes, prompt, *samples(run)]:
        progress.note(line)


def samples(run: TrainingRun, count: int = 3) -> list[str]:
    """Return decoded training samples: the end of each with the supervised token marked, its first and last ids."""
    chosen = run.split.train[np.linspace(0, len(run.split.train) - 1, count).astype(int)]
    dataset = token_dataset(run.train_rows, chosen, run.settings, run.builder.verdict_ids, False, training=True)
    tokenizer = run.builder.encoder.tokenizer
    lines = []
    for row in dataset:
        ids, labels = list(row["input_ids"]), list(row["labels"])
        marked = [i for i, label in enumerate(labels) if label != IGNORED]
        text = tokenizer.decode(ids[: marked[0]])
        shown = text if len(text) <= 240 else f"{text[:100]} […] {text[-130:]}"
        verdict = tokenizer.decode([ids[marked[0]]])
        lines.append(f"sample id {run.train_rows.ids[row['row']]}: {printable(shown, 400)}>>>{printable(verdict)}<<<")
        lines.append(f"  {counted(len(ids), 'token')}, {len(marked)} supervised; ids {ids[:6]} … {ids[-6:]}")
    return lines


def announce_cost(run: TrainingRun, trainer: VerdictTrainer, progress: Progress) -> None:
    """Say how much there is to do, what share of the weights learns, and what memory and time it will take."""
    settings = run.settings
    parameters = list(trainer.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = run.base.loaded_bytes(1) + (trainable if settings.method != "full" else 0)
    progress.note(
        f"training {trainable:,} of {total:,} parameters ({trainable / total:.2%}), {settings.method}, "
        f"{run.machine.dtype} on {run.machine.device}"
    )
    progress.note(
        f"effective batch {run.rows_per_step} rows ({settings.batch_size} x {settings.accumulation} x "
        f"{counted(run.machine.processes, 'device')}), {counted(run.steps, 'step')}, learning rate {settings.rate:g}"
    )
    lengths = run.train_rows.lengths[run.split.train]
    parts = estimate_memory(run, trainable)
    shown = [size / 2**30 for size in (sum(parts), *parts)]
    progress.note(
        f"memory: about {shown[0]:.1f} GiB a device (weights {shown[1]:.1f}, gradients and optimizer {shown[2]:.1f}, "
        f"activations up to {shown[3]:.1f})"
    )
    per_token = seconds_per_token(trainer)
    rows = run.steps * run.rows_per_step / run.machine.processes
    held_out = run.eval_rows.lengths[run.split.held_out].sum() / run.machine.processes
    # the held-out rows are also read before the first step and after the last one
    read = float(held_out) * (settings.evaluations + 2) * _FORWARD_SHARE
    seconds = per_token * (rows * float(lengths.mean()) + read)
    if math.isnan(per_token):
        progress.warn("the first batch does not fit into memory; lower batch_size or max_tokens, raise accumulation")
        return
    progress.note(f"time: about {duration(seconds)} ({1 / per_token:,.0f} tokens/s a device on the first batch)")


def estimate_memory(run: TrainingRun, trainable: int) -> tuple[int, int, int]:
    """Return roughly the bytes on each device of weights, what training adds to them, and activations."""
    settings, base, longest = run.settings, run.base, int(run.train_rows.lengths[run.split.train].max())
    size = 4 if run.machine.dtype == "float32" else 2
    text = base.text_config
    hidden, layers = int(text.get("hidden_size", 0)), int(text.get("num_hidden_layers", 0))
    vocabulary = int(text.get("vocab_size", 0))
    if settings.method == "qlora":
        # 4 bits and the constants of their blocks (Dettmers et al. 2023: 4.127); embeddings and head stay whole
        whole = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
        weights = int((base.loaded_bytes(1) - whole) * 4.127 / 8) + whole * size
    else:
        weights = base.loaded_bytes(4 if settings.method == "full" else size)
    # gradient and AdamW's two moments; an adapter's own float32 weights come on top of the base
    state = 4 + (2 if "8bit" in settings.optimizer else 8) + (0 if settings.method == "full" else 4)
    tokens = settings.batch_size * longest
    layers -= settings.freeze_layers  # gradients stop above the frozen layers, which keep nothing for them
    kept = 2 * layers + _ACTIVATION_BYTES if run.checkpointing else _ACTIVATION_BYTES * layers
    activations = tokens * hidden * kept * size // 2 + settings.batch_size * vocabulary * 12
    return weights, trainable * state, activations


def seconds_per_token(trainer: VerdictTrainer) -> float:
    """Return how long a forward and backward pass takes for one token, by doing the first batch twice.

    Nothing is kept: gradients are dropped, and the random state is as before. NaN if memory runs out.
    """
    import torch

    try:
        return _probe(trainer)
    except torch.OutOfMemoryError:
        trainer.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        return float("nan")


def _probe(trainer: VerdictTrainer) -> float:
    import torch

    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    cards = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    taken = float("nan")
    with torch.random.fork_rng(devices=cards):
        trainer.model.train()
        for _ in range(2):  # the first one also allocates
            began = time.perf_counter()
            with trainer.accelerator.autocast():
                loss = trainer.compute_loss(trainer.model, dict(batch))
            loss.backward()
            if cards:
                torch.cuda.synchronize()
            taken = time.perf_counter() - began
    trainer.model.zero_grad(set_to_none=True)
    trainer.rows_seen = 0
    return taken / int(batch["input_ids"].numel())
