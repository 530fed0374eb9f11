"""What the machine has: GPUs with memory and compute capability, CPU cores and instruction sets.

It is read without torch: the main process imports nothing heavy and makes no CUDA context.
"""

from __future__ import annotations

import mmap
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from judge.errors import JudgeError

Dtype = Literal["float32", "float16", "bfloat16"]

GIB = 1 << 30
# What vLLM takes for AVX-512 (torch.cpu._is_avx512_supported).
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
_CPU_KERNEL = b"cpu_gemm_wna16"
# Share of the memory that NVML reports which CUDA sees at least (of a T4 14.56 of 15 GiB, `judge.hardware.cards`).
CUDA_SHARE = 0.97
_LARGE_CARD = 20 * GIB
# Model types that vLLM refuses in float16 (vllm/config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS).
NO_FLOAT16 = ("gemma2", "gemma3", "gemma3_text", "glm4")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One visible CUDA device."""

    device: str  # its name for CUDA_VISIBLE_DEVICES (an index or a UUID)
    name: str
    memory: int  # total, in bytes
    capability: tuple[int, int]  # compute capability, (7, 5) for a T4; from 8.0 a card has bfloat16


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves; an empty list without a driver."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        uuids = [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        gpus = [
            Gpu(
                device=str(i),  # in the order of the PCI bus, which engines are told to use too
                name=str(pynvml.nvmlDeviceGetName(handle)),
                memory=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
            )
            for i, handle in enumerate(handles)
        ]
    finally:
        pynvml.nvmlShutdown()
    return select_visible(gpus, uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))


def select_visible(gpus: list[Gpu], uuids: list[str], visible: str | None) -> list[Gpu]:
    """Apply CUDA_VISIBLE_DEVICES as CUDA does: by index or UUID, ending at the first unknown entry."""
    if visible is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in (e.strip() for e in visible.split(",")):
        matches = [
            g for g, uuid in zip(gpus, uuids, strict=True) if entry and (entry == g.device or uuid.startswith(entry))
        ]
        if not matches:
            break
        chosen.append(matches[0])
    return chosen


def usable_gpus(device: str) -> list[Gpu]:
    """Return the GPUs to run on: none for `cpu`, and none for `auto` if vLLM is a CPU build.

    Raises:
        JudgeError: `cuda` was asked for and there is none.
    """
    if device == "cpu":
        return []
    gpus, cpu_build = visible_gpus(), is_installed("vllm-cpu")
    if device == "cuda" and not gpus:
        raise JudgeError("--device=cuda: no GPU is visible (see nvidia-smi and CUDA_VISIBLE_DEVICES)")
    if device == "cuda" and cpu_build:
        raise JudgeError("--device=cuda: the CPU build of vLLM is installed; install judge with its CUDA build")
    return [] if cpu_build else gpus


def is_installed(distribution: str) -> bool:
    """Whether a distribution is installed here."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def cpu_cores() -> list[int]:
    """Return the numbers of the CPU cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def available_memory() -> int | None:
    """Return the bytes of memory that are free, within the limit of a container; None if Linux does not tell."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    free = [int(match[1]) * 1024] if match else []
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        limit, used = "max", "0"
    if limit.isdigit() and used.isdigit():
        free.append(max(int(limit) - int(used), 0))
    return min(free, default=None)


