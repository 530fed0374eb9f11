"""`judge plan`: whether a model reads a table on given cards in time, and what to change if not; nothing is run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from judge.errors import JudgeError, counted, printable
from judge.hardware import machine
from judge.hardware.cards import CPU, find_card, parse_gpus
from judge.models.arithmetic import ModelShape
from judge.models.bundle import ADAPTER_CONFIG, ModelFolder, is_adapter, read_config
from judge.models.judge_file import read_judge_file
from judge.models.prompting import choose_budget, choose_template
from judge.planning.forecast import (
    AUTO_SWAP,
    GOOD,
    Case,
    Forecast,
    Outcome,
    Suggestion,
    evaluate,
    forecast,
    suggestions,
)
from judge.planning.layout import Layout, Machine
from judge.planning.lengths import PromptLengths, estimated_lengths, measured_lengths
from judge.planning.time_model import TimeModel
from judge.prompting.builder import PromptBuilder
from judge.runs.progress import Progress, Silent
from judge.scoring.settings import ScoreSettings, swap_share
from judge.tables.table import Table

_NOBODY = Silent()
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class PlanModel:
    """What is planned for.

    Attributes:
        folder: the model without its weights, which a plan does not need.
        shape: its sizes.
        tokenizer: a folder with its tokenizer, or None.
    """

    folder: ModelFolder
    shape: ModelShape
    tokenizer: Path | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return printable(self.folder.path.name, 60)


@dataclass(frozen=True)
class ScoringPlan:
    """What scoring a table takes; `judge.cli.plan_text` prints it.

    Attributes:
        template: name of the prompt template.
        deadline: seconds, or None.
        suggestions: what would fit, each computed like the plan itself.
    """

    model: PlanModel
    table: str
    template: str
    case: Case
    outcome: Outcome
    deadline: float | None
    suggestions: tuple[Suggestion, ...]

    @property
    def forecast(self) -> Forecast:
        """See `judge.planning.forecast.forecast`."""
        return forecast(self.outcome, self.deadline)


class Rehearsed(BaseModel):
    """What `judge rehearse --json` tells about speed; the rest of its figures is passed over.

    Attributes:
        model: name of the model's folder.
        config_sha256: `config_digest` of the model.
        cards: names of the cards, as the driver gives them; empty on a CPU.
        engines: engines that read at the same time.
        dtype: their arithmetic.
        time_model: what all engines together take for a FLOP, a token and a prompt.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    config_sha256: str
    cards: tuple[str, ...]
    engines: int
    dtype: str
    time_model: TimeModel


def open_plan_model(path: Path, tokenizer: Path | None = None) -> PlanModel:
    """Read a model's config, from its folder or its config.json; weights and tokenizer need not be there.

    Args:
        tokenizer: a folder with its tokenizer, where `path` has none.

    Raises:
        JudgeError: no config, or one of another kind of model.
    """
    path = path.expanduser()
    if tokenizer is not None and not _has_tokenizer(tokenizer.expanduser()):
        raise JudgeError(f"{printable(str(tokenizer))}: no tokenizer in it (none of {', '.join(_TOKENIZERS)})")
    judge = read_judge_file(path) if path.is_dir() else None
    base = path
    if path.is_dir() and is_adapter(path):
        adapter = read_config(path / ADAPTER_CONFIG)
        base = Path(str(judge.base.path if judge else adapter.get("base_model_name_or_path"))).expanduser()
    file = base / "config.json" if base.is_dir() else base
    if not file.is_file():
        raise JudgeError(
            f"{printable(str(base), 4096)}: no config.json; a plan needs a model's folder or its config.json"
        )
    config = read_config(file)
    try:
        shape = ModelShape.from_config(config)
    except JudgeError as error:
        raise JudgeError(f"{printable(str(file), 4096)}: {error}") from None
    own = tokenizer or next((folder for folder in (base, path) if folder.is_dir() and _has_tokenizer(folder)), None)
    return PlanModel(ModelFolder(file.parent.resolve(), config, (), judge=judge), shape, own)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZERS)


def find_machine(gpu: str | None) -> Machine:
    """Return the machine that `--gpu` names; this one where it is None.

    Raises:
        JudgeError: an unknown card.
    """
    if gpu is not None:
        count, card = parse_gpus(gpu)
    else:
        gpus = machine.usable_gpus("auto")
        known = find_card(gpus[0].name) if gpus else CPU
        if known is None:
            raise JudgeError(f"judge does not know {printable(gpus[0].name)}; give the nearest one it does with --gpu")
        count, card = max(len(gpus), 1), known
    if card.is_cpu:
        return Machine(card, 1, len(machine.cpu_cores()), machine.available_memory() or 0)
    return Machine(card, count)


