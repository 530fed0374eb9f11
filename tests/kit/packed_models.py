"""Tiny models with 4-bit weights in both layouts, made by the libraries that write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from judge.engine.expand import Expansion
from judge.models.bundle import copy_tokenizer, open_model
from judge.models.packed import read_quantization

AWQ_GROUP = 32


def save_compressed(folder: Path, source: Path, bits: int = 4, dtype: str = "float32", group: int = 32) -> Path:
    """Quantise a model folder with llm-compressor by rounding alone, which needs no calibration data."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=False, strategy="group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    oneshot(model=model, recipe=[QuantizationModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])])
    model.save_pretrained(folder, save_compressed=True)
    copy_tokenizer(source, folder)
    return folder


def save_awq(folder: Path, source: Path) -> Path:
    """Quantise a model folder by rounding, packed by AutoAWQ's own layer."""
    import torch
    from awq.modules.linear.gemm import WQLinear_GEMM
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tensors: dict[str, Any] = {name: tensor.half() for name, tensor in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            scales, zeros = _steps(layer.weight.data)
            layer.weight.data = _rounded(layer.weight.data, scales, zeros)  # as AutoAWQ does before it packs
            packed = WQLinear_GEMM.from_linear(layer, 4, AWQ_GROUP, scales=scales, zeros=zeros)
            del tensors[f"{name}.weight"]
            tensors |= {f"{name}.{part}": tensor for part, tensor in packed.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    quantization = {"quant_method": "awq", "bits": 4, "group_size": AWQ_GROUP, "zero_point": True, "version": "gemm"}
    quantization["modules_to_not_convert"] = None
    config |= {"dtype": "float16", "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    copy_tokenizer(source, folder)
    return folder


def _rounded(weight: Any, scales: Any, zeros: Any) -> Any:
    scale, zero = scales.t().repeat_interleave(AWQ_GROUP, 1), zeros.t().repeat_interleave(AWQ_GROUP, 1)
    return ((weight / scale).round() + zero).clamp(0, 15).sub(zero) * scale


def _steps(weight: Any) -> tuple[Any, Any]:
    """Return scales and zero points, each of shape (groups, outputs), of an asymmetric 4-bit code."""
    grouped = weight.reshape(len(weight), -1, AWQ_GROUP)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(0, 15)
    return scales.t().contiguous(), zeros.t().contiguous()


def expansion_of(folder: Path) -> Expansion:
    model = open_model(folder)
    quantization = read_quantization(model.quantization)
    assert quantization is not None
    return Expansion(model, quantization)


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
