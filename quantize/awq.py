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
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, RunInterrupted, printable
from judge.hardware.machine import available_memory
from judge.models.bundle import ModelFolder, copy_tokenizer
from judge.models.judge_file import write_judge_file
from judge.models.trained_rows import FILE as TRAINED_ROWS
from quantize.back_end import BackEnd, BackEndName, Device, Job, QuantizeSettings
from quantize.events import QuantizeEvents
from quantize.layers import check_written, choose_group_size, find_layers
from quantize.needs import check_needs, estimate_needs, free_disk
from quantize.size_report import SizeReport, size_report
from quantize.unfinished import check_output, unfinished

STAGE = "quantized"
# Copied beside the weights, byte for byte, where the source has them.
_COPIED = ("generation_config.json", TRAINED_ROWS)


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
    method = folder.quantization_method
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
    memory: Callable[[], int | None] = available_memory,
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
    if model.judge is not None and model.judge.calibration is not None:
        events.note(
            "the judge's calibration was fitted to its 16-bit verdicts and is left out of the 4-bit model: fit it anew "
            "with judge calibrate on the 4-bit judge's predictions"
        )
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
        write_judge_file(ready, model.judge.uncalibrated().with_stage(STAGE, **figures))
    for path in ready.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
