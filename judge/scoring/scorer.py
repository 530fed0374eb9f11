"""Scoring a table: prompts through an engine in shards, both orders where wanted, predictions out.

The steps, in order: check the model and the template, start the engines, prepare the table (or take up
what an interrupted run prepared), read the first order, then the exchanged order of the rows that the swap
policy picks, and put the predictions together in the table's order.
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

from judge.deadline import Deadline, DeadlinePassed, stopping, within
from judge.engine.choose import how_weights_are_read, make_pool, refuse_inexact
from judge.engine.pool import CLOSING_SECONDS, WORKER_COMMAND
from judge.engine.protocol import WITHOUT_MASS
from judge.errors import JudgeError
from judge.models.bundle import ModelFolder
from judge.models.prompting import choose_budget, choose_template, differs_from_training
from judge.models.trained_rows import joined, trained_rows_of
from judge.predictions.predictions import GivenUp, Predictions, training_rates
from judge.prompting.builder import PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.runs.folder import Manifest, RunFolder
from judge.runs.prepared import DONE, Prepared, is_prepared, open_prepared, prepare, without_prompts
from judge.runs.shards import reading_order
from judge.scoring.paced_reading import PacedReading, reserve, work_of
from judge.scoring.reading import Events, Reading, rows_to_swap
from judge.scoring.settings import ScoreSettings, choose_calibration, differs_from_calibrating, swap_share
from judge.tables.comparison import Flag
from judge.tables.table import Table
from judge.version import __version__

# Stands for a hash in the record of a run that had no time to make it.
NOT_HASHED = "not hashed: the deadline had passed"


class Scorer:
    """One model, template and settings, ready to score tables. Close it, or use it in a `with` block.

    Args:
        model: the checked model folder.
        log_folder: where engine processes log.
        worker_command: the worker program.

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
        self.share = swap_share(settings.swap)
        self.template = choose_template(model, settings)
        refuse_inexact(model, settings.readout)
        self.budget = choose_budget(model, settings)
        self.builder = PromptBuilder(TextEncoder(load_tokenizer(model.path)), self.template, self.budget)
        self.warning = differs_from_training(model, settings, self.builder)
        self.calibration = choose_calibration(model, settings)
        self.calibration_warning = differs_from_calibrating(self.calibration, settings, self.builder)
        self.trained_rows = joined(trained_rows_of(model))
        self.weights = how_weights_are_read(model, settings)
        self.pool = make_pool(self.weights, settings, self.builder, log_folder, worker_command)
        self._ready = False

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
            say: told what is worth knowing on the way.
            stop_at: nobody waits for the engines from then on (of time.monotonic()): none is left running.

        Raises:
            JudgeError: the copy cannot be written.
        """
        if not self._ready:
            self.weights.make_ready(say)
            self._ready = True
        if time.monotonic() >= stop_at:
            return
        self.pool.start()
        if time.monotonic() >= stop_at:
            self.pool.close(at_once=True)

    @property
    def shard_tokens(self) -> int:
        """Tokens a shard: about half a minute on a CPU, a minute or two on a small GPU."""
        return self.settings.shard_tokens or (262_144 if self.pool.config.device == "cuda" else 32_768)

    def manifest_without_hashes(self) -> Manifest:
        """Return the manifest of a run whose time was up before the model was hashed; it fits no other run."""
        return self._manifest(NOT_HASHED, NOT_HASHED)

    def manifest(self, table: Table) -> Manifest:
        """Return the hashes and settings that decide what a run writes."""
        return self._manifest(table.digest(), self.model.digest())

    def _manifest(self, table: str, model: str) -> Manifest:
        return {
            "version": __version__,
            "table": table,
            "model": model,
            "template": self.template.digest,
            "prompt": self.builder.fingerprint(),
            "settings": self._settings(),
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

    def score(self, table: Table, run: RunFolder, events: Events, deadline: Deadline | None = None) -> Predictions:
        """Score a table, going on with what the run folder already holds.

        Args:
            deadline: what cannot be read by then is given up, in the order that docs/deadline.md states.

        Raises:
            JudgeError: the table cannot be read, or the engine does not work.
        """
        if deadline is not None:
            bare = self.without_prompts(table, run)
            return self.score_in_time(table, bare, run, events, deadline)
        self.pool.say = events.note
        if self.calibration is not None:
            events.note(f"p_* are calibrated ({self.calibration.in_words()}); --calibration=off leaves them as read")
        self.start(events.note)  # loads the model while the table is prepared
        prepared = self._prepared(table, run, events.prepared)
        if self.pool.ready_at is None:
            events.loading()
        reading = Reading(self.pool, prepared, run, self.shard_tokens, events)
        rows = reading_order(prepared.lengths, prepared.rows["prompt_hash"])
        if self.share == 1:
            reading.read("both", rows, [False, True])
        else:
            reading.read("first", rows, [False])
            self._read_second(reading)
        return self._predictions(reading)

    def without_prompts(self, table: Table, run: RunFolder) -> Prepared:
        """Return what is known of a table at once: what a run needs whose time is up before it reads anything."""
        return without_prompts(table, run.path, self.trained_rows)

    def stop_at(self, bare: Prepared, deadline: Deadline) -> float:
        """Return when reading must end so that the files are written in time, of time.monotonic()."""
        return deadline.at - reserve(len(bare.rows))

    def score_in_time(
        self, table: Table, bare: Prepared, run: RunFolder, events: Events, deadline: Deadline
    ) -> Predictions:
        """Score what can be scored in time.

        Args:
            bare: the table without prompts: what there is if the time is up before these are built.

        Raises:
            JudgeError: the engine does not start, or gives no numbers.
        """
        self.pool.say = events.note
        if self.calibration is not None:
            events.note(f"p_* are calibrated ({self.calibration.in_words()}); --calibration=off leaves them as read")
        stop_at = self.stop_at(bare, deadline)
        try:
            within(stop_at, lambda: self.start(events.note, stop_at))
            began = time.monotonic()
            prepared = self._prepared(table, run, stopping(events.prepared, stop_at))
        except DeadlinePassed:
            return self.nothing_read(bare, events, deadline)
        if self.pool.ready_at is None:
            events.loading()
        reading = PacedReading(
            self.pool,
            prepared,
            run,
            self.shard_tokens,
            events,
            deadline,
            work_of(self.model.config),
            (self.budget.max_tokens, self.builder.least_tokens),
            time.monotonic() - began,
            lambda budget, rows: self._rebuilt(table, run, events, stop_at, budget, rows),
        )
        failed = None
        try:
            reading.read_all(reading_order(prepared.lengths, prepared.rows["prompt_hash"]), self.share)
        except DeadlinePassed:
            events.note("deadline: the time for reading is up; the engines are stopped")
        except JudgeError as error:
            if not reading.tokens:  # an engine that does not start: to be put right, whatever is read already
                raise
            failed = str(error)
            events.note(f"warning: {error}; rows that were not read get the class priors")
        if deadline.left() < CLOSING_SECONDS + reserve(len(bare.rows)):
            self.pool.close(at_once=True)
        known, flags, smallest = reading.result()
        return self._predictions(reading, known, self._given_up(deadline, flags, smallest, failed))

    def _given_up(
        self, deadline: Deadline, flags: NDArray[np.uint32], smallest: int, failed: str | None = None
    ) -> GivenUp:
        return GivenUp(deadline.text, flags, training_rates(self.model.judge), smallest, failed)

    def nothing_read(self, bare: Prepared, events: Events, deadline: Deadline) -> Predictions:
        """Return the class priors for all rows."""
        events.note("deadline: the time was up before anything was read; all rows get the class priors")
        self.pool.close(at_once=True)
        nan = np.full((len(bare.rows), 3), np.nan)
        given_up = self._given_up(deadline, np.full(len(nan), Flag.PRIOR, dtype=np.uint32), self.budget.max_tokens)
        has_mass = self.settings.readout not in WITHOUT_MASS
        return Predictions(bare, nan, nan.copy(), has_mass, 0.0, 0, self.calibration, given_up)

    def _rebuilt(
        self, table: Table, run: RunFolder, events: Events, stop_at: float, budget: int, rows: NDArray[np.bool_]
    ) -> Prepared:
        """Return the prompts of some rows at least, built with another budget; kept for when the run goes on."""
        folder = run.path / f"budget-{budget}"
        if is_prepared(folder):
            prepared = open_prepared(folder)
            if (prepared.lengths[rows] > 0).all():
                return prepared
            rows = rows | (prepared.lengths > 0)
        folder.mkdir(exist_ok=True)
        (folder / DONE).unlink(missing_ok=True)
        encoder, smaller = self.builder.encoder, dataclasses.replace(self.budget, max_tokens=budget)
        builder = PromptBuilder(encoder, self.template, smaller)
        return prepare(table, builder, folder, False, stopping(events.prepared, stop_at), only=rows)

    def _prepared(self, table: Table, run: RunFolder, on_progress: Callable[[int], None]) -> Prepared:
        if is_prepared(run.path):
            return open_prepared(run.path)
        return prepare(table, self.builder, run.path, self.share != 0, on_progress, self.trained_rows)

    def _predictions(
        self, reading: Reading, prepared: Prepared | None = None, given_up: GivenUp | None = None
    ) -> Predictions:
        return Predictions(
            prepared or reading.prepared,
            reading.first,
            reading.second,
            self.settings.readout not in WITHOUT_MASS,
            reading.seconds,
            reading.tokens,
            self.calibration,
            given_up,
        )

    def _read_second(self, reading: Reading) -> None:
        """Read the exchanged order of the rows that the swap policy picks, the least certain first."""
        if self.share == 0:
            return
        for name, rows in rows_to_swap(self.share, np.arange(len(reading.first)), reading.first, reading.second):
            reading.read(name, reading.in_reading_order(rows), [True])
