"""The settings of the commands that compare predictions with labels."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from judge.stats.permutation import PERMUTATIONS
from judge.stats.resample import RESAMPLES

RefuseOrDrop = Literal["refuse", "drop"]
TrainedRows = Literal["refuse", "mark", "drop"]


class LabelledSettings(BaseModel):
    """What every command that reads labelled rows lets the user choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trained_rows: RefuseOrDrop = Field(
        default="refuse", description="If labelled rows trained a judge: refuse, or leave them out."
    )
    partial: bool = Field(
        default=False, description="Leave out rows of the table without a prediction, such as those that trained."
    )
    resamples: int = Field(default=RESAMPLES, description="Bootstrap resamples of prompt groups for the intervals.")
    seed: int = Field(default=0, description="Seed of the resampling.")


class EvaluateSettings(LabelledSettings):
    """How to evaluate the predictions of one judge."""

    trained_rows: TrainedRows = Field(  # type: ignore[assignment]  # one choice more than the others offer
        default="refuse", description="If rows trained this judge: refuse, show their figures apart, or leave them out."
    )
    self_names: tuple[str, ...] = Field(
        default=(),
        description="Name of a model that is the judge itself or its relative; more than once if need be.",
        json_schema_extra={"flag": "--self"},
    )


class CompareSettings(LabelledSettings):
    """How to compare two judges."""

    rows: int = Field(default=10, description="How many of the rows that changed most are listed.")
    permutations: int = Field(default=PERMUTATIONS, description="Random sign flips for the p-values.")


class EnsembleSettings(LabelledSettings):
    """How to blend several judges."""

    weights: tuple[float, ...] | None = Field(
        default=None,
        description="One for each file, summing to 1, such as 0.6,0.4. [default: fitted; equal without a table]",
    )
    folds: int = Field(default=5, description="Folds of the cross-validation over prompt groups.")
