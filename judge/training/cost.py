"""What a run will take: memory by arithmetic, time by trying one batch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from judge.models.bundle import ModelFolder
from judge.training.model import Machine
from judge.training.settings import TrainSettings

if TYPE_CHECKING:
    from judge.training.trainer import VerdictTrainer

# Activations of one transformer layer in bytes per token and hidden unit, at 2 bytes a value: 34 without the attention
# matrix (Korthikanti et al. 2022, arXiv 2205.05198, equation 1); 35 to 43 counted for Llama layers with and without
# LoRA, padded and not, by torch's saved-tensor hooks.
_ACTIVATION_BYTES = 40
# A forward pass is about a third of a forward and backward pass.
_FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class Memory:
    """Estimated bytes on each device: weights, what training adds to them, activations of the longest batch."""

    weights: int
    training: int
    activations: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.training + self.activations


def estimate_memory(
    settings: TrainSettings, base: ModelFolder, machine: Machine, trainable: int, longest: int, checkpointing: bool
) -> Memory:
    """Return the memory that training needs, roughly.

    Args:
        trainable: parameters that are trained.
        longest: tokens of the longest prompt.
    """
    size = 4 if machine.dtype == "float32" else 2
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
    kept = 2 * layers + _ACTIVATION_BYTES if checkpointing else _ACTIVATION_BYTES * layers
    activations = tokens * hidden * kept * size // 2 + settings.batch_size * vocabulary * 12
    return Memory(weights, trainable * state, activations)


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


def estimate_seconds(per_token: float, train_tokens: float, eval_tokens: float, evaluations: int) -> float:
    """Return the seconds of a run: all tokens that are trained on, and the evaluations (one more before the start)."""
    return per_token * (train_tokens + eval_tokens * (evaluations + 1) * _FORWARD_SHARE)


def length_figures(lengths: Any) -> dict[str, float]:
    """Return mean, 95th percentile and maximum of token counts."""
    return {
        "mean": float(np.mean(lengths)),
        "p95": float(np.percentile(lengths, 95)),
        "max": float(np.max(lengths)),
    }
