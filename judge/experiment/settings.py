"""The settings of an experiment: read from a YAML file, or made from lists of what is to be compared.

Paths in a file are relative to the folder that `judge` is started in, as in every other config.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from judge.engine.choose import EngineSettings
from judge.errors import JudgeError, printable, setting_problem, suggestion
from judge.experiment.arm_names import LONGEST_NAME, identical_without_names, refuse_repeated_keys, with_names
from judge.prompting.budget import Policy
from judge.scoring.settings import swap_share
from judge.stats.metrics import Metric
from judge.tables.comparison import Cells
from judge.tables.table import OnBadRow
from judge.training.settings import read_config

# The default margin, below which a difference does not matter: a hundredth of a nat, two rows in a hundred.
DEFAULT_MARGIN: dict[Metric, float] = {"log_loss": 0.01, "brier": 0.01, "accuracy": 0.02}
MOST_ARMS = 20
MOST_SEEDS = 20


class ArmSettings(BaseModel):
    """One way to judge; `judge.scoring.settings.ScoreSettings` has the same choices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="How the arm is called. [default: what differs between the arms]")
    model: str | None = Field(
        default=None, description="Folder of a model or judge bundle. [default: the experiment's]"
    )
    base: str | None = Field(default=None, description="The base model of an adapter, if it has moved.")
    template: str | None = Field(default=None, description="Prompt template of an arm; give several.")
    max_tokens: int | None = Field(default=None, gt=0, description="Budget of an arm in tokens; give several.")
    truncation: Policy | None = Field(default=None, description="Truncation of an arm; give several.")
    swap: str = Field(default="off", description="Swap policy of an arm; give several.")
    calibration: Literal["auto", "off"] = Field(default="auto", description="auto or off; give both to compare.")
    # The arm's judge is trained first, once for each of `train_seeds`; `template`, `max_tokens` and `truncation` of the
    # arm then replace the config's.
    train: str | None = Field(default=None, description="Training config of an arm; give several.")
    # About so many of the config's rows, drawn by whole prompts; a larger number holds the rows of a smaller one.
    train_rows: int | None = Field(
        default=None, ge=1, description="Rows to train on, for a learning curve; give several."
    )

    @field_validator("name", mode="before")
    @classmethod
    def _can_be_a_number(cls, name: object) -> object:
        return str(name) if isinstance(name, int) and not isinstance(name, bool) else name

    @field_validator("swap", "calibration", mode="before")
    @classmethod
    def _can_be_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a plain off as false

    @field_validator("name")
    @classmethod
    def _can_be_printed(cls, name: str) -> str:
        name = name.strip()
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"a name is 1 to {LONGEST_NAME} characters in one line")
        return name

    @field_validator("swap")
    @classmethod
    def _is_a_policy(cls, swap: str) -> str:
        try:
            swap_share(swap)
        except JudgeError:
            raise ValueError("expected off, all, auto or a percentage such as 25%") from None
        return swap.strip()

    @model_validator(mode="after")
    def _has_one_model(self) -> ArmSettings:
        if self.train is not None and (self.model is not None or self.base is not None):
            raise ValueError("train trains a model of its own, so model and base have no effect")
        if self.train is None and self.train_rows is not None:
            raise ValueError("train_rows has no effect without train")
        return self


