"""Whether an engine runs a model on this machine: kernels, arithmetic, adapter, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from judge.doctor.cards import UTILIZATION
from judge.doctor.finding import Finding, from_error, note, ok, problem
from judge.doctor.machine import disk_findings
from judge.engine.weights import Weights, choose_weights
from judge.errors import JudgeError, counted, printable
from judge.hardware import machine
from judge.hardware.kernels import obstacles, support
from judge.hardware.machine import GIB, Gpu
from judge.hardware.memory import ENGINE_BYTES, LEAST_CACHE, besides
from judge.models.adapter import refuse_adapter
from judge.models.bundle import ModelFolder
from judge.models.prompting import choose_budget
from judge.scoring.settings import ScoreSettings

_BATCH_ROWS = 128  # judge.engine.choose.make_pool


def engine_findings(model: ModelFolder, gpus: Sequence[Gpu], memory: int | None) -> Iterator[Finding]:
    """Yield how `judge score` would run a model here with its default settings.

    Args:
        gpus: the cards to run on, none for a CPU.
        memory: bytes of the machine's memory that are free, None if unknown.
    """
    weights = choose_weights(model, "auto", "vllm", "auto", gpus)
    dtype = weights.choose_dtype("auto", gpus)
    try:
        refuse_adapter(model, "vllm", dtype, "cuda" if gpus else "cpu", weights.shapes if model.adapter else None)
    except JudgeError as error:
        yield from_error(error)
    if (copy := weights.expansion) is not None:
        yield note(
            f"quantised weights are read from a 32-bit copy here ({copy.size / 1e9:,.2f} GB, slower), since "
            f"{weights.why}",
            "for full speed use a card of compute capability 7.5 or more, or a CPU with AVX-512",
        )
        if not copy.is_made():
            yield from disk_findings({"cache": copy.folder.parent}, {"cache": copy.size})
    size = weights.loaded_bytes(4 if dtype == "float32" else 2)
    if gpus:
        yield from _card_findings(model, weights, dtype, size, gpus)
    else:
        yield from _cpu_findings(model, weights, dtype, size, memory)


def _card_findings(
    model: ModelFolder, weights: Weights, dtype: machine.Dtype, size: int, gpus: Sequence[Gpu]
) -> Iterator[Finding]:
    """Yield what stands against the model on these cards, or else how it is spread over them."""
    budget = choose_budget(model, ScoreSettings()).max_tokens
    batch = machine.default_batch_tokens(gpus)
    other = besides(model.config, batch, _BATCH_ROWS, budget + 1, 4 if dtype == "float32" else 2)
    cards = 1
    try:
        copies, cards = machine.choose_parallel("auto", size, gpus, model.heads, UTILIZATION, other)
    except JudgeError as error:
        copies = 0
        yield from_error(error)
    packed = weights.way == "stored"
    for gpu in {gpu.name: gpu for gpu in gpus}.values():
        found = obstacles(model.config, gpu, dtype, cards, packed)
        for reason in found:
            yield from_error(JudgeError(reason))
        if found or not copies:
            continue
        answer = support(model.config, gpu, cards_each=cards)
        spread = f"a copy on each of {counted(copies, 'card')}" if cards == 1 else f"each copy over {cards} cards"
        kernel = f", {answer.kernel} for packed weights" if answer.kernel else ""
        yield ok(
            f"{dtype} on {printable(gpu.name)}, {spread}: {size / cards / GIB:.1f} GiB of weights a card; attention by "
            f"{answer.attention}{kernel}"
        )


def _cpu_findings(
    model: ModelFolder, weights: Weights, dtype: machine.Dtype, size: int, memory: int | None
) -> Iterator[Finding]:
    if weights.quantization is not None and weights.expansion is None:
        yield ok(f"quantised weights ({weights.quantization.name}) are read by vLLM's own kernel for this CPU")
    budget = choose_budget(model, ScoreSettings()).max_tokens
    batch = machine.default_batch_tokens([])
    cache = model.cache_bytes_per_token(4 if dtype == "float32" else 2) * 2 * (batch + budget)
    need = size + max(cache, LEAST_CACHE) + ENGINE_BYTES
    text = f"{dtype} on the CPU: about {need / GIB:.1f} GiB of memory for one engine ({size / GIB:.1f} GiB of weights)"
    if memory is not None and need > memory:
        yield problem(f"{text}, and {memory / GIB:.1f} GiB are free", "end other programs, or use a smaller model")
    else:
        yield ok(text + (f"; {memory / GIB:.1f} GiB are free" if memory is not None else ""))
