"""The prompt of a model: the template and the budget that the settings, the bundle or the defaults decide."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from judge.errors import JudgeError
from judge.models.bundle import ModelFolder
from judge.prompting.budget import Policy
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.template import Template, load_template

DEFAULT_MAX_TOKENS = 2048
DEFAULT_TEMPLATE = "side-by-side"


class PromptSettings(BaseModel):
    """How the prompts of a model are built; None leaves a choice to the bundle, or else to the default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str | None = Field(
        default=None,
        description="Prompt template: a shipped name or a .yaml file. [default: the bundle's, otherwise side-by-side]",
    )
    max_tokens: int | None = Field(
        default=None, gt=0, description="Longest prompt in tokens. [default: the bundle's, otherwise 2048 or less]"
    )
    truncation: Policy | None = Field(
        default=None, description="Where over-long texts are cut. [default: the bundle's, otherwise middle]"
    )
    shares: tuple[float, float] | None = Field(
        default=None,
        description="Weights of the prompt and of each response in the budget. "
        "[default: the bundle's, otherwise 0.2 0.4]",
    )


def largest_budget(model: ModelFolder, wanted: int | None) -> int:
    """Return the longest prompt in tokens: what is wanted, or 2,048, or what the model takes, if less.

    Raises:
        JudgeError: more is wanted than the model takes.
    """
    most = model.max_positions - 1 if model.max_positions else None  # one position is the verdict's
    chosen = wanted or min(DEFAULT_MAX_TOKENS, most or DEFAULT_MAX_TOKENS)
    if most is not None and chosen > most:
        raise JudgeError(f"--max-tokens={chosen} is more than the model takes ({most} and the verdict)")
    return chosen


def choose_budget(model: ModelFolder, settings: PromptSettings) -> Budget:
    """Return the settings' budget; what they leave open is as the judge was trained, or the default."""
    judge, default = model.judge, Budget()
    max_tokens = settings.max_tokens or (judge.max_tokens if judge else None)
    truncation = settings.truncation or (judge.truncation if judge else default.policy)
    shares = settings.shares or (judge.shares if judge else default.shares)
    if min(shares) <= 0:
        raise JudgeError(f"--shares={shares}: both must be positive")
    return Budget(largest_budget(model, max_tokens), truncation, shares)


def choose_template(model: ModelFolder, settings: PromptSettings) -> Template:
    """Return the settings' template, else the one that the judge was trained with, else `side-by-side`."""
    if settings.template is not None:
        return load_template(settings.template)
    return model.judge.stored_template() if model.judge else load_template(DEFAULT_TEMPLATE)


def differs_from_training(model: ModelFolder, settings: PromptSettings, builder: PromptBuilder) -> str | None:
    """Return how prompts differ from those that the judge was trained with, or None.

    Raises:
        JudgeError: they differ although the settings ask for nothing else: the tokenizer or judge itself has changed.
    """
    judge = model.judge
    if judge is None or builder.fingerprint() == judge.prompt_fingerprint:
        return None
    names = ("template", "max_tokens", "truncation", "shares")
    given = [name.replace("_", "-") for name in names if getattr(settings, name) is not None]
    if not given:
        raise JudgeError(
            f"{model.folder}: its tokenizer, or this version of judge, builds other prompts than those that the judge "
            "was trained with; use the versions that its judge.json names"
        )
    return f"prompts are not built as in training (--{', --'.join(given)}); the judge was not taught these"
