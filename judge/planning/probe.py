"""This machine's own rates for a model that need not be there: its geometry with random weights in the real engine.

What a product costs does not depend on its numbers, so vLLM is started with `load_format="dummy"` on the config alone,
with as many layers as memory and time allow. Two depths give what one layer costs and what does not depend on depth;
from these follow the times of the full depth, and from the times at several lengths the model of `time_model`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from judge.errors import JudgeError
from judge.hardware import machine as hardware
from judge.models.arithmetic import ModelShape
from judge.planning.measure import Prompt, dealt, read_group, wait_until_ready
from judge.planning.random_engine import Machine, engine_pool, machine_of, runnable_config, with_layers
from judge.planning.time_model import Point, TimeModel, fit

# Lengths at these quantiles of a table's are measured, each so many times.
QUANTILES = (0.05, 0.5, 0.98)
# Half-width of the range at least, in logarithms: a minute of probing does not see that a machine's own speed changes
# by a tenth within minutes (docs/results.md).
LEAST_SPREAD = 0.15
REPEATS = 2
# Layers of the first engine; up to twice as many are measured at once.
FEW_LAYERS = 2
# Share of the free memory that the weights may take.
_MEMORY_SHARE = 0.6
# Batches that a measured group fills on a card, where the first and last steps of a job would weigh too much.
_BATCHES = {"cpu": 1, "cuda": 3}


def probe(
    config: Mapping[str, Any],
    lengths: ArrayLike,
    *,
    device: str = "auto",
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    engines: int = 1,
    cards: int = 1,
    gpu_memory_utilization: float = 0.9,
    batch_tokens: int | None = None,
    seconds: float = 60.0,
    say: Callable[[str], None] = print,
) -> TimeModel:
    """Measure what a model would cost here, with random weights, and return its time model. Leaves nothing behind.

    Args:
        config: the model's config.json.
        lengths: tokens of the prompts that the model is to read, shape (rows,); their quantiles are measured.
        device: `auto`, `cpu` or `cuda`.
        dtype: arithmetic of the engine; `auto` is what `judge score` takes.
        engines: processes that read at the same time, as `judge score --workers` or one a card.
        cards: cards of each engine.
        batch_tokens: most tokens in one step; None: as `judge score`.
        seconds: about how long the measuring may take, besides starting the engine once or twice.
        say: told how far it is.

    Raises:
        JudgeError: the config describes no such model, or the engine does not start with it.
    """
    shape = ModelShape.from_config(config)
    machine = machine_of(shape, device, dtype, engines, cards, gpu_memory_utilization, batch_tokens)
    wanted = _lengths(lengths, shape)
    config = runnable_config(config, packed=bool(machine.gpus) or hardware.vllm_has_cpu_kernel())
    few = shape.layers if shape.layers <= 2 * FEW_LAYERS else FEW_LAYERS
    groups = _groups(wanted, machine, shape.vocab)
    say(f"probing with random weights: {few} of {shape.layers} layers, prompts of {_listed(wanted)} tokens")
    began = time.monotonic()
    shallow = _measure(with_layers(config, few), machine, groups)
    spent = time.monotonic() - began
    if few == shape.layers:
        return _fitted(_points(shape, groups, shallow), machine)
    deep = _more_layers(shape, config, machine, sum(map(sum, shallow)), few, seconds)
    say(f"probing with {deep} of {shape.layers} layers ({spent:.0f} s so far)")
    deeper = _measure(with_layers(config, deep), machine, groups)
    shapes = [ModelShape.from_config(with_layers(config, n)) for n in (few, deep)]
    full = [
        _extrapolated(_flops(shapes[0], group), _flops(shapes[1], group), _flops(shape, group), times, deeper_times)
        for group, times, deeper_times in zip(groups, shallow, deeper, strict=True)
    ]
    return _fitted(_points(shape, groups, full), machine)


def _fitted(points: Sequence[Point], machine: Machine) -> TimeModel:
    model = fit(points, source=_source(machine))
    return replace(model, spread=max(model.spread, LEAST_SPREAD))


def _source(machine: Machine) -> str:
    where = f"{machine.engines * machine.cards} x {machine.gpus[0].name}" if machine.gpus else "this CPU"
    return f"measured on {where} in {machine.dtype} with random weights"


def _listed(lengths: Sequence[int]) -> str:
    return ", ".join(map(str, lengths))


def _lengths(lengths: ArrayLike, shape: ModelShape) -> list[int]:
    """Return the lengths to measure, the shortest first."""
    given = np.asarray(lengths, dtype=np.float64).ravel()
    given = given[np.isfinite(given) & (given >= 1)]
    if len(given) == 0:
        raise JudgeError("a probe needs the lengths of the prompts that are to be read")
    most = (shape.max_positions or 1 << 30) - 1
    return sorted({min(max(round(float(q)), 16), most) for q in np.quantile(given, QUANTILES)})


def _groups(lengths: Sequence[int], machine: Machine, vocab: int) -> list[list[Prompt]]:
    """Return random prompts of each length, enough to fill the engines' batches."""
    rng = np.random.default_rng(0)
    tokens = machine.batch_tokens * _BATCHES[machine.device] * machine.engines
    counts = [max(round(tokens / length), machine.engines) for length in lengths]
    return [
        [rng.integers(0, vocab, length, dtype=np.int32) for _ in range(count)]
        for length, count in zip(lengths, counts, strict=True)
    ]


