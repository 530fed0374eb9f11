"""Fast products with an adapter in vLLM on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class OneAdapter(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not analysed
    """How vLLM multiplies with adapters on a CPU, for the case that all tokens of a step use the same one.

    vLLM's own way copies the matrices for each token, so that any two can differ: a sixth of the speed, and
    gigabytes for a wide layer. The arithmetic is the same: A's product in float32, B's in the model's dtype.
    """

    alone = False

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """See the base class; called before each step."""
        super().update_metadata(*args, **kwargs)
        self.alone = not (self.token_lora_indices.any() or self.sampler_indices.any())

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **rest: Any,
    ) -> None:
        """Add the adapter's part to the output of a linear layer, shape (tokens, outputs)."""
        if not self.alone:
            super().add_lora_linear(y, x, lora_a_stacked, lora_b_stacked, scale, output_slices, **rest)
            return
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            _add_product(y.view(-1, y.shape[-1])[:, start : start + width], x, a[0, 0], b[0, 0], scale)
            start += width

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **rest: Any,
    ) -> None:
        """Add the adapter's part to the logits, shape (prompts, vocabulary)."""
        if not self.alone:
            super().add_lora_logits(y, x, lora_a_stacked, lora_b_stacked, scale, **rest)
            return
        logits = y.view(-1, y.shape[-1])
        b = lora_b_stacked[0, 0, : logits.shape[1]]
        _add_product(logits[:, : len(b)], x, lora_a_stacked[0, 0], b, scale)


def _add_product(y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    """Add to y (tokens, outputs) what x (tokens, inputs) gets from A (rank, inputs) and B (outputs, rank)."""
    inner = x.view(-1, x.shape[-1]).float() @ a.float().T
    y.addmm_(inner.to(y.dtype), b.to(y.dtype).T, alpha=scale)  # in place: half the time of a sum
