"""A plan as plain text for a terminal, and as an object for `--json`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from judge.cli.words import aligned
from judge.errors import counted, printable
from judge.hardware.machine import GIB
from judge.planning.forecast import GOOD, Outcome, forecast
from judge.planning.plan import ScoringPlan
from judge.planning.time_model import TimeRange

_BILLION = 1e9


def text_lines(plan: ScoringPlan) -> Iterator[str]:
    """Yield a plan as aligned lines of plain text; the verdict and what would fit come last."""
    yield from aligned(list(_heading(plan)), [9])
    yield ""
    yield from aligned([*_what_runs(plan.outcome), *_memory(plan)], [9])
    if plan.outcome.works:
        yield ""
        yield from aligned(list(_time(plan)), [9])
    yield ""
    yield verdict_line(plan.outcome, plan.deadline)
    for problem in plan.outcome.layout.problems[1:]:
        yield f"  also: {printable(problem, 500)}"
    if plan.suggestions:
        yield "what would:" if plan.outcome.works else "what works:"
        rows = [(f"  {s.change}", verdict_line(s.outcome, plan.deadline)) for s in plan.suggestions]
        yield from aligned(rows, [0])
    elif plan.forecast not in GOOD:
        yield "nothing that judge can change makes it fit; take a smaller model"


def verdict_line(outcome: Outcome, deadline: float | None) -> str:
    """Return the verdict on an outcome with its hours."""
    found = forecast(outcome, deadline)
    if found == "cannot work":
        return f"cannot work: {printable(outcome.layout.problems[0], 500)}"
    if deadline is None:
        return f"works: {duration(outcome.total)}"
    whole_hours = deadline % 3600 == 0  # an hour is 1.0 h, an hour and a half 90.0 min
    return f"{found}: {duration(outcome.total)} of {_unit(deadline, 7200 if whole_hours else deadline)}"


def duration(seconds: TimeRange) -> str:
    """Return a range of seconds as `5.1 to 7.0 h`, in the unit of its upper end."""
    low, high = (_unit(end, seconds.high) for end in (seconds.low, seconds.high))
    return high if low == high else f"{low.split(' ')[0]} to {high}"


def _unit(seconds: float, largest: float) -> str:
    if largest >= 2 * 3600:  # below, a tenth of an hour is too coarse
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if largest >= 2 * 60 else f"{seconds:.1f} s"


def _heading(plan: ScoringPlan) -> Iterator[tuple[str, str]]:
    shape, lengths = plan.model.shape, plan.case.lengths
    kind = f"{shape.bits}-bit weights" if shape.bits < 16 else shape.dtype
    name = printable(shape.model_type, 40) or "unknown type"
    layers = "" if shape.known else ", counted as a Llama: judge does not know this type"
    size = f"{shape.parameters / _BILLION:,.2f} billion parameters, {kind}"
    yield "model", f"{plan.model.name} ({name}{layers}), {size}"
    mean, longest = lengths.tokens.mean(), lengths.tokens.max()
    cut = f"{lengths.cut_rows / lengths.rows:.0%} cut at {lengths.budget:,}"
    yield (
        "table",
        f"{plan.table}, {counted(lengths.rows, 'row')}; prompts of {mean:,.0f} tokens on average, {longest:,.0f} at "
        f"most, {cut}; template {plan.template}",
    )
    if lengths.estimated:
        low, _, high = lengths.factors
        text = f"estimated from characters, {low:g} to {high:g} times; give a tokenizer with --tokenizer for exact ones"
        yield "", text
    swap = plan.case.swap
    if swap[2] > 0:
        share = f"{swap[1]:.0%}" if swap[0] == swap[2] else f"{swap[0]:.0%} to {swap[2]:.0%}"
        yield "swap", f"{share} of the rows in both orders"
    yield "machine", _machine(plan)


def _machine(plan: ScoringPlan) -> str:
    machine = plan.case.machine
    if machine.card.is_cpu:
        return f"{machine}, {machine.free_memory / GIB:.1f} GiB of memory free"
    major, minor = machine.card.capability
    each = " each" if machine.count > 1 else ""
    return f"{machine}, {machine.card.usable / GIB:.1f} GiB{each}, compute capability {major}.{minor}"


def _what_runs(outcome: Outcome) -> Iterator[tuple[str, str]]:
    layout = outcome.layout
    runs = [layout.dtype, f"attention by {layout.attention}"] if layout.attention else [layout.dtype]
    if layout.kernel:
        runs.insert(1, f"packed weights by {layout.kernel}")
    yield "engine", ", ".join(runs)
    if not layout.engine.card.is_cpu:
        copies = "one copy" if layout.workers == 1 else f"{layout.workers} copies"
        each = "on one card" if layout.cards_each == 1 else f"over {layout.cards_each} cards (tensor parallel)"
        kind = f"{copies}, each {each} (data parallel)" if layout.workers > 1 else f"{copies} {each}"
        yield "parallel", kind
    for note in layout.notes:
        yield "note", printable(note, 300)


def _memory(plan: ScoringPlan) -> Iterator[tuple[str, str]]:
    memory, engine = plan.outcome.layout.memory, plan.outcome.layout.engine
    what = "memory" if engine.card.is_cpu else "each card"
    parts = [f"weights {memory.weights / GIB:.2f}", f"activations {memory.activations / GIB:.2f}"]
    if memory.other:
        parts.append(f"{'programs' if engine.card.is_cpu else 'CUDA'} {memory.other / GIB:.2f}")
    if memory.usable:
        parts.append(f"cache {max(memory.cache, 0) / GIB:.2f} of {memory.usable / GIB:.2f} GiB that the engine may use")
    yield what, ", ".join(parts)
    budget, room = plan.case.lengths.budget, f"{memory.prompt_cache / GIB:.2f} GiB of cache"
    need = f"a prompt of {budget:,} tokens needs {room}"
    if engine.card.is_cpu:  # two steps and two prompts of every engine
        need = f"judge sets {room} aside for prompts of up to {budget:,} tokens"
    yield "", f"a step reads {engine.batch_tokens:,} tokens; {need}"


def _time(plan: ScoringPlan) -> Iterator[tuple[str, str]]:
    outcome, case = plan.outcome, plan.case
    twice = 1 + case.swap[1]
    tokens, flops = case.lengths.tokens.sum() * twice, case.shape.flops(case.lengths.tokens).sum() * twice
    many = f"{tokens / 1e6:,.1f} million tokens" if tokens >= 1e6 else f"{tokens:,.0f} tokens"
    yield "work", f"{many}, {flops / 1e15:,.1f} PFLOP" if flops >= 1e15 else f"{many}, {flops / 1e12:,.1f} TFLOP"
    yield "loading", duration(outcome.load)
    rate = f", {tokens / outcome.read.value:,.0f} tokens/s" if outcome.read.value else ""
    yield "reading", f"{duration(outcome.read)}, most likely {_unit(outcome.read.value, outcome.read.high)}{rate}"
    yield "", _basis(plan)


def _basis(plan: ScoringPlan) -> str:
    share, card = plan.outcome.share, plan.case.machine.card
    if plan.case.measured is not None:
        return plan.case.measured.source
    if share is None:
        return "no measured point for this CPU; judge rehearse --json measures it for --rehearsal"
    reached = f"{share.low:.0%} to {share.high:.0%} of {plan.outcome.layout.engine.peak / 1e12:,.0f} TFLOP/s"
    if share.runs:
        return (
            f"{card.name}s reach {reached}, fitted to {share.runs} published runs of unknown lengths (docs/planning.md)"
        )
    return f"no measured point for this card; assumed: {reached}. judge rehearse --json measures it for --rehearsal"


def json_object(plan: ScoringPlan) -> dict[str, Any]:
    """Return a plan as plain values; seconds, bytes and FLOPs have no unit in their names' values."""
    shape, lengths, outcome = plan.model.shape, plan.case.lengths, plan.outcome
    layout = outcome.layout
    twice = 1 + plan.case.swap[1]
    return {
        "verdict": plan.forecast,
        "deadline_seconds": plan.deadline,
        "seconds": asdict(outcome.total) if outcome.works else None,
        "loading_seconds": asdict(outcome.load) if outcome.works else None,
        "reading_seconds": asdict(outcome.read) if outcome.works else None,
        "problems": list(layout.problems),
        "notes": list(layout.notes),
        "model": {
            "name": plan.model.name,
            "model_type": shape.model_type,
            "known": shape.known,
            "parameters": shape.parameters,
            "bits": shape.bits,
            "dtype": shape.dtype,
        },
        "table": {
            "name": plan.table,
            "rows": lengths.rows,
            "template": plan.template,
            "max_tokens": lengths.budget,
            "mean_tokens": float(lengths.tokens.mean()),
            "longest_tokens": int(lengths.tokens.max()),
            "cut_rows": lengths.cut_rows,
            "estimated": lengths.estimated,
            "length_factors": list(lengths.factors),
            "swap_shares": list(plan.case.swap),
            "tokens": float(lengths.tokens.sum()) * twice,
            "flops": float(plan.case.shape.flops(lengths.tokens).sum()) * twice,
        },
        "machine": {
            "card": plan.case.machine.card.name,
            "cards": plan.case.machine.count,
            "workers": layout.workers,
            "cards_each": layout.cards_each,
            "dtype": layout.dtype,
            "kernel": layout.kernel,
            "attention": layout.attention,
            "batch_tokens": layout.engine.batch_tokens,
            "share_of_peak": asdict(outcome.share) if outcome.share else None,
            "rates": _basis(plan),
        },
        "memory_bytes": {**asdict(layout.memory), "cache": layout.memory.cache},
        "suggestions": [
            {
                "change": s.change,
                "verdict": forecast(s.outcome, plan.deadline),
                "seconds": asdict(s.outcome.total),
            }
            for s in plan.suggestions
        ],
    }
