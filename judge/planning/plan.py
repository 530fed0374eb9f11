"""`judge plan`: whether a model will read a table on given cards in time, and what to change if not; nothing is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from judge.errors import JudgeError, printable
from judge.hardware import machine
from judge.hardware.cards import CPU, find_card, parse_gpus
from judge.models.arithmetic import ModelShape
from judge.models.bundle import ADAPTER_CONFIG, ModelFolder, is_adapter
from judge.models.judge_file import read_judge_file
from judge.models.prompting import choose_budget, choose_template
from judge.planning.layout import Machine
from judge.planning.lengths import PromptLengths, estimated_lengths, measured_lengths
from judge.planning.outcome import GOOD, Case, Outcome, Verdict, evaluate, verdict
from judge.planning.suggestions import Suggestion, suggestions
from judge.planning.time_model import TimeModel
from judge.prompting.builder import PromptBuilder
from judge.scoring.settings import ScoreSettings, swap_share
from judge.tables.table import Table

# `--swap=auto` reads at least a tenth of the rows in the other order, and at most all.
_AUTO_SWAP = (0.1, 0.5, 1.0)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


# Measures this machine on prompts of such lengths, with so many engines of so many cards.
Measure = Callable[[PromptLengths, int, int], TimeModel]


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
class Plan:
    """A plan; `judge.cli.plan_text` prints it.

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
    def verdict(self) -> Verdict:
        """See `judge.planning.outcome.verdict`."""
        return verdict(self.outcome, self.deadline)


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
        adapter = _read_json(path / ADAPTER_CONFIG)
        base = Path(str(judge.base.path if judge else adapter.get("base_model_name_or_path"))).expanduser()
    file = base / "config.json" if base.is_dir() else base
    if not file.is_file():
        raise JudgeError(
            f"{printable(str(base), 4096)}: no config.json; a plan needs a model's folder or its config.json"
        )
    config = _read_json(file)
    try:
        shape = ModelShape.from_config(config)
    except JudgeError as error:
        raise JudgeError(f"{printable(str(file), 4096)}: {error}") from None
    own = tokenizer or next((folder for folder in (base, path) if folder.is_dir() and _has_tokenizer(folder)), None)
    return PlanModel(ModelFolder(file.parent.resolve(), config, (), judge=judge), shape, own)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZERS)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise JudgeError(
            f"{printable(str(file), 4096)}: is not valid JSON; a plan needs a model's config.json"
        ) from None
    if not isinstance(content, dict):
        raise JudgeError(f"{printable(str(file), 4096)}: expected a JSON object, a model's config.json")
    return content


def find_machine(gpu: str | None) -> Machine:
    """Return the machine that `--gpu` names; this one where it is None.

    Raises:
        JudgeError: an unknown card.
    """
    if gpu is not None:
        count, card = parse_gpus(gpu)
    else:
        cards = machine.usable_gpus("auto")
        found = find_card(cards[0].name) if cards else CPU
        if found is None:
            raise JudgeError(f"judge does not know {printable(cards[0].name)}; give the nearest one it does with --gpu")
        count, card = max(len(cards), 1), found
    if card.is_cpu:
        return Machine(card, 1, len(machine.cpu_cores()), machine.available_memory() or 0)
    return Machine(card, count)


def read_lengths(
    model: PlanModel, table: Table, settings: ScoreSettings, on_progress: Callable[[int], None]
) -> PromptLengths:
    """Return the lengths of the table's prompts: built with the model's tokenizer, else estimated.

    Raises:
        JudgeError: the table cannot be read, or the settings do not go with the model.
    """
    template, budget = choose_template(model.folder, settings), choose_budget(model.folder, settings)
    if model.tokenizer is None:
        return estimated_lengths(table, template, budget.max_tokens, on_progress)
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    builder = PromptBuilder(TextEncoder(load_tokenizer(model.tokenizer)), template, budget)
    return measured_lengths(table, builder, on_progress)


def make_plan(
    model: PlanModel,
    table: Table,
    machine: Machine,
    settings: ScoreSettings,
    deadline: float | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    measure: Measure | None = None,
) -> Plan:
    """Plan the scoring of a table.

    Args:
        deadline: seconds that the run may take, or None.
        on_progress: called with the number of rows read so far.
        measure: measures the machine at hand; None: rates are looked up or assumed.

    Raises:
        JudgeError: the settings, the table or the model's config are wrong.
    """
    share = swap_share(settings.swap)
    lengths = read_lengths(model, table, settings, on_progress)
    swap = _AUTO_SWAP if share is None else (share, share, share)
    case = Case(model.shape, model.folder.config, lengths, swap, machine, settings)
    outcome = evaluate(case)
    if measure is not None and outcome.works:
        case = replace(case, measured=measure(lengths, outcome.layout.workers, outcome.layout.cards_each))
        outcome = evaluate(case)
    changes: tuple[Suggestion, ...] = ()
    if verdict(outcome, deadline) not in GOOD:
        changes = tuple(suggestions(case, outcome, deadline))
    template = choose_template(model.folder, settings).name
    return Plan(model, table.name, template, case, outcome, deadline, changes)