def read_lengths(model: PlanModel, table: Table, settings: ScoreSettings, progress: Progress) -> PromptLengths:
    """Return the lengths of the table's prompts: built with the model's tokenizer, else estimated.

    Raises:
        JudgeError: the table cannot be read, or the settings do not go with the model.
    """
    template, budget = choose_template(model.folder, settings), choose_budget(model.folder, settings)
    if model.tokenizer is None:
        return estimated_lengths(table, template, budget.max_tokens, progress)
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    builder = PromptBuilder(TextEncoder(load_tokenizer(model.tokenizer)), template, budget)
    return measured_lengths(table, builder, progress)


def make_plan(
    model: PlanModel,
    table: Table,
    machine: Machine,
    settings: ScoreSettings,
    deadline: float | None = None,
    progress: Progress = _NOBODY,
    rehearsed: Rehearsed | None = None,
) -> ScoringPlan:
    """Plan the scoring of a table.

    Args:
        deadline: seconds that the run may take, or None.
        progress: watches the reading of the table.
        rehearsed: what a rehearsal of this model on this machine measured; None: rates are looked up or assumed.

    Raises:
        JudgeError: the settings, the table or the model's config are wrong, or the rehearsal was of something else.
    """
    share = swap_share(settings.swap)
    lengths = read_lengths(model, table, settings, progress)
    swap = AUTO_SWAP if share is None else (share, share, share)
    case = Case(model.shape, model.folder.config, lengths, swap, machine, settings)
    outcome = evaluate(case)
    if rehearsed is not None:
        _check_rehearsed(rehearsed, model, machine, outcome.layout)
        case = replace(case, measured=rehearsed.time_model)
        outcome = evaluate(case)
    changes: tuple[Suggestion, ...] = ()
    if forecast(outcome, deadline) not in GOOD:
        changes = tuple(suggestions(case, outcome, deadline))
    template = choose_template(model.folder, settings).name
    return ScoringPlan(model, table.name, template, case, outcome, deadline, changes)


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a model's config.json says; it names a model whose weights need not be there."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def read_rehearsal(path: Path) -> Rehearsed:
    """Read the speed that a rehearsal measured from the file that `judge rehearse --json` wrote.

    Raises:
        JudgeError: the file cannot be read, or does not hold a rehearsal.
    """
    shown = printable(str(path), 4096)
    try:
        found = Rehearsed.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise JudgeError(f"{shown}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise JudgeError(
            f"{shown}: expected what judge rehearse --json prints ({printable(place, 80)}: {first['msg']})"
        ) from None
    costs = found.time_model
    if not all(math.isfinite(c) and c >= 0 for c in (costs.per_flop, costs.per_token, costs.per_prompt, costs.spread)):
        raise JudgeError(f"{shown}: its time_model has costs below 0 or that are no numbers; rehearse again")
    parts = f"measured with this model by judge rehearse, in {costs.points} timed parts ({printable(path.name, 80)})"
    return found.model_copy(update={"time_model": replace(costs, source=parts)})


def _check_rehearsed(rehearsed: Rehearsed, model: PlanModel, machine: Machine, layout: Layout) -> None:
    """Refuse a rehearsal of another model, or one that ran otherwise than the plan."""
    if rehearsed.config_sha256 != config_digest(model.folder.config):
        name = printable(rehearsed.model, 60)
        raise JudgeError(f"the rehearsal was of {name}, and its config.json is not that of {model.name}; rehearse anew")
    kinds = [find_card(card) for card in rehearsed.cards]
    if kinds != ([] if machine.card.is_cpu else [machine.card] * machine.count):
        there = ", ".join(printable(card, 40) for card in rehearsed.cards) or "a CPU"
        raise JudgeError(f"the rehearsal ran on {there}, and the plan is for {machine}; leave --rehearsal or --gpu out")
    if (rehearsed.engines, rehearsed.dtype) != (layout.workers, layout.dtype):
        raise JudgeError(
            f"the rehearsal ran {counted(rehearsed.engines, 'engine')} in {printable(rehearsed.dtype, 20)}, and the "
            f"plan has {layout.workers} in {layout.dtype}; give both commands the same settings"
        )
