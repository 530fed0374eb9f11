"""AWQ: the weights of all linear layers but the head in 4 bits, by one of two back ends behind one interface.

Activation-aware weight quantisation (Lin et al. 2023) scales the input channels of each layer, undone in the layer
before, so that rounding to 4 bits changes the output least on calibration prompts. Both back ends search these
scales and round asymmetrically in groups; they write different layouts. What stays (embeddings, output head, norms)
keeps the source's 16-bit format; a float32 source becomes float16, which the 4-bit kernels were made for, or bfloat16
where a value does not fit float16. AutoAWQ's layout is float16 in any case.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from judge.bundle import ModelFolder, copy_tokenizer
from judge.errors import JudgeError, RunInterrupted, printable
from judge.judge_file import write_judge_file
from judge.trained_rows import FILE as TRAINED_ROWS
from quantize.layers import Layers, check_written, choose_group_size, find_layers, is_quantised
from quantize.needs import check_needs, estimate_needs, free_disk, free_memory
from quantize.size_report import SizeReport, size_report
from quantize.unfinished import check_output, unfinished

STAGE = "quantized"
BackEndName = Literal["llm-compressor", "autoawq"]
Device = Literal["cpu", "cuda"]
# Copied beside the weights, byte for byte, where the source has them.
_COPIED = ("generation_config.json", TRAINED_ROWS)


class QuantizeSettings(BaseModel):
    """How a model is quantised.

    Attributes:
        backend: `llm-compressor` writes compressed-tensors (pack-quantized), `autoawq` the classic AWQ GEMM layout.
        group_size: weights of a row that share a scale; None for the largest of 128, 64, 32 that fits all layers.
        samples: calibration prompts.
        sample_tokens: longest calibration prompt, in tokens.
        seed: of the sample.
        grid: scales that are tried for each layer; the time goes up with it.
        clip: autoawq only: also search where to clip each group (`AwqQuantizer.apply_clip`); slow on a CPU.
        device: where calibration runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: BackEndName = "llm-compressor"
    group_size: Literal[128, 64, 32] | None = None
    samples: int = Field(default=128, ge=1)
    sample_tokens: int = Field(default=1024, ge=1)
    seed: int = Field(default=0, ge=0)
    grid: int = Field(default=20, ge=4)
    clip: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"


class QuantizeEvents(Protocol):
    """What quantising tells whoever watches it."""

    def note(self, text: str) -> None:
        """A line of information."""

    def warn(self, text: str) -> None:
        """A line that should be noticed."""

    def loading(self) -> None:
        """The checks are done; libraries and weights are being loaded."""

    def layer(self, done: int, total: int) -> None:
        """So many decoder blocks are done, of so many."""

    def writing(self) -> None:
        """The 4-bit model is being put together and written."""


class Job(BaseModel):
    """What a back end is asked to do.

    Attributes:
        source: folder of the 16-bit model.
        target: an empty folder for config and weights.
        ids: token ids of the calibration prompts.
        group_size: weights that share a scale.
        blocks: decoder blocks, for the progress.
        head: name of the output head, which stays.
        device: where to run.
        dtype: number format of the source.
    """

    model_config = ConfigDict(frozen=True)

    source: Path
    target: Path
    ids: list[list[int]]
    group_size: int
    blocks: int
    head: str
    device: Device
    dtype: str


class BackEnd(Protocol):
    """A library that quantises.

    Attributes:
        name: as in the settings.
        packages: the distributions whose versions the record names, the one to install first.
        layout: what the written layout is called.
        copies: how often the inputs of a block's layers are held at once, for the memory estimate.
    """

    name: BackEndName
    packages: tuple[str, ...]
    layout: str
    copies: int

    def refusal(self, layers: Layers, model_type: str) -> str | None:
        """Return why the back end cannot quantise a model, or None."""

    def notes(self) -> list[str]:
        """Return what a user should know before."""

    def kept_tokens(self, lengths: Sequence[int]) -> int:
        """Return how many tokens calibration keeps for prompts of these lengths, padding included."""

    def run(self, job: Job, settings: QuantizeSettings, events: QuantizeEvents) -> dict[str, Any]:
        """Quantise and write config and weights; return what the record should say besides."""


def back_end(name: BackEndName) -> BackEnd:
    """Return a back end; its library is imported when it runs.

    Raises:
        JudgeError: the library is not installed.
    """
    from quantize.auto_awq import AutoAwq
    from quantize.llm_compressor import LlmCompressor

    found: BackEnd = LlmCompressor() if name == "llm-compressor" else AutoAwq()
    _versions(found)
    return found


