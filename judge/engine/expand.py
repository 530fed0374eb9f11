"""The 32-bit copy of a model with packed weights, for engines that have no kernel for these.

It is made once and kept in the user's cache: tensor by tensor, without torch, in memory of the largest tensor.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from judge.errors import JudgeError, printable
from judge.files import whole_file
from judge.models.bundle import FLOATS, ModelFolder, copy_tokenizer
from judge.models.judge_file import FILE as JUDGE_FILE
from judge.models.packed import (
    SCALES,
    Float32,
    Quantization,
    awq_values,
    pack_quantized_values,
    packed_layers,
    width_of,
)
from judge.models.tensor_files import Entry, Tensors, write_tensors

RECORD = "expanded.json"
GB = 10**9
_VERSION = 1


class Expansion:
    """The 32-bit copy of one model with packed weights; an adapter on it plays no part.

    Attributes:
        packed: names of the layers whose weights are packed.

    Raises:
        JudgeError: the model's tensors are not what the config says.
    """

    def __init__(self, model: ModelFolder, quantization: Quantization) -> None:
        if quantization.layout is None:
            raise ValueError(f"{quantization.name} cannot be expanded")
        self.model = model
        self._quantization, self._layout = quantization, quantization.layout
        self._tensors = Tensors(model.shards)
        self.packed: list[str] = []
        try:
            self._plan = self._make_plan()
        except (JudgeError, ValueError) as error:
            raise JudgeError(f"{model.path}: {printable(str(error), 200)}") from None

    @cached_property
    def folder(self) -> Path:
        """Where the copy lies, or will lie; named after the model and its content."""
        name = re.sub(r"[^\w.-]", "_", self.model.path.name).lstrip(".") or "model"
        return cache_folder() / f"{name[:80]}-{self.model.weights_digest[:12]}-float32"

    @property
    def entries(self) -> list[Entry]:
        """The tensors of the copy."""
        return [entry for values in self._plan.values() for entry in values]

    @property
    def size(self) -> int:
        """Bytes of the copy's weights."""
        return sum(entry.size for entry in self.entries)

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
        files = {
            shard.name: write_tensors(folder / shard.name, list(values), self._values, {"format": "pt"})
            for shard, values in self._plan.items()
        }
        if len(files) > 1:
            names = {entry.name: shard.name for shard, values in self._plan.items() for entry in values}
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

    def _values(self, entry: Entry) -> NDArray[Any]:
        return next(values[entry]() for values in self._plan.values() if entry in values)

    def _make_plan(self) -> dict[Path, dict[Entry, Callable[[], NDArray[Any]]]]:
        """Return each tensor and its values, by the file that it comes from; a packed layer's first part says which."""
        tensors = self._tensors
        layers = packed_layers(tensors.entries, self._layout, self._quantization.zero_points)
        if not layers:
            raise JudgeError(f"no packed weights, though its config says {self._quantization.name}")
        self.packed = list(layers)
        layer_of = {next(iter(parts.values())): layer for layer, parts in layers.items()}
        used = {name for parts in layers.values() for name in parts.values()}
        plan: dict[Path, dict[Entry, Callable[[], NDArray[Any]]]] = defaultdict(dict)
        for name, entry in tensors.entries.items():
            values = plan[tensors.files[name]]
            if name in layer_of:
                parts = layers[layer_of[name]]
                values[Entry(f"{layer_of[name]}.weight", "F32", self._shape(parts))] = partial(self._unpacked, parts)
            elif entry.dtype in FLOATS and name not in used:
                values[Entry(name, "F32", entry.shape)] = partial(tensors.floats, name)
            elif name not in used:
                tensors.array(name)  # a type that is not known is refused before anything is written
                values[entry] = partial(tensors.array, name)
        return {path: values for path, values in plan.items() if values}

    def _shape(self, parts: Mapping[str, str]) -> tuple[int, int]:
        """Return the shape of a packed layer's weight, outputs and inputs, from the names of the layer's tensors."""
        entries = self._tensors.entries
        for part, name in parts.items():
            kind, shape = entries[name].dtype, entries[name].shape
            expected = FLOATS if part in SCALES else ("I32", "I64")
            if kind not in expected or len(shape) != (1 if part == "weight_shape" else 2):
                raise JudgeError(f"{printable(name, 120)}: judge cannot expand {kind} of shape {shape}")
        if self._layout == "awq-gemm":
            inputs, words = entries[parts["qweight"]].shape
            return words * 8, inputs
        outputs, inputs = (int(n) for n in self._tensors.array(parts["weight_shape"]))
        width_of(entries[parts["weight_packed"]].shape, (outputs, inputs), self._quantization.bits)
        return outputs, inputs

    def _unpacked(self, parts: Mapping[str, str]) -> Float32:
        """Return the weight of a packed layer, shape (outputs, inputs)."""
        tensors = self._tensors
        found: dict[str, NDArray[Any]] = {
            p: tensors.floats(name) if p in SCALES else tensors.array(name) for p, name in parts.items()
        }
        try:
            if self._layout == "awq-gemm":
                return awq_values(found["qweight"], found["scales"], found["qzeros"])
            zeros, bits = found.get("weight_zero_point"), self._quantization.bits
            return pack_quantized_values(found["weight_packed"], found["weight_scale"], self._shape(parts), zeros, bits)
        except ValueError as error:
            name = next(iter(parts.values()))
            raise JudgeError(f"{printable(name, 120)}: damaged packed weights: {error}") from None


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
