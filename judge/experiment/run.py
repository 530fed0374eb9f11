"""An experiment from its settings to its result.

The steps, in order: check the arms and the table, train the judges of arms that are trained, say what the rows can
show, read every arm's prompts, compare the arms. The folder keeps what has been read. So the same experiment goes on
where it stopped, and an experiment with more arms or rows reads only what is new.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from judge.errors import JudgeError, RunInterrupted, counted
from judge.evaluation.judged_rows import JudgedRows
from judge.experiment.arms import Arm, check_templates, refuse_identical, resolve_arms
from judge.experiment.cache import ReadingCache
from judge.experiment.files import RECORD, is_complete, record_of, write_record
from judge.experiment.power import SPREADS, smallest_difference
from judge.experiment.reading import ArmReading
from judge.experiment.result import ArmScores, ExperimentResult, cost_of, metric_scores
from judge.experiment.rows import ExperimentRows, draw_rows
from judge.experiment.settings import ExperimentSettings
from judge.experiment.statistics import differences
from judge.experiment.text import plan_lines, power_lines
from judge.experiment.train_arms import FOLDER as TRAINED
from judge.experiment.train_arms import check_training, train_arms
from judge.models.trained_rows import trained_rows_of
from judge.runs.folder import RunFolder
from judge.runs.prepared import Prepared, prepare
from judge.runs.progress import Progress, Silent
from judge.runs.reading import Tally
from judge.stats.resample import FEW_GROUPS
from judge.tables.table import Table

CACHE, LOGS, PREPARED = "cache", "logs", "prepared"
# What lies in the folder of an experiment that stopped before it wrote its record.
_BEFORE_RECORD = ("lock", TRAINED, LOGS, CACHE, PREPARED)


def run_experiment(
    settings: ExperimentSettings, folder: Path, progress: Progress | None = None, cache: Path | None = None
) -> ExperimentResult:
    """Do an experiment.

    Args:
        folder: keeps the record, the cache, the logs and the trained judges; it is made if it does not exist.
        progress: hears how far it is, and gets notes of what the user should know before anything is read.
        cache: another folder for the cache, to share it between experiments.

    Raises:
        JudgeError: a mistake in the settings, the models or the table, found before a model is loaded and anything is
            written; or an engine or a training run that fails.
        RunInterrupted: Ctrl-C; what has been read is kept.
    """
    progress = progress or Silent()
    check_folder(folder)
    check_cache(cache)
    check_templates(settings)
    table = Table.open(settings.data, settings.cells, settings.on_bad_row)
    if any(arm.train is not None for arm in settings.arms):
        check_training(settings)

    def arms_and_rows(trained: dict[str, dict[int, Path]]) -> tuple[list[Arm], ExperimentRows]:
        arms = resolve_arms(settings, folder / LOGS, trained)
        refuse_identical(arms)
        trained_rows = trained_rows_of(*{arm.scorer.model.folder: arm.scorer.model for arm in arms}.values())
        return arms, draw_rows(table, trained_rows, settings.rows, settings.seed)

    try:
        # check the table and the arms that are not trained before hours of training
        arms, rows = arms_and_rows({})
        for text in plan_lines(settings):
            progress.note(text)
        trained = train_arms(settings, folder, progress)
        if trained:
            arms, rows = arms_and_rows(trained)
        with RunFolder(folder):
            return _Experiment(settings, folder, progress, arms, table, rows).run(cache or folder / CACHE)
    except KeyboardInterrupt:
        raise RunInterrupted(f"stopped; what is finished is kept in {folder}: give the same command to go on") from None


def check_folder(folder: Path) -> None:
    """Check before a run that its results can be kept in `folder`.

    Raises:
        JudgeError: a file, a folder whose parent is not there, or one that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise JudgeError(f"{folder}: is a file; an experiment is kept in a folder")
    if not folder.resolve().parent.is_dir():
        raise JudgeError(f"{folder}: there is no folder {folder.parent} to make it in")
    if folder.is_dir() and not (folder / RECORD).exists():
        names = {entry.name for entry in folder.iterdir()}.difference(_BEFORE_RECORD)
        if not all(name.startswith(f".{RECORD}.") for name in names):  # of a process that was killed
            raise JudgeError(f"{folder}: holds files that are not of an experiment; choose another folder")


def check_cache(folder: Path | None) -> None:
    """Check before a run that a cache can be kept in `folder`.

    Raises:
        JudgeError: the cache is a file, or lies in a file.
    """
    for path in [] if folder is None else [folder, *folder.resolve().parents]:
        if path.exists() and not path.is_dir():
            raise JudgeError(f"{path}: is a file; a cache is kept in a folder")