class ExperimentSettings(EngineSettings):
    """An experiment: arms, the rows that all of them judge, and how they are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str | None = Field(default=None, description="Model or judge bundle of the arms that name none.")
    base: str | None = Field(default=None, description="The base model of an adapter, if it has moved.")
    data: str = Field(description="Table with labels.")
    cells: Cells = Field(default="auto", description="How cells are read.")
    on_bad_row: OnBadRow = Field(default="error", description="What to do with cells that cannot be read.")
    rows: int | None = Field(default=None, ge=1, description="Most rows, drawn in whole prompt groups. [default: all]")
    baseline: str | None = Field(default=None, description="Arm that the others are compared with. [default: first]")
    metric: Metric = Field(default="log_loss", description="What decides.")
    margin: float | None = Field(
        default=None, gt=0, description="Differences within it do not matter. [default: 0.01, accuracy 0.02]"
    )
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence level of the intervals.")
    power: float = Field(default=0.8, gt=0, lt=1, description="Wanted chance to find a difference.")
    seed: int = Field(default=0, ge=0, description="Seed of drawing rows and resampling.")
    resamples: int = Field(default=2000, ge=100, le=100_000, description="Bootstrap resamples of prompt groups.")
    train_seeds: list[int] = Field(
        default=[0, 1],
        description="Seeds with which each arm that is trained is trained.",
        json_schema_extra={"flag": "--train-seed"},
    )
    arms: list[ArmSettings] = Field(min_length=2, max_length=MOST_ARMS, description="The arms, two or more.")

    @property
    def baseline_name(self) -> str:
        """The arm that the others are compared with."""
        return self.baseline or self.arms[0].name

    @property
    def smallest_that_matters(self) -> float:
        """The margin: what was given, or 0.01 for losses and 0.02 for the accuracy."""
        return self.margin or DEFAULT_MARGIN[self.metric]

    @field_validator("train_seeds")
    @classmethod
    def _are_seeds(cls, seeds: list[int]) -> list[int]:
        if not 2 <= len(seeds) <= MOST_SEEDS or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"expected 2 to {MOST_SEEDS} different numbers, each 0 or more")
        return seeds

    @model_validator(mode="after")
    def _arms_fit(self) -> ExperimentSettings:
        names = [arm.name for arm in self.arms]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"two arms are called {printable(twice[0])!r}; give each its own name")
        if self.baseline is not None and self.baseline not in names:
            shown = f"{suggestion(self.baseline, names)}: {', '.join(map(printable, names))}"
            raise ValueError(f"the baseline {printable(self.baseline)!r} is not among the arms{shown}")
        if self.base is not None and self.model is None:
            raise ValueError("base is that of the experiment's model, and there is none; give each arm its own base")
        for arm in self.arms:
            if self.model is None and arm.model is None and arm.train is None:
                raise ValueError(f"arm {printable(arm.name)!r} has no model; give one to it or to all")
        return self


def load_experiment(path: str | Path, given: dict[str, Any] | None = None) -> ExperimentSettings:
    """Return the experiment that a YAML file describes.

    Args:
        path: the file; the paths in it are relative to the working folder.
        given: settings that win over the file's, such as those of flags.

    Raises:
        JudgeError: a file that cannot be read, an unknown key, an impossible value, arms that do not fit.
    """
    source = printable(str(path), 255)
    values = read_config(Path(path))
    refuse_repeated_keys(Path(path), source)
    return parse_experiment({**values, **(given or {})}, source)


def parse_experiment(values: dict[str, Any], source: str = "judge experiment") -> ExperimentSettings:
    """Return the experiment that plain values describe; arms without a name are called by what differs.

    Raises:
        JudgeError: every unknown key and impossible value, in one line.
    """
    arms = values.get("arms")
    if isinstance(arms, list) and all(isinstance(arm, dict) for arm in arms):
        values = {**values, "arms": with_names(arms)}
    try:
        return ExperimentSettings(**values)
    except ValidationError as error:
        problems = error.errors()
        same = None if problems[0]["loc"] else identical_without_names(arms or [])
        if same is not None:  # then their names are the same too, but nobody gave them these
            raise JudgeError(f"{source}: arms {same[0]} and {same[1]} are identical; change or leave out one") from None
        raise JudgeError(f"{source}: " + "; ".join(map(_problem, problems))) from None


def experiment_of(
    models: Sequence[str], table: str, arms: Mapping[str, Sequence[Any]], **others: Any
) -> ExperimentSettings:
    """Return the experiment whose arms are all combinations of what is given.

    Args:
        models: folders of models or bundles; several are compared.
        table: table with labels.
        arms: for fields of `ArmSettings`, values that are compared; one value holds for all arms.
        others: other fields of `ExperimentSettings`; those that are None are left at their defaults.

    Raises:
        JudgeError: fewer than two arms or more than 20, or see `parse_experiment`.
    """
    lists = {"model": list(models) if len(models) > 1 else [], **{name: list(values) for name, values in arms.items()}}
    lists = {name: values for name, values in lists.items() if values}
    for key, given in lists.items():
        spelled = [str(Path(str(value))) for value in given]  # ./model is model
        twice = next((value for i, value in enumerate(given) if spelled[i] in spelled[:i]), None)
        if twice is not None:
            flag = "MODEL" if key == "model" else f"--{key.replace('_', '-')}"
            raise JudgeError(f"{flag} {printable(str(twice), 200)} is given twice")
    combined = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    if len(combined) < 2:
        raise JudgeError(
            "nothing to compare: give two or more of --template, --max-tokens, --truncation, --swap, --calibration or "
            "models, or an experiment file with arms"
        )
    if len(combined) > MOST_ARMS:
        raise JudgeError(f"these are {len(combined)} combinations, more than {MOST_ARMS}; name the arms in a file")
    values = {"data": table, "arms": combined, **{key: value for key, value in others.items() if value is not None}}
    if len(models) == 1:
        values["model"] = models[0]
    return parse_experiment(values)


def _problem(problem: Any) -> str:
    """Return one mistake that pydantic found in the words of this file."""
    place, known, where = list(problem["loc"]), ExperimentSettings.model_fields, ""
    if len(place) > 2 and place[0] == "arms":
        known, where, place = ArmSettings.model_fields, f"arm {int(place[1]) + 1}: ", place[2:]
    elif len(place) == 2 and place[0] == "arms":
        where, place = f"arm {int(place[1]) + 1}: ", []
    message = problem["msg"]
    if place == ["stop_early"]:
        return "unknown key 'stop_early': it is gone, every arm judges all rows; leave it out"
    if place == ["arms"] and problem["type"] in ("too_short", "too_long"):
        return f"an experiment has 2 to {MOST_ARMS} arms"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        message = "expected settings such as `template: rubric`"
    elif place == ["arms"] and problem["type"] != "missing":
        message = "expected a list of arms, each with its settings behind a dash"
    return where + setting_problem({**problem, "loc": place, "msg": message}, known, "key")
