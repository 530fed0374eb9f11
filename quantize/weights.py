"""The 16-bit model as calibration loads it, and the number format of what stays in 16 bits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from judge.errors import JudgeError
from quantize.back_end import Job

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def load_weights(job: Job) -> PreTrainedModel:
    """Load the 16-bit model for calibration: in float32 on a CPU (16 bits are slow there), as stored on a GPU.

    Raises:
        JudgeError: tensors are missing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if job.device == "cpu" else getattr(torch, sixteen_bits(job.dtype))
    model, info = AutoModelForCausalLM.from_pretrained(
        str(job.source),
        output_loading_info=True,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise JudgeError(f"{job.source}: {len(missing)} tensors of the model are not in its files, first {missing[0]}")
    model.config.use_cache = False
    return model.eval()


def sixteen_bits(dtype: str) -> str:
    """Return the 16-bit format for a source's number format: its own, float16 for float32."""
    return dtype if dtype in ("float16", "bfloat16") else "float16"


def stored_dtype(source: str, tensors: Iterable[torch.Tensor]) -> str:
    """Return the format of what stays in 16 bits: the source's, bfloat16 where float16 is too narrow for a value."""
    import torch

    wanted = sixteen_bits(source)
    largest = max((float(t.abs().max()) for t in tensors if t.is_floating_point() and t.numel()), default=0.0)
    return "bfloat16" if wanted == "float16" and largest > torch.finfo(torch.float16).max else wanted


def source_use_cache(job: Job) -> Any:
    """Return what the source's config says of the cache, which is off while calibrating."""
    return json.loads((job.source / "config.json").read_text(encoding="utf-8")).get("use_cache", True)
