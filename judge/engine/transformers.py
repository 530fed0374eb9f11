"""The reference read-out: plain transformers, one prompt at a time, no padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from judge.engine import EngineConfig, Progress


class TransformersEngine:
    """Slow and simple: what the other read-outs are compared with."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._model = AutoModelForCausalLM.from_pretrained(
            config.model,
            dtype=getattr(torch, config.dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        self._model.to(config.device).eval()

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        """See `Engine.read`; the softmax over the vocabulary is taken in float32."""
        with torch.inference_mode():
            return self._read(prompts, progress)

    def _read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        ids = list(self.config.verdict_ids)
        result = np.empty((len(prompts), 3))
        for row, prompt in enumerate(prompts):
            tokens = torch.tensor([list(prompt)], device=self._model.device)
            logits = self._model(tokens, use_cache=False, logits_to_keep=1).logits[0, -1].float()
            result[row] = torch.log_softmax(logits, dim=-1)[ids].cpu().numpy()
            progress(1)
        return result

    def close(self) -> None:
        """Free the model."""
        del self._model
