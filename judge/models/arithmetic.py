"""The arithmetic of a decoder-only transformer: parameters, FLOPs of a prompt, bytes of weights and cache.

Written down with its derivation in docs/planning.md. All figures follow from the config alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from judge.errors import JudgeError, printable
from judge.models.architecture import Fields, text_part

Float = NDArray[np.float64]

# Bytes of a group's scale and of its zero point's nibble, as AWQ and GPTQ store them.
_SCALE, _ZERO = 2.0, 0.5
_GROUP = 128


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only transformer.

    Attributes:
        model_type: the architecture's name; `known` says whether its layers are known, else they count as Llama's.
        layers, hidden, intermediate, heads, kv_heads, head_dim, vocab: as in the config.
        tied: the output head is the embedding.
        windows: for each layer how many tokens it looks at, itself included; 0: all.
        expert_layers: for each layer whether it is a mixture of experts.
        experts, experts_per_token, expert_intermediate, shared_intermediate: of such a layer; 0 where there is none.
        matrices: of a feed-forward block, 3 with a gate.
        layer_vectors: parameters of a layer that are in no matrix: norms and biases.
        dtype: of the weights, as the config says.
        bits: of the quantised weights in the layers' projections; 16 where they are plain floats.
        group_size: weights that share a scale; 0: a whole row.
        max_positions: the longest sequence, or None.
    """

    model_type: str
    known: bool
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    windows: tuple[int, ...]
    expert_layers: tuple[bool, ...]
    experts: int
    experts_per_token: int
    expert_intermediate: int
    shared_intermediate: int
    matrices: int
    layer_vectors: int
    dtype: str
    bits: int
    group_size: int
    max_positions: int | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a config.json's content; a multimodal model's language part counts alone.

        Raises:
            JudgeError: it describes no decoder-only transformer, or lacks fields; the text names them.
        """
        fields = Fields(config)
        hidden, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
        kv_heads, head_dim = fields.number("num_key_value_heads", heads) or heads, fields.head_dim
        bits, group = _quantization(config)
        positions = fields.number("max_position_embeddings", 0)
        experts = fields.number("num_local_experts", 0)
        return cls(
            model_type=fields.type,
            known=fields.known,
            layers=fields.number("num_hidden_layers"),
            hidden=hidden,
            intermediate=fields.number("intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=fields.number("vocab_size"),
            tied=fields.tied,
            windows=fields.windows(),
            expert_layers=fields.expert_layers(),
            experts=experts,
            experts_per_token=fields.number("num_experts_per_tok") if experts else 0,
            expert_intermediate=fields.number("moe_intermediate_size", fields.number("intermediate_size")),
            shared_intermediate=fields.number("shared_expert_intermediate_size", 0) if experts else 0,
            matrices=fields.family.matrices,
            layer_vectors=_vectors(fields, heads * head_dim, kv_heads * head_dim),
            dtype=str(fields.text.get("dtype") or fields.text.get("torch_dtype") or config.get("dtype") or "float32"),
            bits=bits,
            group_size=group,
            max_positions=positions or None,
        )

    @property
    def attention_parameters(self) -> int:
        """Weights of a layer's four projections."""
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    def _feed_forward(self, experts: int, expert_layer: bool) -> int:
        """Return the weights of a feed-forward block, with so many of its experts."""
        if not expert_layer:
            return self.matrices * self.hidden * self.intermediate
        shared = self.matrices * self.hidden * self.shared_intermediate
        return shared + experts * self.matrices * self.hidden * self.expert_intermediate

    def _projections(self, experts: int) -> int:
        """Return the weights of all layers' projections, which is what quantisation packs."""
        return sum(self.attention_parameters + self._feed_forward(experts, mixed) for mixed in self.expert_layers)

    @property
    def _routers(self) -> int:
        gate = self.hidden if self.shared_intermediate else 0
        return sum(self.expert_layers) * (self.hidden * self.experts + gate)

    @property
    def parameters(self) -> int:
        """Number of parameters, norms and biases included; a tied head counts once."""
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        vectors = self.layers * self.layer_vectors + self.hidden
        return embeddings + self._projections(self.experts) + self._routers + vectors

    @property
    def active_parameters(self) -> int:
        """Weights of the layers' matrices that one token is multiplied with."""
        return self._projections(self.experts_per_token) + self._routers

    def flops(self, lengths: ArrayLike, *, causal: bool = True) -> Float:
        """Return the FLOPs of one prefill of each prompt, shape (rows,), float64.

        A product of (m, k) and (k, n) is 2mnk. Counted: every projection for every token, the two products of
        attention for every pair of tokens that see each other, and the output head for the last token. Not counted:
        norms, rotations, softmax and the activation, which are of the order of the hidden size and not its square.

        Args:
            lengths: tokens of each prompt, shape (rows,).
            causal: count the pairs in which the key is not after the query, as kernels do that skip the rest; False
                counts all pairs, as a plain product of padded matrices does.
        """
        tokens = np.asarray(lengths, dtype=np.float64)
        head = 2.0 * self.hidden * self.vocab * (tokens > 0)
        return 2.0 * self.active_parameters * tokens + self.attention_flops(tokens, causal=causal) + head

    def attention_flops(self, lengths: ArrayLike, *, causal: bool = True) -> Float:
        """Return the FLOPs of the two products of attention over all layers, shape (rows,), float64."""
        tokens = np.asarray(lengths, dtype=np.float64)
        each = 4.0 * self.heads * self.head_dim  # q.k and weights.v: a multiplication and an addition each
        if not causal:
            return each * self.layers * tokens * tokens
        total = np.zeros_like(tokens)
        for window in set(self.windows):
            total += self.windows.count(window) * _pairs(tokens, window)
        return each * total

    def weight_bytes(self, bytes_per_value: float) -> float:
        """Return the bytes of the loaded weights: floats in so many bytes, packed projections as they are packed."""
        projections = self._projections(self.experts)
        floats = (self.parameters - projections) * bytes_per_value
        if self.bits >= 16:
            return floats + projections * bytes_per_value
        groups = projections / (self.group_size or self.hidden)
        return floats + projections * self.bits / 8 + groups * (_SCALE + _ZERO * self.bits / 4)

    def cache_bytes_per_token(self, bytes_per_value: float) -> float:
        """Return the key-value cache of one token over all layers, in bytes."""
        return 2.0 * self.layers * self.kv_heads * self.head_dim * bytes_per_value


