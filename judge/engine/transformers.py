"""The reference read-out: plain transformers, one prompt at a time, no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from judge.engine.protocol import EngineConfig, Progress
from judge.errors import JudgeError, printable
from judge.models.adapter import refuse_adapter
from judge.models.bundle import open_model


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
        if config.adapter is not None:
            self._model = with_adapter(self._model, config, config.adapter)
        self._model.to(config.device).eval()

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        """See `Engine.read`; the softmax over the vocabulary is taken in float32."""
        ids = list(self.config.verdict_ids)
        result = np.empty((len(prompts), 3))
        with torch.inference_mode():
            for row, prompt in enumerate(prompts):
                tokens = torch.tensor([list(prompt)], device=self._model.device)
                logits = self._model(tokens, use_cache=False, logits_to_keep=1).logits[0, -1].float()
                result[row] = torch.log_softmax(logits, dim=-1)[ids].cpu().numpy()
                progress(1)
        return result

    def close(self) -> None:
        """Free the model."""
        del self._model


def with_adapter(model: Any, config: EngineConfig, folder: str) -> Any:
    """Put a LoRA adapter on a model, unmerged.

    PEFT keeps the adapter's weights and products in float32 whatever the model's dtype is, as in training.

    Raises:
        JudgeError: PEFT would leave out a part of it, which it only warns of.
    """
    from peft import LoraConfig, PeftModel

    opened = open_model(folder, base=config.model)
    refuse_adapter(opened, config.readout, config.dtype, config.device)
    settings = opened.adapter.config if opened.adapter else {}
    unknown = sorted(key for key, value in settings.items() if value and key not in LoraConfig.__dataclass_fields__)
    if unknown:
        raise JudgeError(
            f"{folder}: its {printable(unknown[0])} is unknown to this version of PEFT, which would skip it; "
            f"the adapter was written by PEFT {printable(settings.get('peft_version'))}"
        )
    adapted = PeftModel.from_pretrained(model, folder, is_trainable=False)
    result = adapted.load_adapter(folder, adapted.active_adapter)  # once more, for what from_pretrained does not tell
    for names, what in (
        (result.missing_keys, "of its tensors are missing, for the model"),
        (result.unexpected_keys, "of its tensors belong to no layer of the model"),
    ):
        if names:
            raise JudgeError(f"{folder}: {len(names)} {what} {config.model}, first {printable(names[0], 120)}")
    return adapted
