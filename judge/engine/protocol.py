"""Engines: token ids in, three log-probabilities a prompt out.

Each engine runs in a worker process (`judge.engine.worker`) that `judge.engine.pool` starts and supervises. This module
holds what both sides share and imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Readout = Literal["vllm", "vllm-processor", "vllm-classify", "transformers"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
# These two normalise over the verdicts inside the engine: the mass on them cannot be known.
WITHOUT_MASS = ("vllm-processor", "vllm-classify")

Progress = Callable[[int], None]


class EngineConfig(BaseModel):
    """Everything an engine needs to start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str  # folder of the model, for an adapter its base; on a server its name
    readout: Readout = "vllm"
    verdict_ids: tuple[int, int, int]  # token ids of A, B and tie
    max_prompt_tokens: int  # of the longest prompt that will be asked for
    dtype: Literal["float32", "float16", "bfloat16", "as served"] = "float32"  # `as served`: a server decides it
    device: Literal["cpu", "cuda", "server"] = "cpu"
    tensor_parallel: int = 1  # cards that one engine is spread over
    gpu_memory_utilization: float = 0.9  # share of each card's memory that the engine may take
    cpu_cache_gib: int = 1  # key-value cache on a CPU
    max_batch_tokens: int = 8192  # most tokens in one step of the engine
    max_batch_rows: int = 128  # most prompts in one step
    adapter: str | None = None  # folder of a PEFT LoRA adapter that every prompt is read with
    adapter_rank: int = 0  # the largest rank of its layers
    server: str | None = None  # what a server calls its version and settings

    def roomier(self) -> EngineConfig:
        """Return a config that takes less of the card for the cache: what is tried first after memory ran out.

        The batches stay as they are, and so do the numbers to the last bit.
        """
        return self.model_copy(update={"gpu_memory_utilization": max(self.gpu_memory_utilization - 0.07, 0.5)})

    def halved(self) -> EngineConfig:
        """Return a config with half the batch too: what is tried after memory ran out again.

        Batches of another size round differently: numbers change in their last digits.
        """
        # vLLM gives what a smaller batch frees to its cache, unless it is told to take less of the card
        return self.roomier().model_copy(
            update={
                "max_batch_tokens": max(self.max_batch_tokens // 2, 512),
                "max_batch_rows": max(self.max_batch_rows // 2, 1),
            }
        )


class Engine(Protocol):
    """Reads verdicts off prompts."""

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        """Return the log-probabilities of A, B and tie as next token, shape (prompts, 3).

        They are over the full vocabulary, except for the read-outs in `WITHOUT_MASS`, which normalise
        over the three. What comes back for a prompt does not depend on earlier calls.

        Args:
            prompts: token ids of each prompt, none longer than the config's `max_prompt_tokens`.
            progress: called with the number of prompts finished since the last call.
        """
        ...

    def close(self) -> None:
        """Free the engine's memory."""
        ...
