"""Model folders and judge bundles: what one must hold before it is used, and the hash that names its content.

A judge bundle is a model folder, or the folder of a LoRA adapter, with a `judge.json` (`judge.models.judge_file`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable
from judge.models.judge_file import FILE as JUDGE_FILE
from judge.models.judge_file import JudgeFile, read_judge_file, with_calibration

# Files whose content changes what a model computes or how its prompts are built.
_CONTENT = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_IGNORED = ("trainer_state.json", "training_args.json", "drift.json", "README.txt", "LICENSE.txt")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# With these settings models scale or cap their logits behind the output head (Gemma 2, Cohere, Granite, Falcon-H1,
# MiniCPM, Grok); vLLM's `compute_logits` of each reads them.
_LOGIT_CHANGES = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "dim_model_base",
    "output_multiplier_scale",
)
# The files of a tokenizer, in any of its formats.
_TOKENIZER = (
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "chat_template*",
)
# The float types of safetensors files and torch's names for them; engines load them in the dtype that they compute in.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk: its folder, absolute, and its adapter_config.json."""

    path: Path
    config: dict[str, Any]

    @property
    def rank(self) -> int:
        """The largest rank of its layers."""
        pattern = self.config.get("rank_pattern") or {}
        return max([int(self.config.get("r", 0)), *map(int, pattern.values())])


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder; for the folder of an adapter, its base model with the adapter.

    Attributes:
        path: the folder with the model's weights, absolute.
        shards: the safetensors files with its weights; empty if the weights lie on a server.
        adapter: the adapter, or None.
        judge: what `judge.json` says, or None for a model that judge did not train.
        folder: the folder that was opened: the adapter's where there is one.
        text_config: the part of the config that describes the language model (nested in multimodal ones).
        dtype: the dtype that the weights were saved in, as the config says.
        max_positions: the longest sequence that the model was made for, where the config says.
        quantization: what the config says about quantised weights (empty if it is not an object), or None.
    """

    path: Path
    config: dict[str, Any]
    shards: tuple[Path, ...]
    adapter: Adapter | None = None
    judge: JudgeFile | None = field(default=None, compare=False)
    folder: Path = field(init=False, compare=False)
    text_config: dict[str, Any] = field(init=False, compare=False)
    model_type: str = field(init=False, compare=False)
    dtype: str = field(init=False, compare=False)
    max_positions: int | None = field(init=False, compare=False)
    quantization: dict[str, Any] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        nested = self.config.get("text_config")
        text = nested if isinstance(nested, dict) else self.config
        positions = [text.get(key) for key in ("max_position_embeddings", "n_positions", "max_seq_len")]
        quantizations = [c.get("quantization_config") or c.get("compression_config") for c in (self.config, text)]
        facts = {
            "folder": self.adapter.path if self.adapter else self.path,
            "text_config": text,
            "model_type": str(text.get("model_type", "")),
            "dtype": str(text.get("dtype") or text.get("torch_dtype") or self.config.get("dtype") or "float32"),
            "max_positions": next((value for value in positions if isinstance(value, int)), None),
            "quantization": next((value if isinstance(value, dict) else {} for value in quantizations if value), None),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def weights(self) -> int:
        """Bytes of the weights on disk."""
        return sum(path.stat().st_size for path in self.shards)

    def loaded_bytes(self, bytes_per_value: int) -> int:
        """Return the memory of the loaded weights: floats at `bytes_per_value`, the rest as stored."""
        tensors = [tensor for path in self.shards for tensor in tensor_types(path).values()]
        sizes = {kind: bytes_per_value if kind in FLOATS else _stored_bytes(kind) for kind, _ in tensors}
        return int(sum(math.prod(shape) * sizes[kind] for kind, shape in tensors))

    @property
    def quantization_method(self) -> str | None:
        """The method that quantised the weights, `unknown` if the config does not name it, or None."""
        return None if self.quantization is None else str(self.quantization.get("quant_method", "unknown"))

    @property
    def heads(self) -> int:
        """Number of attention heads (1 if the config does not say)."""
        return int(self.text_config.get("num_attention_heads") or 1)

    def cache_bytes_per_token(self, bytes_per_value: int) -> int:
        """Return the key-value cache that one token takes, over all layers, in bytes."""
        text = self.text_config
        kv_heads = int(text.get("num_key_value_heads") or self.heads)
        head_size = int(text.get("head_dim") or text.get("hidden_size", 0) // self.heads)
        return 2 * int(text.get("num_hidden_layers", 1)) * kv_heads * head_size * bytes_per_value

    def changes_logits_after_head(self) -> str | None:
        """Return the setting with which the model changes its logits behind the output head, or None.

        A read-out that keeps three rows of the head skips that step and would not be exact.
        """
        for key in _LOGIT_CHANGES:
            value = self.text_config.get(key)
            if value is not None and value not in (1, 1.0, 0, False):
                return f"{key}={value}"
        names = {name for file in self.shards for name in tensor_shapes(file)}
        biases = sorted(name for name in names if name.endswith("lm_head.bias"))
        return biases[0] if biases else None

    @cached_property
    def _file_digests(self) -> dict[str, str]:
        return _file_digests(self.path)

    @property
    def base_digest(self) -> str:
        """SHA-256 over the files in `path`."""
        return _joined_digest(self._file_digests)

    @property
    def weights_digest(self) -> str:
        """SHA-256 over the files in `path` without `judge.json`, which changes although the weights stay the same."""
        return _joined_digest({name: digest for name, digest in self._file_digests.items() if name != JUDGE_FILE})

    def digest(self) -> str:
        """SHA-256 over the names and contents of the files that decide what the model computes.

        A calibration in `judge.json` does not count: the model computes the same numbers with and without it.

        Raises:
            JudgeError: the base model is not the one that the adapter was trained on.
        """
        if self.adapter is None:
            return self.base_digest
        # a base whose weights lie on a server cannot be told from another one
        if self.judge is not None and self.shards and self.judge.base.digest != self.base_digest:
            raise JudgeError(
                f"{self.path}: is not the base model that {self.adapter.path.name} was trained on (the hash of its "
                "files differs); give the right folder with --base"
            )
        own = _joined_digest(_file_digests(self.adapter.path))
        return hashlib.sha256(f"{self.base_digest} {own}".encode()).hexdigest()


def _file_digests(path: Path) -> dict[str, str]:
    files = sorted({f for pattern in _CONTENT for f in path.glob(pattern) if f.name not in _IGNORED})
    with ThreadPoolExecutor(4) as pool:
        digests = pool.map(_content_digest, files)
        return dict(zip([f.name for f in files], digests, strict=True))


def _content_digest(path: Path) -> str:
    if path.name != JUDGE_FILE:
        return file_digest(path)
    try:
        text = with_calibration(path.read_text(encoding="utf-8"), None)
    except ValueError:
        return file_digest(path)
    return hashlib.sha256(text.encode()).hexdigest()


def _joined_digest(digests: dict[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in digests.items()).encode()).hexdigest()


def _stored_bytes(kind: str) -> float:
    """Return the bytes of one value of a safetensors type, such as I32, F8_E4M3 or BOOL."""
    bits = re.match(r"[A-Z]+(\d+)", kind)
    return int(bits[1]) / 8 if bits else 1


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Return the names and shapes of the tensors in a safetensors file, from its header."""
    return {name: shape for name, (_, shape) in tensor_types(path).items()}


