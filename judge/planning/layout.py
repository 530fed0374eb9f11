"""How a model is laid out on cards: copies, memory of each card, and what vLLM refuses there.

The memory follows vLLM (`gpu_worker.determine_available_memory`). The engine may use a share of a card. Weights, the
peak of one step's activations and what CUDA takes come off it; the cache gets the rest, and must hold one prompt. The
function that `judge score` uses decides the number of copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from judge.engine.expand import without_quantization
from judge.errors import JudgeError
from judge.hardware.cards import Card
from judge.hardware.kernels import support
from judge.hardware.machine import GIB, Gpu, choose_parallel, default_batch_tokens
from judge.hardware.memory import CUDA_BYTES, ENGINE_BYTES, LEAST_CACHE, NCCL_BYTES, activation_bytes, besides
from judge.models.arithmetic import ModelShape
from judge.planning.card_time import Engine
from judge.scoring.settings import ScoreSettings

_BATCH_ROWS = 128  # of make_pool in judge.engine.choose


@dataclass(frozen=True)
class Memory:
    """Bytes of one card.

    Attributes:
        usable: what the engine may take; 0 if it is not known.
        weights, activations, other: what it takes before the cache.
        prompt_cache: key-value cache of the longest prompt.
    """

    usable: float
    weights: float
    activations: float
    other: float
    prompt_cache: float

    @property
    def cache(self) -> float:
        """What is left for the key-value cache; negative if the rest already takes too much."""
        return self.usable - self.weights - self.activations - self.other


@dataclass(frozen=True)
class Layout:
    """A model on a machine.

    Attributes:
        workers, cards_each: engines, and cards of each.
        dtype: arithmetic.
        kernel: what reads 4-bit weights; empty for plain weights.
        attention: the attention backend.
        engine: what each engine runs, for the time model.
        memory: of one card (of the machine, on a CPU).
        problems: why it cannot work; empty if it can.
        notes: what a user should know although it works.
    """

    workers: int
    cards_each: int
    dtype: str
    kernel: str
    attention: str
    engine: Engine
    memory: Memory
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """Cards of one model, or a CPU with its cores and free memory in bytes."""

    card: Card
    count: int = 1
    cores: int = 0
    free_memory: int = 0

    def __str__(self) -> str:
        if self.card.is_cpu:
            return f"CPU, {self.cores} cores"
        return f"{self.count} x {self.card.name}"

    def gpus(self) -> list[Gpu]:
        """Return the cards as `judge score` would see them."""
        each = (self.card.name, self.card.memory, self.card.capability)
        return [] if self.card.is_cpu else [Gpu(str(i), *each) for i in range(self.count)]


def lay_out(
    shape: ModelShape, config: Mapping[str, Any], machine: Machine, settings: ScoreSettings, longest: int
) -> Layout:
    """Return how `judge score` would run a model on a machine.

    Args:
        config: the model's config.json, for the rules about kernels.
        longest: tokens of the longest prompt that the engine is told of.
    """
    if settings.weights == "expanded" and shape.bits < 16:
        shape, config = replace(shape, bits=16, dtype="float32"), without_quantization(config)
    card, problems, notes = machine.card, list[str](), list[str]()
    found = support(config, card, settings.dtype)
    width = 4 if found.dtype == "float32" else 2
    batch = settings.batch_tokens or default_batch_tokens(machine.gpus())  # as `judge.engine.choose` chooses them
    workers, cards = settings.workers, 1
    if found.expanded:
        notes.append("no kernel for these packed weights here: they are expanded to 32 bits, on disk and in memory")
        shape = replace(shape, bits=16, dtype="float32")
    if not card.is_cpu:
        other = besides(config, batch, _BATCH_ROWS, longest + 1, width)
        share, weights = settings.gpu_memory_utilization, int(shape.weight_bytes(width))
        try:
            workers, cards = choose_parallel(settings.parallel, weights, machine.gpus(), shape.heads, share, other)
        except JudgeError as error:
            problems.append(str(error))
            apart = settings.parallel == "data"  # the plan shows what the user asked for
            cards = 1 if apart else max(n for n in range(1, machine.count + 1) if shape.heads % n == 0)
            workers = machine.count if apart else 1
        found = support(config, card, settings.dtype, cards)
        if idle := machine.count - workers * cards:
            has = "has" if idle == 1 else "have"
            notes.append(f"{idle} of {machine.count} cards {has} nothing to do: a copy takes {cards}")
    engine = Engine(shape, card, cards, width, batch)
    memory = _memory(shape, settings, machine, engine, longest)
    if not problems:
        problems = _memory_problems(memory, engine, longest)
    refused = (*found.refusals, *problems)
    return Layout(workers, cards, found.dtype, found.kernel, found.attention, engine, memory, refused, tuple(notes))


def _memory(shape: ModelShape, settings: ScoreSettings, machine: Machine, engine: Engine, longest: int) -> Memory:
    width = engine.bytes_per_value
    activations = activation_bytes(shape, engine.batch_tokens, _BATCH_ROWS, width, engine.cards)
    cache = shape.cache_bytes_per_token(width) / min(engine.cards, shape.kv_heads) * (longest + 1)
    if machine.card.is_cpu:
        room = 2 * shape.cache_bytes_per_token(width) * (engine.batch_tokens + longest)  # as make_pool sets it aside
        each = (shape.weight_bytes(width), activations, ENGINE_BYTES, max(room, LEAST_CACHE))
        return Memory(machine.free_memory, *(settings.workers * part for part in each))
    other = CUDA_BYTES + (NCCL_BYTES if engine.cards > 1 else 0)
    usable = machine.card.usable * settings.gpu_memory_utilization
    return Memory(usable, shape.weight_bytes(width) / engine.cards, activations, other, cache)


def _memory_problems(memory: Memory, engine: Engine, longest: int) -> list[str]:
    if memory.cache >= memory.prompt_cache or not memory.usable:
        return []
    if engine.card.is_cpu:
        needed = (memory.usable - memory.cache + memory.prompt_cache) / GIB
        return [f"needs {needed:.1f} GiB of memory, and {memory.usable / GIB:.1f} GiB are free"]
    taken = f"{memory.weights / GIB:.1f} GiB of weights, {memory.activations / GIB:.1f} of activations"
    return [
        f"out of memory: {taken} (a step of {engine.batch_tokens:,} tokens) and {memory.other / GIB:.1f} of CUDA leave "
        f"{max(memory.cache, 0) / GIB:.1f} of {memory.usable / GIB:.1f} GiB for the cache, and a prompt of {longest:,} "
        f"tokens needs {memory.prompt_cache / GIB:.1f}"
    ]
