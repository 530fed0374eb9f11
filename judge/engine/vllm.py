"""The three vLLM read-outs.

* `vllm`: sampling restricted to the three tokens, which also names them in `logprob_token_ids`: exactly
  their full-vocabulary log-probabilities come back. (`allowed_token_ids` with `logprobs=k` alone would
  return the top k of the *unmasked* distribution, in which a verdict can be missing.)
* `vllm-processor`: the classic way, a logits processor that leaves only the three tokens; their
  log-probabilities after masking come back.
* `vllm-classify`: a pooling model that keeps three rows of the output head and drops the rest.

An adapter is read with its base, unmerged (`judge.engine.vllm_adapter`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from tqdm import tqdm
from vllm import LLM, PoolingParams, SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from judge.engine.protocol import EngineConfig, Progress
from judge.engine.vllm_adapter import adapter_arguments, load_adapter
from judge.models.bundle import open_model


def _meter(progress: Progress) -> type[tqdm]:
    """Return what vLLM takes for a progress bar: it draws nothing, and tells how many prompts are finished."""

    class Meter(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "delay": 1e9})

        def update(self, n: float | None = 1) -> bool | None:
            progress(int(n or 0))
            shown: bool | None = super().update(n)
            return shown

    return Meter


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
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "enforce_eager": True,  # CUDA graphs speed up decoding; one token has none
        "generation_config": "vllm",  # never a model's own sampling defaults
        "trust_remote_code": False,
        "load_format": "safetensors",
        "disable_log_stats": True,
        "seed": 0,
        **(adapter_arguments(config, Path(config.adapter)) if config.adapter is not None else {}),
    }


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


class _Vllm:
    """What the read-outs share: vLLM with its adapter."""

    def __init__(self, config: EngineConfig, **arguments: Any) -> None:
        self.config = config
        self._llm = LLM(**engine_arguments(config), **arguments)
        self._adapter = load_adapter(self._llm, config)

    def _requests(self, prompts: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
        self._llm.reset_prefix_cache()  # what a prompt gets must not depend on earlier calls
        return [{"prompt_token_ids": list(prompt)} for prompt in prompts]

    def close(self) -> None:
        """Free the engine."""
        del self._llm


class VllmEngine(_Vllm):
    """Reads verdicts by generating one token (`vllm` and `vllm-processor`)."""

    def __init__(self, config: EngineConfig) -> None:
        ids, arguments = list(config.verdict_ids), dict[str, Any]()
        if config.readout == "vllm-processor":
            arguments = {
                "logits_processors": [VerdictsOnly],
                "logprobs_mode": "processed_logprobs",
                "additional_config": {"verdict_ids": ids},
            }
            asked: dict[str, Any] = {"logprobs": 3}
        else:
            asked = {"allowed_token_ids": ids, "logprob_token_ids": ids}
        self._params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, **asked)
        super().__init__(config, **arguments)

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        """See `Engine.read`."""
        outputs = self._llm.generate(
            self._requests(prompts), self._params, use_tqdm=_meter(progress), lora_request=self._adapter
        )
        found = [output.outputs[0].logprobs[0] for output in outputs]
        return np.array([[read[token].logprob for token in self.config.verdict_ids] for read in found]).reshape(-1, 3)


class VllmClassifyEngine(_Vllm):
    """Reads verdicts with a classification head made of three rows of the output head."""

    def __init__(self, config: EngineConfig) -> None:
        from judge.prompting.encoding import load_tokenizer

        tokenizer = load_tokenizer(config.model)
        head = {
            "classifier_from_token": tokenizer.convert_ids_to_tokens(list(config.verdict_ids)),
            "method": "no_post_processing",
        }
        nested = "text_config" in open_model(config.model).config
        self._params = PoolingParams(use_activation=False)
        overrides = {"text_config": head} if nested else head
        super().__init__(config, runner="pooling", convert="classify", hf_overrides=overrides)

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        """See `Engine.read`; normalised over the three verdicts."""
        outputs = self._llm.classify(
            self._requests(prompts), pooling_params=self._params, use_tqdm=_meter(progress), lora_request=self._adapter
        )
        logits = np.array([output.outputs.probs for output in outputs], dtype=np.float64)
        result: NDArray[np.float64] = log_softmax(logits, axis=1)
        return result
