"""Where merging and quantising put a model together, and whether disk and memory suffice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from judge.errors import JudgeError
from judge.hardware.machine import GIB, available_memory
from judge.runs.folder import RunFolder
from quantize.layers import Layers, Linear

# Python, torch and the back end, measured: 0.6 to 0.9 GiB.
LIBRARIES = 1 * GIB
# Tokenizer, configuration and headers, and room for the blocks of a file system.
SPARE_DISK = 64 << 20


@contextmanager
def work_folder(output: Path, command: str, restart: bool = False) -> Iterator[Path]:
    """Give an empty folder in `OUT.parts` to put a model together in; `OUT.parts` is removed however the block ends.

    What a killed run of the same command left there is dropped.

    Args:
        command: such as `judge merge`.
        restart: drop what another command left there, too.

    Raises:
        JudgeError: another command left something there, or another process is at work there.
    """
    parts = output.with_name(output.name + ".parts")
    manifest = {"command": command}
    file = parts / "manifest.json"
    same = file.exists() and file.read_text(encoding="utf-8") == json.dumps(manifest, indent=1)
    if not same and not restart and parts.exists() and {entry.name for entry in parts.iterdir()} - {"lock"}:
        raise JudgeError(f"{parts}: holds something that {command} did not leave there; move it away")
    with RunFolder(parts) as run:
        run.begin(manifest, restart=True)
        try:
            ready = run.path / "model"
            ready.mkdir()
            yield ready
        finally:
            run.remove()


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on."""
    return shutil.disk_usage(folder).free


def check_disk(output: Path, size: int, what: str, disk: Callable[[Path], int] = free_disk) -> None:
    """Check that the disk has room for a model's weights, and for what comes beside them.

    Args:
        size: bytes of the weights.
        what: names the model, such as `the merged model`.
        disk: returns the free bytes of the disk that a folder is on.

    Raises:
        JudgeError: too little room.
    """
    place = next(parent for parent in output.absolute().parents if parent.exists())
    need, free = size + SPARE_DISK, disk(place)
    if need > free:
        raise JudgeError(
            f"{output}: {what} needs {_gib(need)} of disk and {_gib(free)} are free at {place}; make room, or choose "
            "another place with -o"
        )


def output_bytes(layers: Layers, group_size: int) -> int:
    """Return the size of the 4-bit model's weights.

    Half a byte for each weight; for each group a 16-bit scale and a 4-bit zero point; and two bytes for every number
    that stays in 16 bits (embeddings, head, norms).
    """
    packed = layers.quantised
    return packed // 2 + packed // group_size * 5 // 2 + (layers.parameters - packed) * 2


def estimate_memory(layers: Layers, group_size: int, tokens: int, value: int, copies: int) -> int:
    """Return the bytes of main memory that quantising takes at its peak.

    Args:
        tokens: calibration tokens that are kept at once, padding included.
        value: bytes of a number while calibrating: 4 on a CPU, 2 on a GPU.
        copies: how often a back end holds the inputs of a block's layers.

    It is the sum of:

    * the weights, and those of the block at work three times more: the original ones, the scaled ones, and those
      rounded to 4 bits;
    * for each calibration token the inputs of the block's layers, and four hidden states: the block's input and output,
      and two outputs that are compared;
    * a copy of what stays in 16 bits, which is checked for values that do not fit;
    * the finished model, which is put together before it is written;
    * the libraries.
    """
    blocks: dict[str, list[Linear]] = {}  # such as model.layers.0
    for layer in layers.linear:
        match = re.match(r"(.*?\.\d+)\.", layer.name)
        blocks.setdefault(match[1] if match else "", []).append(layer)
    weights = max(sum(layer.inputs * layer.outputs for layer in block) for block in blocks.values())
    inputs = max(sum(layer.inputs for layer in block) for block in blocks.values())
    activations = tokens * value * (inputs * copies + 4 * layers.hidden)
    loaded = (layers.parameters + 3 * weights + layers.parameters - layers.quantised) * value
    return loaded + activations + output_bytes(layers, group_size) + LIBRARIES


def check_memory(need: int, memory: Callable[[], int | None] = available_memory) -> None:
    """Check that the machine has the memory for quantising.

    Args:
        need: bytes (`estimate_memory`).
        memory: returns the free bytes, None if it cannot tell.

    Raises:
        JudgeError: too little memory.
    """
    free = memory()
    if free is not None and free < need:
        raise JudgeError(
            f"quantising this model needs {_gib(need)} of memory and {_gib(free)} are free; use fewer or "
            "shorter calibration prompts (--samples, --sample-tokens), or a machine with more memory"
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size < 10 * GIB else f"{size / GIB:.0f} GiB"
