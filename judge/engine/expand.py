"""The 32-bit copy of a model with packed weights, for engines that have no kernel for these.

It is made once and kept in the user's cache: tensor by tensor, without torch, in memory of the largest tensor.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable
from judge.files import whole_file
from judge.models.bundle import FLOATS, ModelFolder, copy_tokenizer
from judge.models.judge_file import FILE as JUDGE_FILE
from judge.models.packed import Float32, Quantization, awq_values, pack_quantized_values, packed_layers, width_of
from judge.models.tensor_files import Output, Tensors, write_tensors

RECORD = "expanded.json"
GB = 10**9
_VERSION = 1


class Expansion:
    """The 32-bit copy of one model.

    Args:
        model: the model with packed weights; an adapter on it plays no part.
        quantization: what its config says.

    Attributes:
        packed: names of the layers whose weights are packed.

    Raises:
        JudgeError: its tensors are not what the config says.
    """

    def __init__(self, model: ModelFolder, quantization: Quantization) -> None:
        if quantization.layout is None:
            raise ValueError(f"{quantization.name} cannot be expanded")
        self.model = model
        self._quantization, self._layout = quantization, quantization.layout
        self._tensors = Tensors(model.shards)
        self.packed: list[str] = []
        try:
            self._plan = self._outputs()
        except (JudgeError, ValueError) as error:
            raise JudgeError(f"{model.path}: {printable(str(error), 200)}") from None

    @cached_property
    def folder(self) -> Path:
        """Where the copy lies, or will lie; named after the model and its content."""
        name = re.sub(r"[^\w.-]", "_", self.model.path.name).lstrip(".") or "model"
        return cache_folder() / f"{name[:80]}-{self.model.weights_digest[:12]}-float32"

    @property
    def parameters(self) -> int:
        """Number of values."""
        return sum(math.prod(output.shape) for outputs in self._plan.values() for output in outputs)

    @property
    def size(self) -> int:
        """Bytes of the copy's weights."""
        return sum(output.size for outputs in self._plan.values() for output in outputs)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the copy's tensors."""
        return {output.name: output.shape for outputs in self._plan.values() for output in outputs}

    def is_made(self) -> bool:
        """Whether the copy is there, with all its files."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            sizes = {name: (self.folder / name).stat().st_size for name in record["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(sizes == record["files"] and record.get("version") == _VERSION)

    def make(self) -> Path:
        """Write the copy, unless it is there, and return its folder.

        Raises:
            JudgeError: the cache cannot be written, or the disk is too small.
        """
        with _locked(self.folder):
            if not self.is_made():
                self._make()
            self._copy_judge_file()
        return self.folder

    def _make(self) -> None:
        parts = self.folder.with_name(f".{self.folder.name}.parts")
        for old in (parts, self.folder):  # what a killed process or a cleaned cache left
            shutil.rmtree(old, ignore_errors=True)
        free = shutil.disk_usage(self.folder.parent).free
        if free < self.size * 1.01 + 50e6:
            raise JudgeError(
                f"{self.folder.parent}: the weights in 32 bits need {self.size / GB:,.1f} GB, and {free / GB:,.1f} GB "
                "are free; set XDG_CACHE_HOME to a folder on a larger disk"
            )
        try:
            parts.mkdir(mode=0o700)
            self._write(parts)
            parts.rename(self.folder)
        except OSError as error:
            if error.filename and Path(error.filename).parent == self.model.path:  # the model cannot be read
                raise
            raise _unwritable(self.folder.parent, error) from None
        finally:
            shutil.rmtree(parts, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        files = {shard.name: write_tensors(folder / shard.name, outputs) for shard, outputs in self._plan.items()}
        if len(files) > 1:
            names = {output.name: shard.name for shard, outputs in self._plan.items() for output in outputs}
            index = {"metadata": {"total_size": self.size}, "weight_map": names}
            _write_json(folder / "model.safetensors.index.json", index)
        copy_tokenizer(self.model.path, folder)
        if (self.model.path / "generation_config.json").exists():
            shutil.copyfile(self.model.path / "generation_config.json", folder / "generation_config.json")
        _write_json(folder / "config.json", without_quantization(self.model.config))
        record = {
            "what": f"32-bit copy of a model whose weights are packed ({self._quantization.name}); safe to delete",
            "source": str(self.model.path),
            "source_digest": self.model.weights_digest,
            "version": _VERSION,
            "files": files,
        }
        _write_json(folder / RECORD, record)

    def _copy_judge_file(self) -> None:
        source, target = self.model.path / JUDGE_FILE, self.folder / JUDGE_FILE
        if source.exists() and (not target.exists() or source.read_bytes() != target.read_bytes()):
            with whole_file(target) as temporary:
                shutil.copyfile(source, temporary)

    def _outputs(self) -> dict[Path, list[Output]]:
        """Return what is to be written, by the file that it comes from; a packed layer's first part says which."""
        tensors = self._tensors
        layers = packed_layers(tensors.types, self._layout, self._quantization.zero_points)
        if not layers:
            raise JudgeError(f"no packed weights, though its config says {self._quantization.name}")
        self.packed = list(layers)
        parts_of = {next(iter(parts.values())): (layer, parts) for layer, parts in layers.items()}
        used = {name for parts in layers.values() for name in parts.values()}
        plan: dict[Path, list[Output]] = {shard: [] for shard in self.model.shards}
        for name, (kind, shape) in tensors.types.items():
            if name in parts_of:
                output = self._packed(*parts_of[name])
            elif name in used:
                continue
            elif kind in FLOATS:
                output = Output(name, "F32", tuple(shape), lambda name=name: tensors.floats(name))  # type: ignore[misc]
            else:
                tensors.array(name)  # a type that is not known is refused before anything is written
                output = Output(name, kind, tuple(shape), lambda name=name: tensors.array(name))  # type: ignore[misc]
            plan[tensors.files[name]].append(output)
        return {shard: outputs for shard, outputs in plan.items() if outputs}

    def _packed(self, layer: str, parts: Mapping[str, str]) -> Output:
        tensors, bits = self._tensors, self._quantization.bits
        for part, name in parts.items():
            kind, shape = tensors.types[name]
            expected = FLOATS if part in ("scales", "weight_scale") else ("I32", "I64")
            if kind not in expected or len(shape) != (1 if part == "weight_shape" else 2):
                raise JudgeError(f"{printable(name, 120)}: judge cannot expand {kind} of shape {shape}")
        if self._layout == "awq-gemm":
            rows, columns = tensors.types[parts["qweight"]][1]
            return Output(f"{layer}.weight", "F32", (columns * 8, rows), lambda: self._awq(parts))
        outputs, inputs = (int(n) for n in tensors.array(parts["weight_shape"]))
        width_of(tensors.types[parts["weight_packed"]][1], (outputs, inputs), bits)

        def values() -> Float32:
            zeros = tensors.array(parts["weight_zero_point"]) if "weight_zero_point" in parts else None
            packed, scale = tensors.array(parts["weight_packed"]), tensors.floats(parts["weight_scale"])
            return pack_quantized_values(packed, scale, (outputs, inputs), zeros, bits)

        return Output(f"{layer}.weight", "F32", (outputs, inputs), values)

    def _awq(self, parts: Mapping[str, str]) -> Float32:
        tensors = self._tensors
        return awq_values(
            tensors.array(parts["qweight"]), tensors.floats(parts["scales"]), tensors.array(parts["qzeros"])
        )


def cache_folder() -> Path:
    """Return where 32-bit copies are kept: judge/expanded in $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path("~/.cache").expanduser()  # as the standard says
    return base / "judge" / "expanded"


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json for the same model in float32."""
    dropped = ("quantization_config", "compression_config", "torch_dtype")
    result = {key: value for key, value in config.items() if key not in dropped}
    if isinstance(result.get("text_config"), dict):
        result["text_config"] = without_quantization(result["text_config"])
    return {**result, "dtype": "float32"}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a copy; a second process waits until the first has made it."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder.with_name(f".{folder.name}.lock").open("w")
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unwritable(folder: Path, error: OSError) -> JudgeError:
    return JudgeError(
        f"{folder}: cannot be written ({error.strerror or error}), and the weights in 32 bits must go there; "
        "set XDG_CACHE_HOME to a folder that can be written"
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