def _measure(config: Mapping[str, Any], machine: Machine, groups: Sequence[Sequence[Prompt]]) -> list[list[float]]:
    """Return the seconds of each group, `REPEATS` times, for a model with random weights."""
    with tempfile.TemporaryDirectory(prefix="judge-probe-") as name:
        folder = Path(name)
        pool = engine_pool(folder, config, machine, max(len(prompt) for group in groups for prompt in group))
        try:
            wait_until_ready(pool, groups[0][0])
            read_group(pool, _parts(groups[-1], machine))  # what is made at first use is made now
            times: list[list[float]] = [[] for _ in groups]
            for _ in range(REPEATS):  # in turn, so that a machine whose speed drifts slows all lengths alike
                for group, found in zip(groups, times, strict=True):
                    found.append(read_group(pool, _parts(group, machine))[0])
            return times
        except JudgeError as error:
            raise JudgeError(f"the probe with random weights failed: {str(error).split(' (its log: ')[0]}") from None
        finally:
            pool.close()


def _parts(group: Sequence[Prompt], machine: Machine) -> list[list[Prompt]]:
    return [[group[i] for i in part] for part in dealt([len(p) for p in group], machine.engines)]


def _more_layers(
    shape: ModelShape, config: Mapping[str, Any], machine: Machine, measured: float, few: int, seconds: float
) -> int:
    """Return the depth of the second engine: all layers, or what memory and time leave."""
    each = 4 if machine.dtype == "float32" else 2
    base = ModelShape.from_config(with_layers(config, few)).weight_bytes(each)
    layer = (ModelShape.from_config(with_layers(config, few + 1)).weight_bytes(each) - base) or 1.0
    if machine.gpus:
        free = min(gpu.memory for gpu in machine.gpus) * machine.cards * machine.utilization
    else:
        free = (hardware.available_memory() or 8 * hardware.GIB) / machine.engines
    by_memory = few + int((free * _MEMORY_SHARE - base) / layer)
    # as if nothing but layers had taken the time, and with the first group read once more
    by_time = int(few * seconds / max(measured * (1 + 1 / REPEATS), 1e-3))
    return max(min(shape.layers, by_memory, by_time), few + 1)


def _flops(shape: ModelShape, group: Sequence[Prompt]) -> float:
    return float(shape.flops([len(prompt) for prompt in group]).sum())


def _extrapolated(
    few: float, deep: float, full: float, shallow: Sequence[float], deeper: Sequence[float]
) -> list[float]:
    """Return a group's seconds at full depth, for each repeat: in a straight line over the layers' FLOPs.

    Args:
        few, deep, full: FLOPs of the group at the three depths.
        shallow, deeper: seconds at the first two.
    """
    if deep >= full:
        return list(deeper)
    base = min(shallow)  # noise only adds time
    slopes = [max(time - base, 1e-6) / (deep - few) for time in deeper]
    return [time + slope * (full - deep) for time, slope in zip(deeper, slopes, strict=True)]


def _points(shape: ModelShape, groups: Sequence[Sequence[Prompt]], times: Sequence[Sequence[float]]) -> list[Point]:
    return [
        Point(_flops(shape, group), len(group), sum(map(len, group)), seconds)
        for group, found in zip(groups, times, strict=True)
        for seconds in found
    ]
