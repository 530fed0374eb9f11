"""What the tests of merging share: merging without a proof, loading, and being refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from judge.errors import JudgeError
from judge.models.bundle import open_model
from quantize.merge import merge
from quantize.merge_plan import Dtype
from tests.kit.recorded_progress import RecordedProgress

Tensors = dict[str, torch.Tensor]


def merge_plainly(adapter: Path, base: Path, output: Path, dtype: Dtype = "auto", proof: bool = False) -> Tensors:
    merge(open_model(adapter, base), output, dtype, RecordedProgress(), proof)
    assert not output.with_name(output.name + ".parts").exists()
    tensors: Tensors = {}
    for shard in sorted(output.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def loaded(folder: Path, adapter: Path | None = None) -> Any:
    """Load a model in float32; nothing may be missing from its files or left over in them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(10, 100, (2, 30), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        result: torch.Tensor = model(ids).logits
    return result


def edit_tensors(folder: Path, name: str, edit: Callable[[Tensors], Tensors]) -> None:
    tensors = edit(load_file(folder / name))
    save_file({n: t.clone() for n, t in tensors.items()}, folder / name, metadata={"format": "pt"})


def refused(adapter: Path, base: Path, output: Path, message: str, dtype: Dtype = "auto", proof: bool = False) -> None:
    with pytest.raises(JudgeError, match=message) as caught:
        merge(open_model(adapter, base), output, dtype, RecordedProgress(), proof)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    assert not output.with_name(output.name + ".parts").exists()
