"""The three vLLM read-outs.

* `vllm`: sampling restricted to the three tokens, which also names them in `logprob_token_ids`: exactly
  their full-vocabulary log-probabilities come back. (`allowed_token_ids` with `logprobs=k` alone would
  return the top k of the *unmasked* distribution, in which a verdict can be missing.)
* `vllm-processor`: the classic way, a logits processor that leaves only the three tokens; their
  log-probabilities after masking come back.
* `vllm-classify`: a pooling model that keeps three rows of the output head and drops the rest.

An adapter is read with its base, unmerged (`adapter_arguments` and what follows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from vllm import LLM, PoolingParams, SamplingParams
from vllm.config import VllmConfig
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.linear import LinearBase
from vllm.platforms import current_platform
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from judge.engine.protocol import EngineConfig, Progress
from judge.errors import JudgeError, printable
from judge.models.adapter import refuse_adapter, target_names, vllm_rank
from judge.models.bundle import ADAPTER_WEIGHTS, open_model, tensor_shapes

ADAPTER_ID = 1


class _Meter(tqdm):  # type: ignore[misc]  # tqdm has no types
    """Tells how many prompts are finished, in the place where vLLM wants a tqdm bar; draws nothing."""

    tell: Progress

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "file": _Nowhere(), "delay": 1e9})

    def update(self, n: float | None = 1) -> bool | None:
        type(self).tell(int(n or 0))
        shown: bool | None = super().update(n)
        return shown


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return


def _meter(progress: Progress) -> Callable[..., tqdm]:
    return type("Meter", (_Meter,), {"tell": staticmethod(progress)})


def engine_arguments(config: EngineConfig) -> dict[str, Any]:
    return {
        "model": config.model,
        "dtype": config.dtype,
        "max_model_len": config.max_prompt_tokens + 1,
        "max_num_batched_tokens": config.max_batch_tokens,
        "max_num_seqs": config.max_batch_rows,
        "tensor_parallel_size": config.tensor_parallel,
        # vLLM's own sums over cards take 8 MiB at most (custom_all_reduce.py, max_size): 1,024 tokens of a hidden size
        # of 4,096. A step has more and is summed by NCCL anyway; without, no test of peer access can fail at the start.
        "disable_custom_all_reduce": config.tensor_parallel > 1,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enable_prefix_caching": config.prefix_caching,
        "enable_chunked_prefill": True,
        "enforce_eager": True,  # CUDA graphs speed up decoding; one token has none
        "generation_config": "vllm",  # never a model's own sampling defaults
        "trust_remote_code": False,
        "load_format": "dummy" if config.dummy else "safetensors",
        "skip_tokenizer_init": config.dummy,
        "disable_log_stats": True,
        "seed": 0,
        **(adapter_arguments(config, Path(config.adapter)) if config.adapter is not None else {}),
    }


def adapter_arguments(config: EngineConfig, folder: Path) -> dict[str, Any]:
    """Return what vLLM needs to make room for an adapter; refuses one that it would read wrongly."""
    opened = open_model(folder, base=config.model)
    refuse_adapter(opened, config.readout, config.dtype, config.device)
    settings = opened.adapter.config if opened.adapter else {}
    if (settings.get("rank_pattern") or settings.get("alpha_pattern")) and not hasattr(PEFTHelper, "_match_pattern"):
        raise JudgeError(f"{folder}: this version of vLLM skips rank_pattern and alpha_pattern; upgrade it")
    if config.device == "cpu":
        type(current_platform).get_punica_wrapper = classmethod(lambda _: "judge.engine.one_adapter.OneAdapter")
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": vllm_rank(config.adapter_rank),
        # the default wraps all layers: the output head's products alone cost more than the adapter
        "lora_target_modules": target_names(tensor_shapes(folder / ADAPTER_WEIGHTS)),
        "worker_extension_cls": "judge.engine.vllm.AdapterProbe",
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
        return sorted(name for name, lora in adapter.loras.items() if id(lora) not in read and _acts(lora))


def _matrices(matrices: torch.Tensor | list[torch.Tensor | None]) -> list[torch.Tensor]:
    """Return the A or B matrices of a layer: several where vLLM has joined layers, such as q, k and v."""
    return [m for m in (matrices if isinstance(matrices, list) else [matrices]) if m is not None]


def _fits(module: Any, lora: Any) -> bool:
    layer = module.base_layer
    return not isinstance(layer, LinearBase) or all(a.shape[-1] == layer.input_size for a in _matrices(lora.lora_a))


def _acts(lora: Any) -> bool:
    return any(bool(b.any()) for b in _matrices(lora.lora_b))


class VerdictsOnly(LogitsProcessor):  # type: ignore[misc]  # vLLM is not analysed
    """A vLLM logits processor that forbids every token but the verdicts, in every request."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        del is_pin_memory
        ids = vllm_config.additional_config["verdict_ids"]
        self._ids = torch.tensor(ids, dtype=torch.long, device=device)

    def is_argmax_invariant(self) -> bool:
        """It changes which token is the most likely one."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Every request is treated alike: there is no state."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Set all logits but the verdicts' to minus infinity; shape (requests, vocabulary)."""
        kept = logits.index_select(1, self._ids)
        logits.fill_(float("-inf"))
        logits.index_copy_(1, self._ids, kept)
        return logits


