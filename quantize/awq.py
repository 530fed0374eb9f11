"""AWQ: the weights of all linear layers but the head in 4 bits, by one of two back ends behind one interface.

Activation-aware weight quantisation (Lin et al. 2023) scales the input channels of each layer, and scales the layer
before it inversely, so that rounding to 4 bits changes the output least on calibration prompts. Both back ends search
these scales and round asymmetrically in groups; they write different layouts. Embeddings, output head and norms keep
the source's 16-bit format. A float32 source becomes float16, which the 4-bit kernels were made for, or bfloat16 if a
value does not fit float16. AutoAWQ's layout is always float16.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, RunInterrupted, printable
from judge.files import check_new_folder
from judge.hardware.machine import available_memory
from judge.models.bundle import ModelFolder, copy_tokenizer
from judge.models.judge_file import write_judge_file
from judge.models.trained_rows import FILE as TRAINED_ROWS
from judge.runs.progress import Progress
from judge.version import versions
from quantize.back_end import BackEnd, Device, Job
from quantize.layers import SizeReport, check_written, choose_group_size, find_layers, size_report
from quantize.output import check_disk, check_memory, estimate_memory, free_disk, output_bytes, work_folder
from quantize.settings import BackEndName, QuantizeSettings

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

    end: BackEnd = LlmCompressor() if name == "llm-compressor" else AutoAwq()
    missing = [package for package in end.packages if package not in versions(end.packages)]
    if missing:
        raise JudgeError(
            f"--backend={end.name} needs {missing[0]}, which is not installed: pip install --no-deps "
            f"{' '.join(end.packages)}"
        )
    return end


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
    progress: Progress,
    *,
    record: dict[str, Any] | None = None,
    memory: Callable[[], int | None] = available_memory,
    disk: Callable[[Path], int] = free_disk,
) -> tuple[SizeReport, dict[str, Any]]:
    """Quantise a model folder and write the 4-bit one, whole or not at all.

    Args:
        ids: token ids of the calibration prompts, each whole.
        record: what else `judge.json` should say of the calibration data.
        memory, disk: return what is free, in bytes.

    Returns:
        The size, and the stage's figures as in `judge.json`.

    Raises:
        JudgeError: anything a user can mend.
        RunInterrupted: Ctrl-C; nothing is kept.
    """
    check_model(model)
    check_new_folder(output)
    end, device, layers = back_end(settings.backend), choose_device(settings.device), find_layers(model)
    reason = end.refusal(layers, str(model.config.get("model_type", "")))
    if layers.is_mixture:
        reason = f"{layers.architecture} is a mixture of experts, which judge quantize does not handle"
    if reason:
        raise JudgeError(f"{model.path}: {reason}")
    group_size = choose_group_size(layers.linear, settings.group_size)
    lengths = [len(row) for row in ids]
    kept = len(ids) * max(lengths) if end.padded else sum(lengths)
    check_disk(output, output_bytes(layers, group_size), "the 4-bit model", disk)
    check_memory(estimate_memory(layers, group_size, kept, 4 if device == "cpu" else 2, end.copies), memory)
    if end.note:
        progress.note(end.note)
    if model.judge is not None and model.judge.calibration is not None:
        progress.note(
            "the judge's calibration was fitted to its 16-bit verdicts and is left out of the 4-bit model: fit it anew "
            "with judge calibrate on the 4-bit judge's predictions"
        )
    with work_folder(output, "judge quantize") as ready:
        job = Job(model, layers, settings, ready, ids, group_size, device)
        report, figures = _run(end, job, record or {}, progress)
        _complete(ready, model, figures)
        ready.rename(output)
    return report, figures


def _run(end: BackEnd, job: Job, record: dict[str, Any], progress: Progress) -> tuple[SizeReport, dict[str, Any]]:
    began = time.monotonic()
    try:
        more = end.run(job, progress)
    except KeyboardInterrupt:
        raise RunInterrupted(
            "stopped; nothing is kept, as quantising cannot go on where it stopped: the same command starts over"
        ) from None
    check_written(job.target, job.layers, job.group_size)
    report = size_report(job.target)
    figures = {
        "backend": end.name,
        "layout": end.layout,
        "versions": versions(end.packages),
        "bits": 4,
        "group_size": job.group_size,
        "grid": job.settings.grid,
        "seed": job.settings.seed,
        "device": job.device,
        "calibration": {"samples": len(job.ids), "tokens": sum(map(len, job.ids)), **record},
        "seconds": round(time.monotonic() - began, 1),
        "size": report.figures(),
        **more,
    }
    return report, figures


def choose_device(wanted: str) -> Device:
    """Return where calibration runs.

    Raises:
        JudgeError: `cuda` without a GPU, or `cpu` on a machine with a GPU, which both libraries would use.
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
    """Add tokenizer, record and training rows to a folder of 4-bit weights, and flush all of it to the disk."""
    copy_tokenizer(model.path, ready)
    for name in _COPIED:
        if (model.path / name).exists():
            shutil.copyfile(model.path / name, ready / name)
    if model.judge is not None:
        write_judge_file(ready, model.judge.uncalibrated().with_stage(STAGE, **figures))
    for path in ready.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
