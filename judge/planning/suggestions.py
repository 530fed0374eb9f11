"""What to change so that a table is read in time: every suggestion is computed like the plan itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from judge.errors import counted
from judge.hardware.cards import CARDS
from judge.planning.layout import Machine
from judge.planning.outcome import GOOD, Case, Outcome, evaluate, verdict

_BUDGETS = (3072, 2048, 1536, 1024, 768, 512)
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
_KINDS = ("T4", "L4", "A10", "RTX 3090", "RTX 4090", "A100 40GB", "A100 80GB", "H100 SXM", "H200")
# Rows that are picked evenly by length take a little more than their share: the longest is among them.
_ROUNDED = (0.999, 0.99, 0.95, 0.9, 0.8)
# A change that saves less is not worth a line.
_FASTER = 0.95


@dataclass(frozen=True)
class Suggestion:
    """Something to change: what it is, and what comes of it."""

    change: str
    outcome: Outcome


@dataclass(frozen=True)
class Wish:
    """What does not fit, and by when it should."""

    case: Case
    outcome: Outcome
    deadline: float | None


Changes = Iterator[tuple[str, Case]]


def suggestions(case: Case, outcome: Outcome, deadline: float | None) -> Iterator[Suggestion]:
    """Yield what makes it work in time, the gentlest change of each kind; else the best of a kind that helps at all."""
    for kind in (_orders, _weights, _settings, _budgets, _rows, _counts, _cards):
        best: Suggestion | None = None
        for change, other in kind(Wish(case, outcome, deadline)):
            found = evaluate(other)
            if not found.works or (outcome.works and found.total.value > _FASTER * outcome.total.value):
                continue
            if best is None or found.total.value < best.outcome.total.value:
                best = Suggestion(change, found)
            if verdict(found, deadline) in GOOD:
                best = Suggestion(change, found)
                break
        if best is not None:
            yield best


def _orders(wish: Wish) -> Changes:
    case = wish.case
    if case.swap[2] > 0:
        yield "--swap=off", replace(case, swap=(0.0, 0.0, 0.0))


def _weights(wish: Wish) -> Changes:
    case = wish.case
    if case.shape.bits >= 16 and not (case.machine.card.is_cpu and wish.outcome.works):
        config = {**case.config, "quantization_config": _AWQ}
        yield (
            "quantise the weights to 4 bits (judge quantize)",
            replace(case, shape=case.shape.quantised(), config=config, measured=None),
        )


def _settings(wish: Wish) -> Changes:
    case, outcome = wish.case, wish.outcome
    options: list[dict[str, Any]] = []
    if not outcome.works and not case.machine.card.is_cpu:
        options = [{"dtype": "auto"}, {"parallel": "auto"}, {"dtype": "float32"}, {"parallel": "tensor"}]
        options += [{"batch_tokens": 4096}, {"batch_tokens": 2048}]
    elif case.machine.count > 1 and case.settings.parallel != "auto":
        options = [{"parallel": "auto"}]
    for option in options:
        (name, value), *_ = option.items()
        if getattr(case.settings, name) != value:
            settings = case.settings.model_copy(update=option)
            yield f"--{name.replace('_', '-')}={value}", replace(case, settings=settings)


def _budgets(wish: Wish) -> Changes:
    case = wish.case
    for budget in _BUDGETS:
        if budget < case.lengths.budget:
            lengths = case.lengths.under(budget)
            cut = lengths.cut_rows / max(lengths.rows, 1)
            yield f"--max-tokens={budget} (cuts {cut:.0%} of the rows)", replace(case, lengths=lengths)


def _rows(wish: Wish) -> Changes:
    """Yield as many rows, picked evenly by length, as can be read in time even in the slowest case."""
    case, outcome, deadline = wish.case, wish.outcome, wish.deadline
    if not outcome.works or deadline is None:
        return
    left = (deadline - outcome.load.high) / outcome.read.high
    order = case.lengths.tokens.argsort(kind="stable")
    for part in _ROUNDED:
        rows = math.floor(case.lengths.rows * left * part)
        if 0 < rows < case.lengths.rows:
            pick = order[np.linspace(0, case.lengths.rows - 1, rows).astype(int)]
            some = replace(case.lengths, tokens=case.lengths.tokens[pick], whole=case.lengths.whole[pick])
            yield f"{counted(rows, 'row')} instead of {case.lengths.rows:,}", replace(case, lengths=some)


def _counts(wish: Wish) -> Changes:
    case = wish.case
    for count in (2, 4, 8):
        if not case.machine.card.is_cpu and count > case.machine.count:
            yield f"--gpu={count}x{case.machine.card.name}", replace(case, machine=replace(case.machine, count=count))


def _cards(wish: Wish) -> Changes:
    """Yield other kinds of card, the smallest first."""
    case = wish.case
    machine = case.machine
    for name in _KINDS:
        if name != machine.card.name:
            shown = f"{machine.count}x{name}" if machine.count > 1 else name
            shown = f"'{shown}'" if " " in shown else shown
            other = Machine(CARDS[name], machine.count)
            yield f"--gpu={shown}", replace(case, machine=other, measured=None)
