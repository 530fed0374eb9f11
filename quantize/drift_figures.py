"""How far each stage is from the reference, in figures, after all have read the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as settings_dataclass

from judge.errors import counted, printable
from judge.models.bundle import ModelFolder
from judge.predictions.file import StoredPredictions
from judge.prompting.verdict import Float, divergence
from judge.stats.metrics import hits, log_losses
from judge.stats.resample import Estimate, Resampler
from judge.tables.comparison import Flag
from judge.tables.table import Table


@settings_dataclass(frozen=True)
class Limits:
    """How far a stage may be from the reference."""

    log_loss: float = Field(
        default=0.01,
        ge=0,
        description="Largest increase of the log loss that passes, nats.",
        json_schema_extra={"flag": "--max-log-loss"},
    )
    flips: float = Field(
        default=0.03,
        ge=0,
        description="Largest share of changed verdicts that passes.",
        json_schema_extra={"flag": "--max-flips"},
    )


@dataclass(frozen=True)
class Rows:
    """The rows to measure on, in the table's order.

    Attributes:
        name: of the file that they come from.
        table: a table of these rows alone.
        labels: -1 for a row without a label, shape (rows,).
        groups: keys of the prompts, shape (rows,).
    """

    name: str
    table: Table
    labels: NDArray[np.int64]
    groups: NDArray[np.uint64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class StageFigures:
    """A stage beside the reference, in nats. Figures of labels are None without labels; the reference has no changes.

    Attributes:
        kind: `base`, `adapter`, `merged`, `4-bit` or `model`.
        median_verdict_mass: None if the read-out does not know it.
        log_loss_change: paired, stage minus reference, with its interval over prompt groups.
        mean_kl: KL(reference || stage) of the three verdicts, mean over rows.
        largest_change: the largest |Δp| of any verdict of any row.
        flips: share of rows whose most probable verdict differs.
        failed: the limits that it breaks, in words; the reference and a base model break none.
    """

    name: str
    kind: str
    digest: str
    log_loss: Estimate | None = None
    accuracy: float | None = None
    median_verdict_mass: float | None = None
    not_scored: int = 0
    log_loss_change: Estimate | None = None
    mean_kl: float | None = None
    largest_change: float | None = None
    flips: float | None = None
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Drift:
    """The figures of all stages, in their order."""

    table: str
    rows: int
    labelled_rows: int
    groups: int
    reference: int
    limits: Limits
    stages: list[StageFigures]
    notes: list[str]

    @property
    def passed(self) -> bool:
        """Whether no stage breaks a limit."""
        return not any(stage.failed for stage in self.stages)

    def record(self) -> dict[str, Any]:
        """Return what is kept with the bundle, for JSON."""
        return {"passed": self.passed, **asdict(self)}


def kind_of(model: ModelFolder) -> str:
    """Return what a stage is, in a word."""
    if model.adapter is not None:
        return "adapter"
    if model.quantization_method is not None:
        return "4-bit"
    if model.judge is None:
        return "base"
    return "merged" if any(stage.get("stage") == "merged" for stage in model.judge.stages) else "model"


def compare(
    stages: Sequence[ModelFolder], read: Sequence[StoredPredictions], rows: Rows, limits: Limits, reference: int
) -> Drift:
    """Return the figures of predictions that are of the same rows, in the same order."""
    figures = [
        _figures(stage, stored, read[reference] if number != reference else None, rows)
        for number, (stage, stored) in enumerate(zip(stages, read, strict=True))
    ]
    notes, labelled = [*rows.notes], int((rows.labels >= 0).sum())
    if not labelled:
        notes.append("no row has a label: the log loss is not measured")
    for stage in figures[reference + 1 :]:
        stage.failed = _failed(stage, limits)
        change = stage.log_loss_change
        if change is not None and change.low is not None and change.high is not None:
            width = (change.high - change.low) / 2
            if width > limits.log_loss:
                known = f"the change of its log loss is known to within {width:.4f} only"
                notes.append(f"{stage.name}: {known}; more rows would tell")
    return Drift(rows.name, len(rows), labelled, len(np.unique(rows.groups)), reference, limits, figures, notes)


def _figures(
    stage: ModelFolder, stored: StoredPredictions, reference: StoredPredictions | None, rows: Rows
) -> StageFigures:
    mass = stored.verdict_mass
    known = mass[np.isfinite(mass)] if mass is not None else np.empty(0)
    figures = StageFigures(
        name=printable(stage.folder.name, 80),
        kind=kind_of(stage),
        digest=stage.digest(),
        median_verdict_mass=float(np.median(known)) if len(known) else None,
        not_scored=int(stored.has(Flag.NOT_SCORED).sum()),
        **(changes(reference.p, stored.p) if reference is not None else {}),
    )
    labelled = rows.labels >= 0
    if labelled.any():
        labels, p = rows.labels[labelled], stored.p[labelled]
        losses = log_losses(p, labels)
        columns = [losses] if reference is None else [losses, losses - log_losses(reference.p[labelled], labels)]
        figures.log_loss, *change = Resampler(rows.groups[labelled]).estimate(np.column_stack(columns))
        figures.log_loss_change = change[0] if change else None
        figures.accuracy = float(hits(p, labels).mean())
    return figures


def changes(reference: Float, p: Float) -> dict[str, Any]:
    """Return how probabilities differ from the reference's, both of shape (rows, 3): KL, largest |Δp|, flips.

    Of equally probable verdicts, the first counts as the most probable one.
    """
    smallest = np.finfo(np.float64).tiny  # KL of a zero would be infinite
    return {
        "mean_kl": float(divergence(reference, np.maximum(p, smallest)).mean()),
        "largest_change": float(np.abs(p - reference).max()),
        "flips": float((p.argmax(axis=1) != reference.argmax(axis=1)).mean()),
    }


def _failed(stage: StageFigures, limits: Limits) -> list[str]:
    failed = []
    change = stage.log_loss_change
    if change is not None and change.value > limits.log_loss:
        failed.append(f"log loss {change.value:+.4f} (limit +{limits.log_loss:g})")
    if stage.flips is not None and stage.flips > limits.flips:
        failed.append(f"flips {stage.flips:.1%} (limit {limits.flips:.1%})")
    if stage.not_scored:
        failed.append(f"{counted(stage.not_scored, 'row')} could not be scored")
    return failed