def _versions(end: BackEnd) -> dict[str, str]:
    versions = {}
    for package in end.packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise JudgeError(
                f"--backend={end.name} needs {package}, which is not installed: pip install --no-deps "
                f"{' '.join(end.packages)}"
            ) from None
    return versions


def check_model(folder: ModelFolder) -> None:
    """Check that a model can be quantised at all.

    Raises:
        JudgeError: an adapter, or a model that is quantised already.
    """
    if folder.adapter is not None:
        raise JudgeError(
            f"{folder.adapter.path}: is an adapter on a base model; merge it first: judge merge {folder.adapter.path} "
            "-o MERGED"
        )
    method = is_quantised(folder.config)
    if method is not None:
        raise JudgeError(f"{folder.path}: is quantised already ({printable(method)}); give the 16-bit model")


def quantize_model(
    model: ModelFolder,
    output: Path,
    ids: list[list[int]],
    settings: QuantizeSettings,
    events: QuantizeEvents,
    *,
    record: dict[str, Any] | None = None,
    memory: Callable[[], int] = free_memory,
    disk: Callable[[Path], int] = free_disk,
) -> tuple[SizeReport, dict[str, Any]]:
    """Quantise a model folder and write the 4-bit one, whole or not at all.

    Args:
        ids: token ids of the calibration prompts, each whole.
        record: what `judge.json` should say of the calibration data besides.
        memory, disk: return what is free, in bytes.

    Returns:
        The size, and the stage's figures as in `judge.json`.

    Raises:
        JudgeError: anything a user can mend.
        RunInterrupted: Ctrl-C; nothing is kept.
    """
    check_model(model)
    check_output(output)
    end = back_end(settings.backend)
    device = choose_device(settings.device)
    layers = find_layers(model)
    reason = end.refusal(layers, str(model.config.get("model_type", "")))
    if reason:
        raise JudgeError(f"{model.path}: {reason}")
    group_size = choose_group_size(layers.linear, settings.group_size)
    tokens = end.kept_tokens([len(row) for row in ids])
    needs = estimate_needs(layers, group_size, tokens, 4 if device == "cpu" else 2, end.copies)
    check_needs(needs, output.resolve().parent, memory, disk)
    for note in end.notes():
        events.note(note)
    with unfinished(output) as run:
        ready = run.path / "model"
        ready.mkdir()
        began = time.monotonic()
        blocks = int(model.text_config.get("num_hidden_layers", 0))
        job = Job(
            source=model.path,
            target=ready,
            ids=ids,
            group_size=group_size,
            blocks=blocks,
            head=layers.head,
            device=device,
            dtype=model.dtype,
        )
        more = _run(end, job, settings, events)
        check_written(ready, layers, group_size)
        report = size_report(ready)
        figures = {
            "backend": end.name,
            "layout": end.layout,
            "versions": _versions(end),
            "bits": 4,
            "group_size": group_size,
            "grid": settings.grid,
            "seed": settings.seed,
            "calibration": {"samples": len(ids), "tokens": sum(map(len, ids)), **(record or {})},
            "device": device,
            "seconds": round(time.monotonic() - began, 1),
            "size": report.figures(),
            **more,
        }
        _complete(ready, model, figures)
        ready.rename(output)
    return report, figures


def _run(end: BackEnd, job: Job, settings: QuantizeSettings, events: QuantizeEvents) -> dict[str, Any]:
    try:
        return end.run(job, settings, events)
    except KeyboardInterrupt:
        raise RunInterrupted(
            "stopped; nothing is kept, as quantising cannot go on where it stopped: the same command starts over"
        ) from None


def choose_device(wanted: str) -> Device:
    """Return where calibration runs.

    Raises:
        JudgeError: `cuda` without a GPU, or `cpu` beside one, which both libraries would use all the same.
    """
    import torch

    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise JudgeError("--device=cuda, but no GPU is visible to PyTorch (or this is its CPU build); see nvidia-smi")
    if wanted == "cpu" and found:
        raise JudgeError(
            "--device=cpu, but both back ends take a GPU that they see: set CUDA_VISIBLE_DEVICES to nothing"
        )
    return "cuda" if found else "cpu"


def _complete(ready: Path, model: ModelFolder, figures: dict[str, Any]) -> None:
    """Add to a folder of 4-bit weights what makes it whole, and see that all of it is on the disk."""
    copy_tokenizer(model.path, ready)
    for name in _COPIED:
        if (model.path / name).exists():
            shutil.copyfile(model.path / name, ready / name)
    if model.judge is not None:
        write_judge_file(ready, model.judge.with_stage(STAGE, **figures))
    for path in ready.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