def cpu_flags() -> frozenset[str]:
    """Return the instruction sets of the CPU, as Linux names them; an empty set if it does not tell."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(flags[1].split()) if flags else frozenset()


def cpu_has_fast_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 (AVX-512 BF16 or AMX); without them float32 is faster."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def vllm_cpu_library(flags: frozenset[str], machine: str) -> str:
    """Return the name of the library that vLLM loads on a CPU (vllm/platforms/cpu.py, import_kernels)."""
    if machine not in ("x86_64", "AMD64") or flags >= _AVX512 | {"avx512_bf16"}:
        return "_C"
    return "_C_AVX512" if flags >= _AVX512 else "_C_AVX2"


def vllm_has_cpu_kernel() -> bool:
    """Whether vLLM's library for this CPU has a kernel for 4-bit weights, whose name is looked for in the library."""
    vllm = find_spec("vllm")
    if vllm is None or vllm.origin is None:
        return False
    name = vllm_cpu_library(cpu_flags(), platform.machine())
    for library in Path(vllm.origin).parent.glob(f"{name}.*so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(_CPU_KERNEL) >= 0:
                return True
    return False


def choose_dtype(
    requested: Literal["auto", Dtype],
    model_dtype: str,
    gpus: Sequence[Gpu],
    model_type: str = "",
    packed: bool = False,
) -> Dtype:
    """Return the arithmetic to run a model in: float32, float16 or bfloat16.

    Args:
        requested: `auto` or one of the three.
        model_dtype: what the model's config says it was saved in.
        gpus: the visible GPUs; none means CPU.
        model_type: for models that vLLM refuses in float16: they run in bfloat16 if all cards have it.
        packed: quantised weights are read as they are, by kernels that compute in 16 bits. On a CPU float16 is ten
            times closer to float32 than bfloat16 (SmolLM2-135M), and the kernel is as fast in both.

    Raises:
        JudgeError: bfloat16 was asked for on a GPU that does not have it.
    """
    lacking = next((gpu for gpu in gpus if gpu.capability < (8, 0)), None)
    if requested == "bfloat16" and lacking:
        major, minor = lacking.capability
        raise JudgeError(f"{lacking.name} (compute capability {major}.{minor}) has no bfloat16; use --dtype=float16")
    if requested != "auto":
        return requested
    half: Dtype = "bfloat16" if model_type in NO_FLOAT16 else "float16"
    if gpus:
        return "float16" if lacking else half if model_dtype == "float16" else "bfloat16"
    if model_dtype == "bfloat16" and cpu_has_fast_bfloat16():
        return "bfloat16"
    return half if packed else "float32"


def default_batch_tokens(gpus: Sequence[Gpu]) -> int:
    """Return how many tokens one step of the engine reads if the user does not say.

    On a card of 16 GB half the tokens leave 1 GiB more for weights (an 8B: 0.4 GiB of activations, and the cache of a
    whole step); 4,096 rows keep its matrix units as busy as 8,192, and a step takes seconds there.
    """
    return 8192 if gpus and min(g.memory for g in gpus) >= _LARGE_CARD else 4096


def choose_parallel(
    requested: str,
    weights: int,
    gpus: Sequence[Gpu],
    heads: int,
    utilization: float,
    besides: Callable[[int], float] = lambda _: 1.5 * GIB,
) -> tuple[int, int]:
    """Decide how a model is spread over the GPUs.

    Args:
        requested: `data` (a copy on each), `tensor` (one copy over all) or `auto` (tensor parallel over
            as few cards as hold the model, and only when one card does not).
        weights: bytes of the model's weights.
        heads: attention heads, which tensor parallelism must divide.
        utilization: share of each card's memory that the engine may use.
        besides: bytes that each card needs besides the weights, given the number of cards of a copy
            (`judge.hardware.memory.besides`). An estimate, so it does not overrule `data` and `tensor`.

    Returns:
        Number of workers, and cards per worker.

    Raises:
        JudgeError: the model does not fit on all cards together, or the heads cannot be divided.
    """
    if not gpus:
        return 1, 1
    usable = min(g.memory for g in gpus) * CUDA_SHARE * utilization
    sizes = [n for n in range(1, len(gpus) + 1) if heads % n == 0]
    if requested in ("data", "tensor"):
        cards = 1 if requested == "data" else len(gpus)
        if cards not in sizes:
            raise JudgeError(f"{heads} attention heads cannot be divided over {len(gpus)} GPUs; use --parallel=auto")
        if weights / cards > usable:
            raise JudgeError(_does_not_fit(weights, cards, gpus, 0, usable))
        return len(gpus) // cards, cards
    fitting = [n for n in sizes if weights / n + besides(n) <= usable]
    if not fitting:
        raise JudgeError(_does_not_fit(weights, sizes[-1], gpus, besides(sizes[-1]), usable))
    return len(gpus) // fitting[0], fitting[0]


def _does_not_fit(weights: int, cards: int, gpus: Sequence[Gpu], besides: float, usable: float) -> str:
    more = f" and {besides / GIB:.1f} GiB for each card's work" if besides else ""
    other = "use a quantised model or more cards" if cards == len(gpus) else "use --parallel=auto or a quantised model"
    return (
        f"the weights ({weights / GIB:.1f} GiB){more} do not fit on {cards} x {gpus[0].name} "
        f"({usable / GIB:.1f} GiB each for the engine); {other}"
    )