def _pairs(tokens: Float, window: int) -> Float:
    """Return the pairs of a query and a key not after it, and less than `window` before it (0: any)."""
    beyond = np.maximum(tokens - window, 0) if window else np.zeros_like(tokens)
    result: Float = (tokens * (tokens + 1) - beyond * (beyond + 1)) / 2
    return result


def _vectors(fields: Fields, queries: int, keys: int) -> int:
    """Return the parameters of a layer that are in no matrix."""
    family, hidden = fields.family, fields.number("hidden_size")
    biases = (queries + 2 * keys) * fields.bias(family.qkv_bias) + hidden * fields.bias(family.output_bias)
    if fields.text.get("mlp_bias"):
        biases += 2 * fields.number("intermediate_size") + hidden
    norms = {"": 0, "head": 2 * fields.head_dim, "all": queries + keys}[family.head_norms]
    return family.norms * hidden + norms + biases


def _quantization(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the bits of the packed weights and the size of their groups; (16, 0) for plain floats."""
    found = next((c["quantization_config"] for c in (config, text_part(config)) if c.get("quantization_config")), None)
    if found is None:
        return 16, 0
    if not isinstance(found, Mapping):
        raise JudgeError(f"the config's quantization_config is {printable(found, 40)}, not an object")
    method = str(found.get("quant_method") or "")
    if method == "fp8":
        return 8, 0
    if method == "mxfp4":
        return 4, 32
    if method == "bitsandbytes":
        return (4, 64) if found.get("load_in_4bit") else (8, 0)
    groups: Sequence[Any] = list((found.get("config_groups") or {}).values())
    weights = (groups[0].get("weights") or {}) if groups and isinstance(groups[0], Mapping) else found
    bits = next((weights[k] for k in ("num_bits", "bits", "w_bit") if isinstance(weights.get(k), int)), None)
    if bits is None or not 1 <= bits <= 16:
        raise JudgeError(f"the config's quantization_config ({printable(method, 40)}) names no bits of its weights")
    size = next((weights[k] for k in ("group_size", "q_group_size") if isinstance(weights.get(k), int)), _GROUP)
    return int(bits), max(int(size), 0) if not math.isinf(size) else 0
