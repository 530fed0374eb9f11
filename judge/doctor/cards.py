"""The NVIDIA driver and its cards, as the driver's own library (NVML) tells them, and what they mean for an engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from judge.doctor.finding import Finding, from_error, note, ok, problem
from judge.errors import JudgeError, counted, printable
from judge.hardware.kernels import capability_obstacle
from judge.hardware.machine import GIB, Gpu, select_visible

# Lowest driver for applications of a CUDA major version (docs.nvidia.com/deploy/cuda-compatibility).
MIN_DRIVER = {11: 450, 12: 525, 13: 580}
UTILIZATION = 0.9  # `judge score --gpu-memory-utilization`
_USEFUL_SHARE = 0.3  # of a card; in less, few models run well
_MUCH = GIB // 2  # memory of a card that a desktop or an idle driver does not hold


@dataclass(frozen=True)
class Card:
    """One card of the machine as it is now.

    Attributes:
        free: bytes that no program holds.
        processes: process id and bytes of each program that computes on the card, as far as the driver shows it: other
            containers' programs are hidden.
    """

    gpu: Gpu
    uuid: str
    free: int
    processes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Driver:
    """What the driver says.

    Attributes:
        cuda: the newest CUDA version that it runs, such as (13, 0); None if it does not say.
        error: why it cannot be asked; empty if it answered, or if this machine has no driver.
    """

    version: str = ""
    cuda: tuple[int, int] | None = None
    cards: tuple[Card, ...] = ()
    error: str = ""

    def visible(self) -> list[Card]:
        """Return the cards that CUDA_VISIBLE_DEVICES leaves."""
        by_name = {card.gpu.device: card for card in self.cards}
        uuids = [card.uuid for card in self.cards]
        chosen = select_visible([card.gpu for card in self.cards], uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return [by_name[gpu.device] for gpu in chosen]


def read_driver(nvml: Any = None) -> Driver:
    """Ask the driver.

    Args:
        nvml: an object with the functions of the module pynvml; pynvml itself if not given.
    """
    if nvml is None:
        try:
            nvml = import_module("pynvml")
        except ImportError:
            return Driver(error="the package nvidia-ml-py is missing")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        # a machine without a card has no driver
        absent = "library not found" in str(error).lower()
        return Driver(error="" if absent else str(error))
    try:
        version = _text(nvml.nvmlSystemGetDriverVersion())
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion())
        cards = tuple(_read_card(nvml, i) for i in range(nvml.nvmlDeviceGetCount()))
        return Driver(version, (cuda // 1000, cuda % 1000 // 10), cards)
    except nvml.NVMLError as error:
        return Driver(error=str(error))
    finally:
        nvml.nvmlShutdown()


def _read_card(nvml: Any, number: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:  # not allowed in some containers
        running = []
    capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
    return Card(
        Gpu(str(number), _text(nvml.nvmlDeviceGetName(handle)), int(memory.total), (capability[0], capability[1])),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        free=int(memory.free),
        processes=tuple((int(p.pid), int(p.usedGpuMemory or 0)) for p in running if p.pid != os.getpid()),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def driver_findings(driver: Driver, torch_cuda: str | None) -> Iterator[Finding]:
    """Yield whether the driver can run CUDA programs.

    Args:
        torch_cuda: the CUDA version that the installed torch was built for; None for a CPU build or without torch.
    """
    if driver.error:
        advice = "restart the machine" if "mismatch" in driver.error.lower() else "see what nvidia-smi says"
        yield problem(f"the NVIDIA driver cannot be asked ({printable(driver.error, 160)})", advice)
        return
    if not driver.cards:
        found = f"NVIDIA driver {driver.version} without a card" if driver.version else "no NVIDIA driver or card"
        yield note(found, "engines run on the CPU; on a machine with a card, see nvidia-smi (docker run --gpus all)")
        return
    cuda = ".".join(map(str, driver.cuda)) if driver.cuda else "unknown"
    name = f"NVIDIA driver {printable(driver.version)}, CUDA up to {cuda}"
    wanted = int(torch_cuda.split(".")[0]) if torch_cuda else None
    if wanted and driver.cuda and driver.cuda[0] < wanted:
        newer = f"driver {MIN_DRIVER[wanted]} or newer" if wanted in MIN_DRIVER else "a newer driver"
        yield problem(
            f"{name}, and torch is built for CUDA {torch_cuda}",
            f"install {newer}, or vLLM and torch builds for CUDA {driver.cuda[0]}",
        )
    else:
        yield ok(name)
    hidden = len(driver.cards) - len(driver.visible())
    if hidden:
        setting = f"CUDA_VISIBLE_DEVICES={printable(os.environ['CUDA_VISIBLE_DEVICES'])}"
        yield note(
            f"{setting} hides {hidden} of {counted(len(driver.cards), 'card')}",
            "unset it to use them all",
        )


def card_findings(cards: Sequence[Card], utilization: float = UTILIZATION) -> Iterator[Finding]:
    """Yield for each card its memory, what it can compute, and which other programs hold memory there."""
    for card in cards:
        yield _card_finding(card)
        yield from _memory_findings(card, utilization)
    kinds = {(card.gpu.name, card.gpu.memory) for card in cards}
    if len(kinds) > 1:
        yield note(
            f"cards of {len(kinds)} kinds: judge plans for the smallest and the oldest",
            "choose cards of one kind with CUDA_VISIBLE_DEVICES if the run should use all of a large one's memory",
        )


def _card_finding(card: Card) -> Finding:
    gpu = card.gpu
    name = f"card {gpu.device}: {printable(gpu.name)}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    obstacle = capability_obstacle(gpu)
    if obstacle:
        return from_error(JudgeError(f"card {gpu.device}: {obstacle}"))
    memory = f"{gpu.memory / GIB:.1f} GiB, {card.free / GIB:.1f} GiB free"
    if gpu.capability < (8, 0):
        return note(
            f"{name}, {memory}: no bfloat16, and attention runs on vLLM's Triton kernels",
            "judge takes float16; Gemma-2, Gemma-3 and GLM-4 do not run in it: choose Qwen, Llama or Mistral",
        )
    return ok(f"{name}, {memory}")


def _memory_findings(card: Card, utilization: float) -> Iterator[Finding]:
    """Yield who holds a card's memory. vLLM refuses to start if less than its share is free (`request_memory`)."""
    used = card.gpu.memory - card.free
    if used < _MUCH:
        return
    named = [f"process {pid}" + (f" {size / GIB:.1f} GiB" if size else "") for pid, size in card.processes]
    who = ", ".join(named) or "by no process seen here"
    held = f"card {card.gpu.device}: {used / GIB:.1f} GiB are held ({who})"
    share = int(card.free / card.gpu.memory * 100) / 100
    if card.free < utilization * card.gpu.memory:
        smaller = f", or pass --gpu-memory-utilization={share - 0.01:.2f}" if share >= _USEFUL_SHARE else ""
        yield problem(f"{held}, and an engine wants {utilization:.0%} of the card", f"end that program{smaller}")
    else:
        yield note(held, "end that program for the full speed and memory")
