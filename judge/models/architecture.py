"""What a config.json says about a decoder-only transformer, and what its family does not say there.

The facts about families come from the `configuration_*.py` and `modeling_*.py` of transformers 5.17: which
projections have biases, how many norms a layer has, which layers look back over a window only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from judge.errors import JudgeError, printable

# Attention layers that look at all earlier tokens, and at a window of them, as `layer_types` calls them.
_FULL, _SLIDING = "full_attention", "sliding_attention"
# A config with one of these fields describes other layers than softmax attention over keys and values of every head.
_OTHER_LAYERS = ("kv_lora_rank", "ssm_cfg", "state_size", "mamba_d_state", "rwkv_version", "attention_chunk_size")
_NEEDED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
# Other names of the same fields.
_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads"),
    "intermediate_size": ("n_inner", "ffn_hidden_size"),
    "moe_intermediate_size": (),
    "num_local_experts": ("num_experts", "n_routed_experts"),
    "num_experts_per_tok": ("experts_per_token", "num_experts_per_token"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
}


@dataclass(frozen=True)
class Family:
    """What all models of a `model_type` share and a config.json may leave out.

    Attributes:
        tied: whether the output head is the embedding, if the config does not say.
        qkv_bias, output_bias: the projections have biases; `config` reads `attention_bias`.
        norms: vectors of the hidden size in a layer.
        head_norms: norms over each head's queries and keys: of a head's size, of all heads' together, or none.
        matrices: of the feed-forward block: 3 with a gate, 2 without.
        window: every layer has the config's `sliding_window`, some (`layer` tells which), or none.
        pattern: one of so many layers looks at all tokens, if the config has no `layer_types`.
        head_dim: if the config does not say.
        defaults: other fields that configs of this family leave out.
    """

    tied: bool = False
    qkv_bias: bool | str = "config"
    output_bias: bool | str = "config"
    norms: int = 2
    head_norms: str = ""
    matrices: int = 3
    window: bool = True
    pattern: int = 0
    head_dim: int | None = None
    defaults: Mapping[str, int] | None = None


_GEMMA3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208, "sliding_window": 4096}
FAMILIES: dict[str, Family] = {
    "llama": Family(window=False),
    "granite": Family(window=False),
    "mistral": Family(qkv_bias=False, output_bias=False, defaults={"num_key_value_heads": 8}),
    "ministral3": Family(qkv_bias=False, output_bias=False, defaults={"num_key_value_heads": 8}),
    "mixtral": Family(qkv_bias=False, output_bias=False, defaults={"num_key_value_heads": 8}),
    "qwen2": Family(qkv_bias=True, output_bias=False),
    "qwen2_moe": Family(qkv_bias=True, output_bias=False),
    "qwen3": Family(head_norms="head", head_dim=128),
    "qwen3_moe": Family(head_norms="head"),
    "gemma": Family(tied=True, window=False, head_dim=256),
    "gemma2": Family(tied=True, norms=4, pattern=2, head_dim=256),
    "gemma3_text": Family(tied=True, norms=4, head_norms="head", pattern=6, head_dim=256, defaults=_GEMMA3),
    "glm": Family(output_bias=False, window=False),
    "glm4": Family(output_bias=False, norms=4, window=False),
    "phi3": Family(qkv_bias=False, output_bias=False),
    "olmo2": Family(head_norms="all", window=False),
    "smollm3": Family(tied=True, window=False),
    "cohere": Family(tied=True, norms=1, window=False),
    "cohere2": Family(tied=True, norms=1, pattern=4),
}


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model (nested in multimodal ones)."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


class Fields:
    """The numbers of a config, by their usual names, with the family's defaults.

    Raises:
        JudgeError: the config is not a decoder-only transformer's, or lacks fields.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.text = text_part(config)
        self.type = str(self.text.get("model_type") or config.get("model_type") or "")
        self.known = self.type in FAMILIES
        self.family = FAMILIES.get(self.type, Family())
        self._refuse_other_models(config)
        missing = [name for name in _NEEDED if self.number(name, 0) == 0]
        if missing:
            raise JudgeError(f"the config of {self._name} lacks {', '.join(missing)}; {_WHAT}")

    @property
    def _name(self) -> str:
        return printable(self.type, 60) if self.type else "a model without a model_type"

    def _refuse_other_models(self, config: Mapping[str, Any]) -> None:
        classes = [str(name) for name in config.get("architectures") or []]
        headed = [name for name in classes if name.endswith(("ForCausalLM", "ForConditionalGeneration"))]
        if config.get("is_encoder_decoder") or (classes and not headed):
            shown = printable(classes[0], 60) if classes else self._name
            raise JudgeError(f"{shown} is not a causal language model; {_WHAT}")
        other = [name for name in _OTHER_LAYERS if self.text.get(name)]
        kinds = {str(kind) for kind in self.text.get("layer_types") or []} - {_FULL, _SLIDING}
        if other or kinds:
            what = printable(sorted(kinds)[0], 40) + " layers" if kinds else other[0]
            raise JudgeError(f"{self._name} has {what}, whose arithmetic judge does not know; {_WHAT}")

    def number(self, name: str, default: int | None = None) -> int:
        """Return a whole number of the config that is not negative; a missing one is the family's or `default`."""
        names = (name, *_NAMES.get(name, ()))
        value = next((self.text[n] for n in names if self.text.get(n) is not None), None)
        if value is None:
            value = (self.family.defaults or {}).get(name, default)
        if value is None:
            raise JudgeError(f"the config of {self._name} lacks {name}; {_WHAT}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            shown = f"'{printable(value, 40)}'" if isinstance(value, str) else printable(value, 40)
            raise JudgeError(f"the config of {self._name}: {name} is {shown}, not a whole number")
        # layers are listed one by one: a config with more than these is a typing error or malice
        most = 10_000 if name == "num_hidden_layers" else 1 << 40
        if value > most:
            raise JudgeError(f"the config of {self._name}: {name} is {printable(value, 40)}, more than {most:,}")
        return value

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        default = self.family.head_dim or self.number("hidden_size") // self.number("num_attention_heads")
        return self.number("head_dim", default) or default

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        return bool(self.text.get("tie_word_embeddings", self.family.tied))

    def bias(self, where: bool | str) -> bool:
        """Whether projections have a bias, by the family or by `attention_bias`."""
        if where != "config":
            return bool(where)
        return bool(self.text.get("attention_bias", self.type in ("glm", "glm4")))

    def windows(self) -> tuple[int, ...]:
        """Return for each layer how many tokens it looks at, itself included; 0: all."""
        layers = self.number("num_hidden_layers")
        window = self.number("sliding_window", 0)
        if not window or not self.family.window or not self.text.get("use_sliding_window", "qwen" not in self.type):
            return (0,) * layers
        kinds = self.text.get("layer_types")
        if kinds:
            if len(kinds) != layers:
                raise JudgeError(f"the config of {self._name}: {len(kinds)} layer_types for {layers} layers")
            return tuple(window if kind == _SLIDING else 0 for kind in kinds)
        pattern = self.number("sliding_window_pattern", self.family.pattern)
        if pattern:
            return tuple(0 if (i + 1) % pattern == 0 else window for i in range(layers))
        first = self.number("max_window_layers", 0) if self.type.startswith("qwen") else 0
        return tuple(window if i >= first else 0 for i in range(layers))

    def expert_layers(self) -> tuple[bool, ...]:
        """Return for each layer whether its feed-forward block is a mixture of experts."""
        layers, step = self.number("num_hidden_layers"), self.number("decoder_sparse_step", 1) or 1
        if not self.number("num_local_experts", 0):
            return (False,) * layers
        dense = {int(i) for i in self.text.get("mlp_only_layers") or []}
        first = self.number("first_k_dense_replace", 0)
        return tuple(i not in dense and i >= first and (i + 1) % step == 0 for i in range(layers))


_WHAT = "the arithmetic is for decoder-only transformers such as Llama, Mistral, Qwen and Gemma"