class VllmEngine:
    """Reads verdicts by generating one token (`vllm` and `vllm-processor`)."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        ids = list(config.verdict_ids)
        arguments = engine_arguments(config)
        if config.readout == "vllm-processor":
            arguments |= {
                "logits_processors": [VerdictsOnly],
                "logprobs_mode": "processed_logprobs",
                "additional_config": {"verdict_ids": ids},
            }
            self._params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=3, detokenize=False)
        else:
            self._params = SamplingParams(
                max_tokens=1,
                temperature=0.0,
                allowed_token_ids=ids,
                logprob_token_ids=ids,
                detokenize=False,
            )
        self._llm = LLM(**arguments)
        self._adapter = load_adapter(self._llm, config)

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        """See `Engine.read`."""
        if self.config.prefix_caching:
            self._llm.reset_prefix_cache()  # what a prompt gets must not depend on earlier calls
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.generate(requests, self._params, use_tqdm=_meter(progress), lora_request=self._adapter)
        result = np.empty((len(prompts), 3))
        for row, output in enumerate(outputs):
            read = output.outputs[0].logprobs[0]
            result[row] = [read[token].logprob for token in self.config.verdict_ids]
        return result

    def close(self) -> None:
        """Free the engine."""
        del self._llm


class VllmClassifyEngine:
    """Reads verdicts with a classification head made of three rows of the output head."""

    def __init__(self, config: EngineConfig) -> None:
        from judge.prompting.encoding import load_tokenizer

        self.config = config
        tokenizer = load_tokenizer(config.model)
        head = {
            "classifier_from_token": tokenizer.convert_ids_to_tokens(list(config.verdict_ids)),
            "method": "no_post_processing",
        }
        nested = "text_config" in open_model(config.model).config
        self._params = PoolingParams(use_activation=False)
        self._llm = LLM(
            runner="pooling",
            convert="classify",
            hf_overrides={"text_config": head} if nested else head,
            **engine_arguments(config),
        )
        self._adapter = load_adapter(self._llm, config)

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        """See `Engine.read`; normalised over the three verdicts."""
        if self.config.prefix_caching:
            self._llm.reset_prefix_cache()
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self._llm.classify(
            requests, pooling_params=self._params, use_tqdm=_meter(progress), lora_request=self._adapter
        )
        logits = np.array([output.outputs.probs for output in outputs], dtype=np.float64)
        peak = logits.max(axis=1, keepdims=True)
        result: NDArray[np.float64] = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
        return result

    def close(self) -> None:
        """Free the engine."""
        del self._llm
