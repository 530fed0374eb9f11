"""The arms of an experiment with their models, templates and prompts, checked before an engine runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from judge.engine.choose import EngineSettings
from judge.errors import JudgeError, printable
from judge.experiment.cache import context_key
from judge.experiment.settings import ArmSettings, ExperimentSettings
from judge.models.bundle import ModelFolder, open_model
from judge.prompting.template import load_template
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings


@dataclass(frozen=True)
class Arm:
    """One arm, ready to be read; an arm that is trained has one of these for each training seed.

    Attributes:
        scorer: its checked model, template, budget, swap policy and calibration. Of the arms that share an engine, only
            the one with the largest budget starts it.
        engine: equal for arms that one engine can read.
        seed: the seed that its judge was trained with, or None.
    """

    settings: ArmSettings
    scorer: Scorer
    engine: bytes
    seed: int | None = None

    @property
    def name(self) -> str:
        """The arm's name, the same for all its seeds."""
        return self.settings.name

    @property
    def title(self) -> str:
        """The name with the seed, for messages."""
        return self.name if self.seed is None else f"{self.name} (seed {self.seed})"

    @property
    def model(self) -> ModelFolder:
        """The model or bundle."""
        return self.scorer.model

    def effect(self) -> tuple[Any, ...]:
        """Return all that decides the arm's numbers: arms with an equal effect give equal numbers."""
        calibration = self.scorer.calibration.numbers() if self.scorer.calibration else None
        return self.engine, self.scorer.builder.fingerprint(), self.scorer.share, calibration

    def record(self) -> dict[str, Any]:
        """Return digests and settings, in full, as `experiment.json` keeps them."""
        scorer, budget = self.scorer, self.scorer.budget
        return {
            "model": str(self.model.folder),
            "model_digest": self.model.digest(),
            "base": str(self.model.path) if self.model.adapter else None,
            "template": scorer.template.name,
            "template_digest": scorer.template.digest,
            "prompt_fingerprint": scorer.builder.fingerprint(),
            "max_tokens": budget.max_tokens,
            "truncation": budget.policy,
            "shares": list(budget.shares),
            "swap": self.settings.swap,
            "calibration": scorer.calibration.numbers() if scorer.calibration else "off",
            "readout": scorer.settings.readout,
            "dtype": scorer.pool.config.dtype,
            "weights": scorer.weights.way,
            "device": scorer.pool.config.device,
            "seed": self.seed,
            "train_rows": self.model.judge.training.get("train_rows") if self.model.judge else None,
        }

    def warnings(self) -> Iterator[str]:
        """Yield what the user should know of how the arm reads."""
        for warning in (self.scorer.warning, self.scorer.calibration_warning):
            if warning:
                yield f"arm {printable(self.title)}: {warning}"


def check_templates(settings: ExperimentSettings) -> None:
    """Check that every template can be loaded, before anything that takes time.

    Raises:
        JudgeError: a template cannot be loaded.
    """
    for arm in settings.arms:
        if arm.template is not None:
            with _named(arm.name):
                load_template(arm.template)


def resolve_arms(settings: ExperimentSettings, log_folder: Path, trained: dict[str, dict[int, Path]]) -> list[Arm]:
    """Check the arms' models, templates and budgets; no weight is loaded.

    Args:
        log_folder: where engine processes will log.
        trained: the bundles of the arms that were trained, by name and seed.

    Raises:
        JudgeError: a model, template or budget that cannot be used.
    """
    models: dict[tuple[str, str | None], ModelFolder] = {}
    arms = []
    for arm in settings.arms:
        folders = [(str(path), None, seed) for seed, path in trained.get(arm.name, {}).items()]
        if arm.train is None:
            base = arm.base if arm.model is not None else arm.base or settings.base
            folders = [(str(arm.model or settings.model), base, None)]  # type: ignore[list-item]
        for folder, base, seed in folders:
            with _named(arm.name):
                if (folder, base) not in models:
                    models[folder, base] = open_model(folder, base)
                arms.append(_arm(arm, models[folder, base], settings, log_folder, seed))
    return arms


def _arm(arm: ArmSettings, model: ModelFolder, settings: ExperimentSettings, logs: Path, seed: int | None) -> Arm:
    values = {name: getattr(settings, name) for name in EngineSettings.model_fields}
    values |= {"swap": arm.swap, "calibration": arm.calibration}
    if arm.train is None:  # else the bundle says how it was trained
        values |= {"template": arm.template, "max_tokens": arm.max_tokens, "truncation": arm.truncation}
    scorer = Scorer(model, ScoreSettings.model_validate(values), logs)
    config = scorer.pool.config
    engine = context_key(
        model=model.digest(),
        readout=config.readout,
        dtype=config.dtype,
        weights=scorer.weights.way,
        device=config.device,
        verdicts=list(config.verdict_ids),
    )
    return Arm(arm, scorer, engine, seed)


def refuse_identical(arms: Sequence[Arm]) -> None:
    """Check that no two arms must give the same numbers.

    Raises:
        JudgeError: two arms are.
    """
    for arm, other in combinations(arms, 2):
        if arm.effect() == other.effect():
            raise JudgeError(
                f"arms {printable(arm.title)!r} and {printable(other.title)!r} are identical: the same model, prompts, "
                "swap and calibration; change or leave out one of them"
            )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the arm's name before the text of an error."""
    try:
        yield
    except JudgeError as error:
        raise JudgeError(f"arm {printable(name)!r}: {error}") from None
