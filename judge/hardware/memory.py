"""What an engine takes on a card besides its weights.

vLLM profiles one step and gives the cache what is left of its share of the card (`v1/worker/gpu_worker.py`,
determine_available_memory); the cache must hold one prompt of the greatest length (`v1/core/kv_cache_utils.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from judge.errors import JudgeError
from judge.hardware.machine import GIB
from judge.models.arithmetic import ModelShape

# What a process takes on a card besides tensors once vLLM counts: libraries with their workspaces, and NCCL's buffers
# if there are other cards. (The CUDA context exists before that, outside the engine's share.)
CUDA_BYTES, NCCL_BYTES = 0.2 * GIB, 0.2 * GIB
# What one engine takes of a machine's memory on a CPU: torch, vLLM and their workspaces, and at least so much cache.
ENGINE_BYTES, LEAST_CACHE = 2 * GIB, 1 * GIB
# Per logit of a step's last tokens: the logits, two float32 copies (probabilities, sampling) and the mask of tokens.
_LOGIT_BYTES = 9


def activation_bytes(shape: ModelShape, batch_tokens: int, rows: int, bytes_per_value: int, cards: int) -> float:
    """Return the peak of one step's tensors on one card.

    It holds for every token the residual, the hidden state and the widest tensors between two projections: queries,
    keys, values and their result, or both halves of the gated block and their product. The logits of the last tokens
    come on top.

    Args:
        batch_tokens, rows: most tokens and most prompts of a step.
        cards: over which a copy is spread.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = (2 * queries + 2 * keys) / cards
    inner = 3.0 * shape.intermediate / cards
    if shape.experts:
        inner = shape.experts_per_token * (3 * shape.expert_intermediate / cards + shape.hidden)
        inner += 3 * shape.shared_intermediate / cards
    layer = batch_tokens * (2 * shape.hidden + max(attention, inner)) * bytes_per_value
    return layer + min(rows, batch_tokens) * shape.vocab * (bytes_per_value + _LOGIT_BYTES)


def besides(
    config: Mapping[str, Any], batch_tokens: int, rows: int, longest: int, bytes_per_value: int
) -> Callable[[int], float]:
    """Return the function from the number of cards of a copy to the bytes that each card must hold besides the weights.

    They are a step, one prompt's cache and CUDA's own memory.

    Args:
        config: content of the model's config.json.
        batch_tokens, rows, bytes_per_value: see `activation_bytes`.
        longest: tokens of the longest prompt, its verdict included.
    """
    try:
        shape = ModelShape.from_config(config)
    except JudgeError:
        return lambda _: 1.5 * GIB  # a model whose arithmetic judge does not know

    def needed(cards: int) -> float:
        step = activation_bytes(shape, batch_tokens, rows, bytes_per_value, cards)
        # vLLM copies key-value heads if there are fewer than cards
        cache = longest * shape.cache_bytes_per_token(bytes_per_value) / min(cards, shape.kv_heads)
        return step + cache + CUDA_BYTES + (NCCL_BYTES if cards > 1 else 0)

    return needed
