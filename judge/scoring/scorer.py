"""Scoring a table: prompts through an engine in shards, both orders where wanted, predictions out.

The steps, in order: check the model and the template, start the engines, prepare the table (or take up what an
interrupted run prepared), read its prompts (`judge.scoring.reading`), and put the predictions together in the table's
order. They are the same with a deadline and without: the deadline of a run without one is infinitely far away.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.deadline import Deadline, DeadlinePassed, within
from judge.engine.choose import how_weights_are_read, make_pool
from judge.engine.pool import CLOSING_SECONDS, WORKER_COMMAND
from judge.engine.protocol import WITHOUT_MASS
from judge.models.bundle import ModelFolder
from judge.models.prompting import choose_budget, choose_template, differs_from_training
from judge.models.trained_rows import trained_rows_of
from judge.predictions.predictions import GivenUp, Predictions, training_rates
from judge.prompting.builder import PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.runs.folder import NOT_HASHED, Manifest, RunFolder
from judge.runs.prepared import DONE, Prepared, open_prepared, prepare, without_prompts
from judge.runs.progress import Progress
from judge.scoring.reading import Budgets, Reading, reserve, work_of
from judge.scoring.settings import ScoreSettings, choose_calibration, differs_from_calibrating, swap_share
from judge.tables.comparison import Flag
from judge.tables.table import Table
from judge.version import __version__


class Scorer:
    """One model, template and settings, ready to score tables. Close it, or use it in a `with` block.

    Args:
        model: the checked model folder.
        log_folder: where engine processes log.
        worker_command: the worker program.

    Attributes:
        shard_tokens: tokens of a shard.
        has_mass: whether the engine's log-probabilities are over the full vocabulary.
        was_taught_mass: False for a judge that was trained on the three logits alone, which leaves all others free.

    Raises:
        JudgeError: the settings do not go together, or the model cannot be used with them.
    """

    def __init__(
        self,
        model: ModelFolder,
        settings: ScoreSettings,
        log_folder: Path,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self.model, self.settings = model, settings
        self.budget, self.template = choose_budget(model, settings), choose_template(model, settings)
        self.builder = PromptBuilder(TextEncoder(load_tokenizer(model.path)), self.template, self.budget)
        self.warning = differs_from_training(model, settings, self.builder) if model.judge else None
        self.share, self.calibration = swap_share(settings.swap), choose_calibration(model, settings)
        self.calibration_warning = differs_from_calibrating(self.calibration, settings, self.builder)
        self.trained_rows = trained_rows_of(model)
        self.weights = how_weights_are_read(model, settings)
        self.pool = make_pool(self.weights, settings, self.builder, log_folder, worker_command)
        # about half a minute on a CPU, a minute or two on a small GPU
        self.shard_tokens = settings.shard_tokens or (262_144 if self.pool.config.device == "cuda" else 32_768)
        self.was_taught_mass = model.judge is None or model.judge.setting("loss") != "verdicts"
        self.has_mass = settings.readout not in WITHOUT_MASS
        self._is_ready = False

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine processes."""
        self.pool.close()

    def start(self, say: Callable[[str], None], stop_at: float = math.inf) -> None:
        """Start the engine processes, which load the model meanwhile; a 32-bit copy of its weights is made before.

        Args:
            say: takes what is worth knowing on the way.
            stop_at: from then on nobody waits for the engines (of time.monotonic()), and none is left running.

        Raises:
            JudgeError: the copy cannot be written.
        """
        if not self._is_ready:
            self.weights.make_ready(say)
        self._is_ready = True
        if time.monotonic() >= stop_at:
            return
        self.pool.start()
        if time.monotonic() >= stop_at:
            self.pool.close(at_once=True)

    def manifest(self, table: Table, hashed: bool = True) -> Manifest:
        """Return the hashes and settings that decide what a run writes.

        Args:
            hashed: False for a run whose time was up before its files were hashed; it fits no other run.
        """
        settings, prompt = self._settings(), self.builder.fingerprint()
        return {
            "version": __version__,
            "table": table.digest() if hashed else NOT_HASHED,
            "model": self.model.digest() if hashed else NOT_HASHED,
            "template": self.template.digest,
            "prompt": prompt,
            "settings": settings,
        }

    def _settings(self) -> dict[str, Any]:
        settings = {"template": self.template.name, **dataclasses.asdict(self.budget)}
        settings["shares"] = list(self.budget.shares)
        if self.pool.config.server is not None:
            settings |= {"engine": "server", "server": self.pool.config.server, "server_model": self.pool.config.model}
        return settings | {
            "swap": self.settings.swap,
            "readout": self.settings.readout,
            "dtype": self.pool.config.dtype,
            "weights": self.weights.way,
            "shard_tokens": self.shard_tokens,
            "calibration": self.calibration.numbers() if self.calibration else "off",
        }

    def score(
        self,
        table: Table,
        run: RunFolder,
        progress: Progress,
        deadline: Deadline | None = None,
        restart: bool | None = None,
    ) -> Predictions:
        """Score a table, going on with what the run folder already holds.

        Args:
            deadline: what cannot be read by then is given up, in the order that docs/deadline.md states.
            restart: hash the table and the model while the engines load it, and take up the run that the folder holds,
                or begin a new one (see `RunFolder.begin`); None if the caller has done that.

        Raises:
            JudgeError: the table cannot be read, or the engine does not work.
        """
        deadline, bare, stop_at = deadline or Deadline(), None, math.inf
        self.pool.say = progress.note
        if deadline.at < math.inf:
            bare = without_prompts(table, run.path, self.trained_rows)
            stop_at = deadline.at - reserve(len(bare.rows))
        try:
            self._take_up(table, run, progress, restart, stop_at)
            began = time.monotonic()
            both = self.share != 0
            prepared = open_prepared(run.path) if began < stop_at else None
            prepared = prepared or prepare(
                table, self.builder, run.path, both, progress, self.trained_rows, stop_at=stop_at
            )
        except DeadlinePassed:
            assert bare is not None
            run.manifest = run.manifest or self.manifest(table, hashed=False)
            progress.note("deadline: the time was up before anything was read; all rows get the class priors")
            return self._nothing_read(bare, deadline)
        reading = Reading(
            self.pool,
            prepared,
            run,
            self.shard_tokens,
            progress,
            deadline,
            Budgets(
                self.budget.max_tokens,
                self.builder.least_tokens,
                work_of(self.model.config) if bare is not None else lambda lengths: lengths.astype(np.float64),
                time.monotonic() - began,
                lambda budget, rows: self._rebuilt(table, run, progress, stop_at, budget, rows),
            ),
        )
        reading.read_all(self.share)
        known, given_up = prepared, None
        if bare is not None:
            if deadline.left() < CLOSING_SECONDS + reserve(len(prepared.rows)):
                self.pool.close(at_once=True)
            known, flags, smallest = reading.result()
            given_up = self._given_up(deadline, flags, smallest, reading.failed)
        effort = reading.reader.seconds, reading.reader.tokens
        return Predictions(known, reading.first, reading.second, self.has_mass, *effort, self.calibration, given_up)

    def _take_up(self, table: Table, run: RunFolder, progress: Progress, restart: bool | None, stop_at: float) -> None:
        """Start the engines, and take up the run that the folder holds or begin a new one (see `score`).

        Raises:
            DeadlinePassed: the time was up before the files were hashed.
            JudgeError: the folder holds another run.
        """

        def start() -> Manifest | None:
            self.start(progress.note, stop_at)
            return self.manifest(table) if restart is not None else None

        manifest = start() if stop_at == math.inf else within(stop_at, start)
        if manifest is not None and run.begin(manifest, bool(restart)):
            progress.note(f"going on with the unfinished run in {run.path}")
        if self.calibration is not None:
            in_words = self.calibration.in_words()
            progress.note(f"p_* are calibrated ({in_words}); --calibration=off leaves them as read")

    def _nothing_read(self, bare: Prepared, deadline: Deadline) -> Predictions:
        """Stop the engines and return the class priors for all rows."""
        self.pool.close(at_once=True)
        nan, flags = np.full((len(bare.rows), 3), np.nan), np.full(len(bare.rows), Flag.PRIOR, dtype=np.uint32)
        given_up = self._given_up(deadline, flags)
        return Predictions(bare, nan, nan.copy(), self.has_mass, 0.0, 0, self.calibration, given_up)

    def _given_up(
        self, deadline: Deadline, flags: NDArray[np.uint32], smallest: int | None = None, failed: str = ""
    ) -> GivenUp:
        rates = training_rates(self.model.judge)
        return GivenUp(deadline.text, flags, rates, smallest or self.budget.max_tokens, failed or None)

    def _rebuilt(
        self, table: Table, run: RunFolder, progress: Progress, stop_at: float, budget: int, rows: NDArray[np.bool_]
    ) -> Prepared:
        """Return the prompts of at least these rows, built with another budget, and keep them for a later session."""
        folder = run.path / f"budget-{budget}"
        prepared = open_prepared(folder)
        if prepared is not None:
            if (prepared.lengths[rows] > 0).all():
                return prepared
            rows = rows | (prepared.lengths > 0)
        folder.mkdir(exist_ok=True)
        (folder / DONE).unlink(missing_ok=True)
        builder = PromptBuilder(
            self.builder.encoder, self.template, dataclasses.replace(self.budget, max_tokens=budget)
        )
        return prepare(table, builder, folder, False, progress, only=rows, stop_at=stop_at)