def tensor_types(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Return the names, types (such as F32) and shapes of the tensors in a safetensors file, from its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise JudgeError(f"{path}: is not a safetensors file ({printable(str(error))})") from None


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer's files, chat template included, byte for byte: loading and saving one can change it."""
    for pattern in _TOKENIZER:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_model(folder: str | Path, base: str | Path | None = None, weights_needed: bool = True) -> ModelFolder:
    """Check a model folder or judge bundle before anything heavy is started.

    Args:
        folder: a model folder, a judge bundle, or the folder of a PEFT LoRA adapter.
        base: the base model of an adapter, if it is not in the folder that the adapter names.
        weights_needed: refuse a folder without weights; otherwise config and tokenizer suffice (a server has the rest).

    Raises:
        JudgeError: not a folder, or no config; an adapter that was never trained, or whose base is not there; weights
            that are missing, Git LFS pointers, or pickle files only.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise JudgeError(
            f"{printable(str(folder), 4096)}: no such model folder; judge reads models from disk only "
            "(fetch one with: hf download ORG/NAME --local-dir FOLDER)"
        )
    judge = read_judge_file(path)
    if is_adapter(path):
        adapter = _open_adapter(path, weights_needed)
        return replace(_open_base(adapter, judge, base, weights_needed), adapter=adapter, judge=judge)
    if base is not None:
        raise JudgeError(f"{path}: is a whole model, so --base has no effect")
    config = read_config(path / "config.json")
    try:
        shards = _check_shards(path, sorted(path.glob("*.safetensors")))
    except JudgeError:
        if weights_needed:
            raise
        shards = ()
    return ModelFolder(path.resolve(), config, shards, judge=judge)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone, without a model."""
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


def _open_adapter(path: Path, weights_needed: bool = True) -> Adapter:
    config = read_config(path / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise JudgeError(f"{path}: holds a {printable(config.get('peft_type'))} adapter; judge reads LoRA adapters")
    weights = path / ADAPTER_WEIGHTS
    if weights_needed or (weights.exists() and not _is_pointer(weights)):
        if not weights.exists():
            raise JudgeError(f"{path}: no {ADAPTER_WEIGHTS}; the adapter's weights are missing")
        _check_shards(path, [weights])
        if adapter_is_untrained(path):
            raise JudgeError(
                f"{path}: all B matrices of the adapter are zero: it was never trained and would change nothing"
            )
    return Adapter(path.resolve(), config)


def _open_base(
    adapter: Adapter, judge: JudgeFile | None, base: str | Path | None, weights_needed: bool = True
) -> ModelFolder:
    named = base or (judge.base.path if judge else adapter.config.get("base_model_name_or_path"))
    path = Path(str(named)).expanduser()
    if not path.is_dir():
        raise JudgeError(
            f"{adapter.path}: holds an adapter, and its base model is not at {printable(str(path), 4096)}; "
            "give the base model's folder with --base"
        )
    if is_adapter(path):
        raise JudgeError(f"{path}: is itself an adapter, not the base model that {adapter.path.name} needs")
    return open_model(path, weights_needed=weights_needed)


def adapter_is_untrained(path: Path) -> bool:
    """Whether every B matrix of a saved LoRA adapter is zero, as before the first training step."""
    import numpy as np
    from safetensors import safe_open

    # torch if it is installed: numpy knows no bfloat16
    framework = "pt" if find_spec("torch") else "numpy"
    tensor_shapes(path / ADAPTER_WEIGHTS)  # a damaged file is refused by name
    with safe_open(path / ADAPTER_WEIGHTS, framework=framework) as file:
        names = [name for name in file.keys() if "lora_B" in name or "lora_embedding_B" in name]  # noqa: SIM118
        tensors = (file.get_tensor(name) for name in names)
        return bool(names) and not any(bool(np.any(np.asarray((t != 0).any()))) for t in tensors)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config.json.

    Raises:
        JudgeError: it is not there, or not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise JudgeError(f"{path.parent}: no config.json; is this a Hugging Face model folder?") from None
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or lists in lists in lists
        raise JudgeError(f"{path}: is not valid JSON") from None
    if not isinstance(config, dict):
        raise JudgeError(f"{path}: expected a JSON object")
    return config


def _is_pointer(path: Path) -> bool:
    """Whether a file is the pointer that Git LFS leaves in place of weights."""
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def _check_shards(path: Path, shards: list[Path]) -> tuple[Path, ...]:
    """Return the files that the index names; without an index, all files but `consolidated*` copies."""
    if not shards:
        pickles = [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
        reason = "only pickle files, which judge does not load" if pickles else "no weights"
        raise JudgeError(f"{path}: {reason}; expected *.safetensors")
    for shard in shards:
        if _is_pointer(shard):
            raise JudgeError(f"{shard}: is a Git LFS pointer, not weights; run: git lfs pull")
    index = path / "model.safetensors.index.json"
    if index.exists():
        names = set(read_config(index).get("weight_map", {}).values())
        missing = sorted(names - {f.name for f in shards})
        if missing:
            raise JudgeError(f"{path}: {len(missing)} of {len(names)} weight files are missing, first {missing[0]}")
        return tuple((path / name).resolve() for name in sorted(names))
    own = [shard for shard in shards if not shard.name.startswith("consolidated")]
    return tuple(shard.resolve() for shard in own or shards)
