"""Trains the judges of an experiment, every arm with the same seeds; a bundle that exists already is used again."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from judge.errors import JudgeError, RunInterrupted, printable
from judge.experiment.settings import ArmSettings, ExperimentSettings
from judge.prompting.template import load_template
from judge.runs.progress import Progress
from judge.tables.split import group_key, shuffled
from judge.tables.table import Table
from judge.training.settings import TrainSettings, parse_train_settings, read_config

FOLDER = "trained"
# Settings that change neither the weights nor the prompts of a judge, and those that its digests stand for.
_OUTSIDE = {"report_to", "log_every", "model", "continue_from", "data", "eval_data", "template"}


@dataclass
class _ArmProgress:
    """Passes on what one of many training runs tells, with the run's name before it.

    What a run says before its first evaluation is about data and settings that the arms share; it is left out.
    """

    title: str
    progress: Progress
    evaluates: bool = False

    def note(self, text: str) -> None:
        """Pass a line on, once the run evaluates."""
        if self.evaluates:
            self.progress.note(f"{self.title}: {text}")

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        self.progress.warn(f"{self.title}: {text}")

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        """Pass on how far the run is."""
        self.evaluates |= what == "evaluating"
        self.progress.step(f"{self.title}: {what}", done, total, text, rate)


def check_training(settings: ExperimentSettings) -> None:
    """Check the configs of all arms that are trained, and that their data and base models are there.

    Raises:
        JudgeError: a mistake in a config, one that holds out other rows with each seed, or two arms trained alike.
    """
    from judge.training.model import require_libraries

    seen: dict[tuple[str | int | None, ...], str] = {}
    for arm in settings.arms:
        if arm.train is None:
            continue
        values = train_settings(arm, settings.train_seeds[0])
        if values.eval_data is None:
            raise JudgeError(
                f"{arm.train}: give eval_data: without it, each seed holds out other rows, and the judges of arm "
                f"{printable(arm.name)!r} are not trained alike"
            )
        _tables(values, *values.data, values.eval_data)
        load_template(values.template)
        require_libraries(values)
        other = seen.setdefault((_digest(values), arm.train_rows, arm.swap, arm.calibration), arm.name)
        if other != arm.name:
            raise JudgeError(
                f"arms {printable(other)!r} and {printable(arm.name)!r} are identical: trained alike, with the same "
                "swap and calibration; change or leave out one of them"
            )


def train_settings(arm: ArmSettings, seed: int) -> TrainSettings:
    """Return the settings of one training run: the config's, with the arm's template and budget, and the seed.

    Raises:
        JudgeError: a config that cannot be read, or a mistake in it.
    """
    assert arm.train is not None
    given = {"template": arm.template, "max_tokens": arm.max_tokens, "truncation": arm.truncation}
    values = {**read_config(Path(arm.train)), **{k: v for k, v in given.items() if v is not None}, "seed": seed}
    return parse_train_settings(values, printable(arm.train, 255))


def train_arms(settings: ExperimentSettings, folder: Path, progress: Progress) -> dict[str, dict[int, Path]]:
    """Train the judges of all arms that name a config, except those that exist; go on with unfinished runs.

    Returns:
        The bundles by arm and seed.

    Raises:
        JudgeError: a training run fails.
    """
    bundles: dict[str, dict[int, Path]] = {}
    for arm in settings.arms:
        for seed in settings.train_seeds if arm.train is not None else []:
            values = train_settings(arm, seed)
            if arm.train_rows is not None:
                values = values.model_copy(update={"data": _drawn(values, arm.train_rows, folder / FOLDER)})
            bundles.setdefault(arm.name, {})[seed] = _train(arm, values, folder / FOLDER, progress)
    return bundles


def _train(arm: ArmSettings, values: TrainSettings, folder: Path, progress: Progress) -> Path:
    """Train one judge and return its bundle."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", arm.name).strip("-.").lower() or "arm"
    output = folder / f"{slug}-seed-{values.seed}-{_digest(values)[:12]}"
    if output.exists():
        return output
    from judge.training.train import train

    output.parent.mkdir(parents=True, exist_ok=True)
    resume = (output.with_name(output.name + ".parts") / "manifest.json").exists()
    title = f"training {printable(arm.name)}, seed {values.seed}"
    progress.note(f"{title}: {'going on' if resume else 'begins'}")
    try:
        train(values, output, resume, False, _ArmProgress(title, progress))
    except RunInterrupted:  # its advice is about judge train
        raise KeyboardInterrupt from None
    except JudgeError as error:
        raise JudgeError(f"{title}: {error}") from None
    return output


def _digest(values: TrainSettings) -> str:
    """Return a hash of all that decides the weights and the prompts of a training run."""
    from judge.training.model import open_base

    base, bundle = open_base(values)
    content = {
        **values.model_dump(mode="json", exclude=_OUTSIDE),
        "data": [table.digest() for table in _tables(values, *values.data, *filter(None, [values.eval_data]))],
        "names": [Path(path).name for path in values.data],  # a source is called by its file
        "models": [base.digest(), bundle.digest() if bundle is not None else None],
        "template": load_template(values.template).digest,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _tables(values: TrainSettings, *paths: str) -> list[Table]:
    """Open tables of the training run; a table without labels is refused."""
    return [Table.open(path, values.cells, labels="required") for path in paths]


def _drawn(values: TrainSettings, wanted: int, folder: Path) -> tuple[str, ...]:
    """Write tables with about `wanted` of the rows, drawn by prompt groups over all tables, and return their paths.

    The draw does not depend on the training seed, and a larger one holds a smaller one.
    """
    from judge.tables.table_writing import copy_rows

    tables = _tables(values, *values.data)
    groups = [
        np.array([group_key(row) for chunk in table.chunks() for row in chunk], dtype=np.uint64) for table in tables
    ]
    keys, counts = np.unique(np.concatenate(groups), return_counts=True)
    if wanted >= counts.sum():
        return values.data
    order = np.argsort(shuffled(keys, 0), kind="stable")
    chosen = keys[order[: max(int(np.searchsorted(np.cumsum(counts[order]), wanted, side="right")), 1)]]
    paths = []
    for path, table, of_table in zip(values.data, tables, groups, strict=True):
        keep = np.isin(of_table, chosen)
        if keep.any():
            target = folder / f"rows-{wanted}-{table.digest()[:12]}" / Path(path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                copy_rows(Path(path), keep, target)
            paths.append(str(target))
    return tuple(paths)
