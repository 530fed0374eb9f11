"""How a quantised model's weights are read: by the engine's own kernels, or from their 32-bit copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from judge.engine.expand import GB, Expansion
from judge.errors import JudgeError, printable
from judge.hardware import machine
from judge.hardware.machine import Gpu
from judge.models.bundle import ModelFolder
from judge.models.packed import Quantization, read_quantization

# Sizes of a layer that vLLM's kernel for CPUs takes are multiples of this (kernels/linear/mixed_precision/cpu.py).
_CPU_MULTIPLE = 32
# vLLM's CPU build multiplies in 8 bits without any 4-bit kernel.
_INT8_ON_CPU = "compressed-tensors int-quantized"


@dataclass(frozen=True)
class Weights:
    """How a model's weights are read."""

    model: ModelFolder
    quantization: Quantization | None = None  # None for a model in plain floats
    expansion: Expansion | None = None  # the 32-bit copy if that is what the engine reads
    why: str = ""  # what makes the copy needed
    gpus: tuple[Gpu, ...] = ()  # the cards that read them

    @property
    def way(self) -> Literal["stored", "expanded"]:
        """What the run's settings record."""
        return "expanded" if self.expansion else "stored"

    @property
    def folder(self) -> str:
        """What the engine is to load."""
        return str(self.expansion.folder if self.expansion else self.model.path)

    @property
    def shapes(self) -> Mapping[str, Sequence[int]] | None:
        """The shapes of packed weights once unpacked, with those of all other tensors; None for plain floats."""
        if self.quantization is None or self.quantization.layout is None:
            return None
        return {e.name: e.shape for e in (self.expansion or Expansion(self.model, self.quantization)).entries}

    def choose_dtype(self, requested: Literal["auto", machine.Dtype], gpus: Sequence[Gpu]) -> machine.Dtype:
        """Return the arithmetic to run the model in (see `judge.hardware.machine.choose_dtype`)."""
        saved = "float32" if self.expansion else self.model.dtype
        packed = self.quantization is not None and self.expansion is None
        return machine.choose_dtype(requested, saved, gpus, self.model.model_type, packed)

    def loaded_bytes(self, bytes_per_value: int) -> int:
        """Return the memory that they take once loaded."""
        if self.expansion:
            return sum(entry.values for entry in self.expansion.entries) * bytes_per_value
        return self.model.loaded_bytes(bytes_per_value)

    def make_ready(self, say: Callable[[str], None]) -> None:
        """Make the 32-bit copy if it is what is read, and say so.

        Raises:
            JudgeError: it cannot be written.
        """
        if self.expansion is None:
            return
        size, folder = f"{self.expansion.size / GB:,.2f} GB", printable(self.folder, 400)
        bits = "-, ".join(map(str, self.quantization.bits)) if self.quantization else "4"
        say(f"{bits}-bit weights expanded to 32 bits ({size} in {folder}), since {self.why}: slower, same numbers")
        self.expansion.make()


def choose_weights(
    model: ModelFolder, wanted: Literal["auto", "stored", "expanded"], readout: str, dtype: str, gpus: Sequence[Gpu]
) -> Weights:
    """Decide how a model's weights are read.

    Args:
        wanted, readout, dtype: the settings `weights`, `readout` and `dtype`.
        gpus: the cards to run on; none means CPU.

    Raises:
        JudgeError: the weights cannot be read so, on this machine; the text says what can.
    """
    quantization = read_quantization(model.quantization) if model.quantization else None
    stored = Weights(model, quantization, gpus=tuple(gpus))
    if quantization is None:
        if wanted == "expanded":
            raise JudgeError(f"--weights=expanded: {model.path.name} is not quantised; leave the flag out")
        return stored
    if quantization.layout is None:
        _refuse_unknown_layout(model, quantization, wanted, readout, gpus)
        return stored
    if wanted == "expanded":
        return replace(stored, expansion=Expansion(model, quantization), why="--weights=expanded asks for it")
    if readout == "transformers":
        why = "--readout=transformers reads no packed weights"
    elif gpus:
        if dtype == "float32":
            raise JudgeError(
                f"the kernels for {quantization.name} weights compute in float16 or bfloat16; leave out "
                "--dtype=float32, or read their 32-bit copy with --weights=expanded"
            )
        why = ""
    else:
        why = cpu_obstacle(model, quantization, machine.vllm_has_cpu_kernel(), dtype)
    if not why:
        return stored
    if wanted == "stored":
        raise JudgeError(f"--weights=stored: {model.path.name}: {why}; use --weights=expanded")
    return replace(stored, expansion=Expansion(model, quantization), why=why)


def _refuse_unknown_layout(
    model: ModelFolder, quantization: Quantization, wanted: str, readout: str, gpus: Sequence[Gpu]
) -> None:
    """Leave a format that judge cannot expand to the engine, where the engine may read it."""
    expandable = "judge expands compressed-tensors pack-quantized and AWQ GEMM only"
    if wanted == "expanded":
        raise JudgeError(f"--weights=expanded: {model.path.name} is quantised as {quantization.name}; {expandable}")
    on_cpu = not gpus and readout != "transformers"
    may_read = on_cpu and (machine.vllm_has_cpu_kernel() or quantization.name == _INT8_ON_CPU)
    if gpus or may_read:
        return
    reason = "this CPU has no 4-bit kernel" if on_cpu else "--readout=transformers reads no quantised weights on a CPU"
    raise JudgeError(f"{model.path.name} is quantised as {quantization.name}: {reason}, and {expandable}")


def cpu_obstacle(model: ModelFolder, quantization: Quantization, has_kernel: bool, dtype: str) -> str:
    """Return why vLLM cannot read packed weights as they are on a CPU, or an empty text; `dtype` is the setting."""
    if not has_kernel:
        return "this CPU has no 4-bit kernel"
    if set(quantization.bits) != {4}:
        return "vLLM's kernel for CPUs reads 4 bits only"
    if dtype == "float32":
        return "the 4-bit kernel for CPUs does not compute in float32"
    expansion = Expansion(model, quantization)
    shapes = {entry.name: entry.shape for entry in expansion.entries}
    for layer in expansion.packed:
        shape = shapes[f"{layer}.weight"]
        if ".experts." in layer:
            return "vLLM's 4-bit kernel for CPUs reads no experts"
        if any(size % _CPU_MULTIPLE for size in shape) or math.prod(shape) == 0:
            return f"vLLM's 4-bit kernel for CPUs takes multiples of 32, and {printable(layer, 100)} is {shape}"
    return ""
