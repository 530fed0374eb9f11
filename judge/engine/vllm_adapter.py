"""An adapter in vLLM: read with its base, unmerged, and nothing of it left out in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from vllm import LLM
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.linear import LinearBase
from vllm.platforms import current_platform

from judge.engine.protocol import EngineConfig
from judge.errors import JudgeError, printable
from judge.models.adapter import refuse_adapter, target_names, vllm_rank
from judge.models.bundle import ADAPTER_WEIGHTS, open_model, tensor_shapes

ADAPTER_ID = 1


def adapter_arguments(config: EngineConfig, folder: Path) -> dict[str, Any]:
    """Return what vLLM needs to make room for an adapter; refuses one that it would read wrongly."""
    opened = open_model(folder, base=config.model)
    refuse_adapter(opened, config.readout, config.dtype, config.device)
    settings = opened.adapter.config if opened.adapter else {}
    if (settings.get("rank_pattern") or settings.get("alpha_pattern")) and not hasattr(PEFTHelper, "_match_pattern"):
        raise JudgeError(f"{folder}: this version of vLLM skips rank_pattern and alpha_pattern; upgrade it")
    if config.device == "cpu":
        type(current_platform).get_punica_wrapper = classmethod(lambda _: "judge.engine.vllm_adapter.OneAdapter")
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": vllm_rank(config.adapter_rank),
        # the default wraps all layers: the output head's products alone cost more than the adapter
        "lora_target_modules": target_names(tensor_shapes(folder / ADAPTER_WEIGHTS)),
        "worker_extension_cls": "judge.engine.vllm_adapter.AdapterProbe",
    }


def load_adapter(llm: LLM, config: EngineConfig) -> LoRARequest | None:
    """Load the adapter into a started engine; every prompt is to be read with the request that comes back.

    Raises:
        JudgeError: vLLM has left out a part of it.
    """
    if config.adapter is None:
        return None
    request = LoRARequest("adapter", ADAPTER_ID, str(Path(config.adapter).resolve()))
    llm.llm_engine.add_lora(request)  # else it is read with the first prompt
    for unread in llm.collective_rpc("unread_layers"):  # of each card
        if unread:
            raise JudgeError(
                f"{config.adapter}: vLLM found no place in {config.model} for {len(unread)} layers of this adapter, "
                f"first {printable(unread[0], 120)}; use --readout=transformers, or merge the adapter into its base"
            )
    return request


class AdapterProbe:
    """Added to vLLM's workers: tells what became of an adapter, for vLLM drops what it cannot place in silence."""

    model_runner: Any

    def unread_layers(self) -> list[str]:
        """Return the adapter's layers that the model has not, or has in another size."""
        manager = self.model_runner.lora_manager._adapter_manager
        adapter = manager.get_adapter(ADAPTER_ID)
        placed = {name: manager._get_lora_layer_weights(adapter, name) for name in manager.modules}
        read = {id(lora) for name, lora in placed.items() if lora is not None and _fits(manager.modules[name], lora)}
        unread = ((name, lora) for name, lora in adapter.loras.items() if id(lora) not in read)
        return sorted(name for name, lora in unread if any(bool(b.any()) for b in _matrices(lora.lora_b)))


def _matrices(matrices: torch.Tensor | list[torch.Tensor | None]) -> list[torch.Tensor]:
    """Return the A or B matrices of a layer: several where vLLM has joined layers, such as q, k and v."""
    return [m for m in (matrices if isinstance(matrices, list) else [matrices]) if m is not None]


def _fits(module: Any, lora: Any) -> bool:
    layer = module.base_layer
    return not isinstance(layer, LinearBase) or all(a.shape[-1] == layer.input_size for a in _matrices(lora.lora_a))


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
