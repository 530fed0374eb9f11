"""What quantising needs of disk and memory, and whether it is there: asked before anything is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from judge.errors import JudgeError
from judge.hardware.machine import GIB, available_memory
from quantize.layers import Layers, decoder_blocks

# Python, torch and the back end, measured: 0.6 to 0.9 GiB.
LIBRARIES = 1 * GIB
# Tokenizer, configuration and headers, and room for a file system's own blocks.
SPARE_DISK = 64 << 20


@dataclass(frozen=True)
class Needs:
    """Bytes that quantising takes.

    Attributes:
        disk: of the finished model; it is written once.
        memory: main memory, at the peak.
    """

    disk: int
    memory: int


def output_bytes(layers: Layers, group_size: int) -> int:
    """Return the size of the 4-bit model's weights.

    Half a byte a weight, for each group a 16-bit scale and a 4-bit zero point, and two bytes for every number that
    stays (embeddings, head, norms).
    """
    packed = layers.quantised
    return packed // 2 + packed // group_size * 5 // 2 + (layers.parameters - packed) * 2


def estimate_needs(layers: Layers, group_size: int, tokens: int, value: int, copies: int) -> Needs:
    """Return what quantising takes.

    Args:
        tokens: calibration tokens that are kept at once, padding included.
        value: bytes of a number while calibrating: 4 on a CPU, 2 on a GPU.
        copies: how often a back end holds the inputs of a block's layers.

    The memory is the sum of the weights; of the block at work three times more (its original weights, the scaled
    ones, and those rounded to 4 bits); for each calibration token the inputs of the block's layers and four times the
    hidden state (the block's input and output, and two outputs that are compared); of a copy of what stays in 16
    bits, which is checked for values that do not fit; of the finished model, which is put together before it is
    written; and of the libraries.
    """
    blocks = [(sum(x.inputs * x.outputs for x in b), sum(x.inputs for x in b)) for b in decoder_blocks(layers).values()]
    weights, inputs = max(size for size, _ in blocks), max(total for _, total in blocks)
    disk = output_bytes(layers, group_size)
    activations = tokens * value * (inputs * copies + 4 * layers.hidden)
    loaded = (layers.parameters + 3 * weights + layers.parameters - layers.quantised) * value
    memory = loaded + activations + disk + LIBRARIES
    return Needs(disk + SPARE_DISK, memory)


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on."""
    return shutil.disk_usage(folder).free


def check_needs(
    needs: Needs,
    parent: Path,
    memory: Callable[[], int | None] = available_memory,
    disk: Callable[[Path], int] = free_disk,
) -> None:
    """Check that there is room.

    Raises:
        JudgeError: too little disk or memory.
    """
    free = disk(parent)
    if free < needs.disk:
        raise JudgeError(
            f"{parent}: quantising writes {_gib(needs.disk)} and the disk has {_gib(free)} free; make room, or write "
            "to another disk"
        )
    available = memory()
    if available is not None and available < needs.memory:
        raise JudgeError(
            f"quantising this model needs {_gib(needs.memory)} of memory and {_gib(available)} are free; use fewer "
            "or shorter calibration prompts (--samples, --sample-tokens), or a machine with more memory"
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size < 10 * GIB else f"{size / GIB:.0f} GiB"