@dataclass
class _Experiment:
    """An experiment whose arms and rows are known: reads the arms and compares them."""

    settings: ExperimentSettings
    folder: Path
    progress: Progress
    arms: list[Arm]
    table: Table
    rows: ExperimentRows
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def planned(self) -> float:
        """The smallest difference that the rows are expected to show."""
        settings, compared = self.settings, len(self.settings.arms) - 1
        return smallest_difference(self.rows.groups, SPREADS[settings.metric], compared, settings.level, settings.power)

    def warn(self, text: str) -> None:
        """Note a warning now, and keep it for the result."""
        self.warnings.append(text)
        self.progress.warn(text)

    def run(self, cache_folder: Path) -> ExperimentResult:
        """Read all arms and compare them."""
        self._announce()
        record = record_of(self.settings, self.arms, self.table, self.rows, self.planned)
        if not is_complete(self.folder):  # else the results that lie there are still what the record says
            write_record(self.folder, {**record, "state": "unfinished"})
        cache = ReadingCache(cache_folder, self.warn)
        prepared_folder = self.folder / PREPARED
        shutil.rmtree(prepared_folder, ignore_errors=True)  # of a run that was killed
        try:
            prepared = self._prepare(prepared_folder)
            self._compare_prompts(prepared)
            scores = self._read(prepared, cache)
        finally:
            shutil.rmtree(prepared_folder, ignore_errors=True)
        result = self._result(scores, record)
        write_record(self.folder, result.record)
        return result

    def _announce(self) -> None:
        for note in self.rows.notes:
            self.progress.note(f"{self.table.name}: {note}")
        for arm in self.arms:
            for warning in arm.warnings():
                self.warn(warning)
        groups = len(np.unique(self.rows.groups))
        if groups < FEW_GROUPS:
            self.warn(f"the rows have only {counted(groups, 'prompt group')}: intervals and tests say little")
        spread = SPREADS[self.settings.metric]
        for text in power_lines(self.settings, len(self.rows), groups, self.planned, spread):
            self.progress.note(text)
        if any(arm.seed is not None for arm in self.arms):
            self.progress.note("this leaves out the spread between training seeds")

    def _prepare(self, folder: Path) -> list[Prepared]:
        """Build every arm's prompts; arms with equal prompts share one copy."""
        swapped = {_prompts_of(arm) for arm in self.arms if arm.scorer.share != 0}
        made: dict[tuple[str, str], Prepared] = {}
        for number, arm in enumerate(self.arms):
            key = _prompts_of(arm)
            if key not in made:
                place = folder / str(number)
                place.mkdir(parents=True)
                scorer = arm.scorer
                made[key] = prepare(
                    self.rows.table, scorer.builder, place, key in swapped, self.progress, scorer.trained_rows
                )
        return [made[_prompts_of(arm)] for arm in self.arms]

    def _compare_prompts(self, prepared: Sequence[Prepared]) -> None:
        """Warn of arms that differ in their budgets only where no prompt of either is cut."""
        seen: dict[tuple[Any, ...], str] = {}
        for arm, prompts in zip(self.arms, prepared, strict=True):
            if (prompts.rows["cut"] > 0).any() or (prompts.rows["cut_turns"] > 0).any():
                continue
            effect = arm.effect()
            key = (effect[0], arm.scorer.template.digest, *effect[2:])
            other = seen.setdefault(key, arm.title)
            if other != arm.title:
                self.warn(
                    f"arms {other!r} and {arm.title!r} read the same prompts: no row is longer than their budgets"
                )

    def _read(self, prepared: Sequence[Prepared], cache: ReadingCache) -> list[ArmScores]:
        """Read every arm's prompts; arms with the same model share one start of the engine."""
        tally = Tally(self.progress)
        widest = sorted(self.arms, key=lambda arm: arm.scorer.budget.max_tokens)
        hosts = {arm.engine: arm for arm in widest}
        readings = [
            ArmReading(arm, prompts, cache, hosts[arm.engine], tally)
            for arm, prompts in zip(self.arms, prepared, strict=True)
        ]
        for engine in dict.fromkeys(arm.engine for arm in self.arms):
            try:
                for reading in readings:
                    if reading.arm.engine == engine:
                        reading.read_rows(self.rows.order)
            finally:
                hosts[engine].scorer.close()
        return [reading.scores(self.rows.order) for reading in readings]

    def _result(self, scores: list[ArmScores], record: dict[str, Any]) -> ExperimentResult:
        settings = self.settings
        by_name = {arm.name: [one for one in scores if one.name == arm.name] for arm in settings.arms}
        compared = differences(
            {name: metric_scores(arms, self.rows.labels, settings.metric) for name, arms in by_name.items()},
            settings.baseline_name,
            self.rows.groups,
            settings.metric,
            margin=settings.smallest_that_matters,
            level=settings.level,
            power=settings.power,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        costs = [cost_of(of_arm) for of_arm in by_name.values()]
        not_scored = sum(cost.not_scored for cost in costs)
        if not_scored:
            self.warn(
                f"the engine gave no number for {counted(not_scored, 'row')}, which are left out where they are missing"
            )
        return ExperimentResult(
            settings=settings,
            table=self.table.name,
            rows=_judged(self.rows, by_name[settings.baseline_name][0]),
            arms=scores,
            differences=compared,
            planned_smallest=self.planned,
            warnings=self.warnings,
            costs=costs,
            record={**record, "state": "complete", "warnings": self.warnings},
            folder=self.folder,
        )


def _prompts_of(arm: Arm) -> tuple[str, str]:
    """Return what decides an arm's prompts and their flags."""
    return arm.scorer.builder.fingerprint(), arm.model.digest()


def _judged(rows: ExperimentRows, baseline: ArmScores) -> JudgedRows:
    return JudgedRows(
        ids=rows.ids,
        p=baseline.p,
        labels=rows.labels,
        groups=rows.groups,
        flags=baseline.flags,
        verdict_mass=baseline.verdict_mass,
        first=baseline.first,
        second=baseline.second,
        cut=baseline.cut,
        facts=rows.facts,
    )
