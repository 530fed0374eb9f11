"""Whether an engine runs a model on this machine: kernels, arithmetic, adapter, memory."""

from __future__ import annotations

from collections.abc import Iterator

from judge.doctor.cards import UTILIZATION
from judge.doctor.finding import Finding, from_error, note, ok, problem
from judge.doctor.machine import disk_findings
from judge.engine.weights import Weights, choose_weights
from judge.errors import JudgeError, counted, printable
from judge.hardware.kernels import obstacles, support
from judge.hardware.machine import GIB, Dtype, Gpu, choose_parallel, default_batch_tokens
from judge.hardware.memory import ENGINE_BYTES, LEAST_CACHE, besides
from judge.models.adapter import refuse_adapter
from judge.models.bundle import ModelFolder
from judge.models.prompting import choose_budget
from judge.scoring.settings import ScoreSettings

_BATCH_ROWS = 128  # judge.engine.choose.make_pool


def engine_findings(model: ModelFolder, gpus: list[Gpu], memory: int | None) -> Iterator[Finding]:
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
    budget = choose_budget(model, ScoreSettings()).max_tokens
    yield from _card_findings(weights, dtype, budget, gpus) if gpus else _cpu_findings(weights, dtype, budget, memory)


def _card_findings(weights: Weights, dtype: Dtype, budget: int, gpus: list[Gpu]) -> Iterator[Finding]:
    """Yield what stands against the model on these cards, or else how it is spread over them."""
    model, width = weights.model, 4 if dtype == "float32" else 2
    size = weights.loaded_bytes(width)
    other = besides(model.config, default_batch_tokens(gpus), _BATCH_ROWS, budget + 1, width)
    copies, cards = 0, 1
    try:
        copies, cards = choose_parallel("auto", size, gpus, model.heads, UTILIZATION, other)
    except JudgeError as error:
        yield from_error(error)
    spread = f"a copy on each of {counted(copies, 'card')}" if cards == 1 else f"each copy over {cards} cards"
    for gpu in {gpu.name: gpu for gpu in gpus}.values():
        found = obstacles(model.config, gpu, dtype, cards, packed=weights.way == "stored")
        yield from (from_error(JudgeError(reason)) for reason in found)
        if copies and not found:
            answer = support(model.config, gpu, cards_each=cards)
            kernel = f", {answer.kernel} for packed weights" if answer.kernel else ""
            yield ok(
                f"{dtype} on {printable(gpu.name)}, {spread}: {size / cards / GIB:.1f} GiB of weights a card; "
                f"attention by {answer.attention}{kernel}"
            )


def _cpu_findings(weights: Weights, dtype: Dtype, budget: int, memory: int | None) -> Iterator[Finding]:
    """Yield how the weights are read, and whether an engine has enough memory."""
    if weights.quantization is not None and weights.expansion is None:
        yield ok(f"quantised weights ({weights.quantization.name}) are read by vLLM's own kernel for this CPU")
    width = 4 if dtype == "float32" else 2
    size = weights.loaded_bytes(width)
    cache = weights.model.cache_bytes_per_token(width) * 2 * (default_batch_tokens([]) + budget)
    need = size + max(cache, LEAST_CACHE) + ENGINE_BYTES
    text = f"{dtype} on the CPU: about {need / GIB:.1f} GiB of memory for one engine ({size / GIB:.1f} GiB of weights)"
    if memory is None:
        yield ok(text)
    elif need > memory:
        yield problem(f"{text}, and {memory / GIB:.1f} GiB are free", "end other programs, or use a smaller model")
    else:
        yield ok(f"{text}; {memory / GIB:.1f} GiB are free")
