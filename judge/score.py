"""Scoring a table: prompts through an engine in shards, both orders where wanted, predictions out.

The steps, in order: check the model and the template, start the engines, prepare the table (or take up
what an interrupted run prepared), read the first order, then the exchanged order of the rows that the swap
policy picks, and put the predictions together in the table's order.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from judge import __version__
from judge.bundle import ModelFolder
from judge.encoding import TextEncoder, load_tokenizer
from judge.engine import WITHOUT_MASS
from judge.engine.pool import WORKER_COMMAND, Job, WorkerPool
from judge.errors import JudgeError
from judge.predictions import Predictions
from judge.prepared import Prepared, is_prepared, open_prepared, prepare
from judge.prompt import PromptBuilder
from judge.run_folder import Manifest, RunFolder
from judge.score_settings import (
    ScoreSettings,
    choose_budget,
    choose_calibration,
    choose_template,
    differs_from_calibrating,
    differs_from_training,
    how_weights_are_read,
    make_pool,
    refuse_inexact,
    swap_share,
)
from judge.shards import Shard, make_shards, reading_order
from judge.table import Table
from judge.trained_rows import joined, trained_rows_of
from judge.verdict import SWAPPED, Float, average_orders, divergence, entropy, probabilities, unread

# `--swap=auto` goes on while the last tenth of the rows gained at least this much.
AUTO_SWAP_GAIN = 1e-3
AUTO_SWAP_STEPS = 10
# A shard of at least this many prompts of which none gives a number ends the run.
HOPELESS_ROWS = 8


class Events(Protocol):
    """What a run tells whoever watches it."""

    def note(self, text: str) -> None:
        """A line of information or warning."""

    def prepared(self, rows: int) -> None:
        """`rows` rows have been read and tokenised so far."""

    def loading(self) -> None:
        """The table is ready and the engine is not yet."""

    def progress(self, prompts: int, all_prompts: int, tokens: int, all_tokens: int) -> None:
        """So many prompts and tokens have been scored, of so many that are planned."""


class Silent:
    """Events that nobody watches."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def prepared(self, rows: int) -> None:
        """Ignore it."""

    def loading(self) -> None:
        """Ignore it."""

    def progress(self, prompts: int, all_prompts: int, tokens: int, all_tokens: int) -> None:
        """Ignore it."""


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

    def start(self, say: Callable[[str], None]) -> None:
        """Start the engine processes, which load the model meanwhile; a 32-bit copy of its weights is made before.

        Args:
            say: told what is worth knowing on the way.

        Raises:
            JudgeError: the copy cannot be written.
        """
        if not self._ready:
            self.weights.make_ready(say)
            self._ready = True
        self.pool.start()

    @property
    def shard_tokens(self) -> int:
        """Tokens a shard: about half a minute on a CPU, a minute or two on a small GPU."""
        return self.settings.shard_tokens or (32_768 if self.pool.config.device == "cpu" else 262_144)

    def manifest(self, table: Table) -> Manifest:
        """Return the hashes and settings that decide what a run writes."""
        settings = {"template": self.template.name, **dataclasses.asdict(self.budget)}
        settings["shares"] = list(self.budget.shares)
        settings |= {
            "swap": self.settings.swap,
            "readout": self.settings.readout,
            "dtype": self.pool.config.dtype,
            "weights": self.weights.way,
            "shard_tokens": self.shard_tokens,
            "calibration": self.calibration.numbers() if self.calibration else "off",
        }
        return {
            "version": __version__,
            "table": table.digest(),
            "model": self.model.digest(),
            "template": self.template.digest,
            "prompt": self.builder.fingerprint(),
            "settings": settings,
        }

    def score(self, table: Table, run: RunFolder, events: Events) -> Predictions:
        """Score a table, going on with what the run folder already holds.

        Raises:
            JudgeError: the table cannot be read, or the engine does not work.
        """
        self.pool.say = events.note
        if self.calibration is not None:
            events.note(f"p_* are calibrated ({self.calibration.in_words()}); --calibration=off leaves them as read")
        self.start(events.note)  # loads the model while the table is prepared
        if is_prepared(run.path):
            prepared = open_prepared(run.path)
        else:
            prepared = prepare(table, self.builder, run.path, self.share != 0, events.prepared, self.trained_rows)
        if self.pool.ready_at is None:
            events.loading()
        reading = _Reading(self.pool, prepared, run, self.shard_tokens, events)
        rows = reading_order(prepared.lengths, prepared.rows["prompt_hash"])
        if self.share == 1:
            reading.read("both", rows, [False, True])
        else:
            reading.read("first", rows, [False])
            self._read_second(reading)
        return Predictions(
            prepared,
            reading.first,
            reading.second,
            self.settings.readout not in WITHOUT_MASS,
            reading.seconds,
            reading.tokens,
            self.calibration,
        )

    def _read_second(self, reading: _Reading) -> None:
        """Read the exchanged order of the rows that the swap policy picks, the least certain first."""
        if self.share == 0:
            return
        for name, rows in rows_to_swap(self.share, np.arange(len(reading.first)), reading.first, reading.second):
            reading.read(name, _in_reading_order(reading, rows), [True])


def rows_to_swap(
    share: float | None, rows: NDArray[np.int64], first: Float, second: Float
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield a name and the rows to read next in the exchanged order, the least certain first.

    Args:
        share: of the rows; None goes on as long as a tenth of them gains enough.
        rows: to choose from; those without numbers are left out.
        first: log-probabilities of all rows with A shown first, shape (all rows, 3).
        second: the same of the exchanged order, mapped back; whoever asks for the next rows has filled in the last.
    """
    uncertain = rows[np.argsort(-entropy(probabilities(first[rows])), kind="stable")]
    uncertain = uncertain[~unread(first[uncertain])]
    if share is not None:
        yield "swap", uncertain[: round(share * len(uncertain))]
        return
    for step, part in enumerate(np.array_split(uncertain, AUTO_SWAP_STEPS)):
        yield f"swap{step}", part
        both = average_orders(first[part], second[part])
        gain = float(divergence(both, probabilities(first[part])).mean()) if len(part) else 0.0
        if gain < AUTO_SWAP_GAIN:
            return


def _in_reading_order(reading: _Reading, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths, hashes = reading.prepared.lengths[rows], reading.prepared.rows["prompt_hash"][rows]
    return rows[reading_order(lengths, hashes)]


class _Reading:
    """Reads shards through a pool, writes them, and collects their log-probabilities by row."""

    def __init__(self, pool: WorkerPool, prepared: Prepared, run: RunFolder, shard_tokens: int, events: Events) -> None:
        self.pool, self.prepared, self.run, self.events = pool, prepared, run, events
        self.shard_tokens = shard_tokens
        count = len(prepared.rows)
        self.first = np.full((count, 3), np.nan)
        self.second = np.full((count, 3), np.nan)
        self.seconds, self.tokens = 0.0, 0
        self._prompts = self._all_prompts = self._all_tokens = self._known_tokens = 0

    def read(self, group: str, rows: Sequence[int] | NDArray[np.int64], orders: list[bool]) -> None:
        """Read `rows` in `orders`; shards of the same group that an earlier session wrote are taken over."""
        shards = make_shards(rows, orders, self.prepared.lengths, self.shard_tokens)
        open_shards: list[int] = []
        for number, shard in enumerate(shards):
            self._all_prompts += len(shard.rows)
            self._all_tokens += shard.tokens
            logprobs = self.run.read_shard(group, number, shard)
            if logprobs is None:
                open_shards.append(number)
            else:
                self._take(shard, logprobs)
        began = time.monotonic()
        inside: dict[int, int] = {}

        def tell() -> None:
            # tokens of an open shard are taken as spread evenly over its prompts
            part = sum(shards[n].tokens * k // len(shards[n].rows) for n, k in inside.items())
            self.events.progress(
                self._prompts + sum(inside.values()),
                self._all_prompts,
                self._known_tokens + part,
                self._all_tokens,
            )

        def progress(number: int, prompts: int) -> None:
            inside[number] = min(inside.get(number, 0) + prompts, len(shards[number].rows))
            tell()

        def done(number: int, logprobs: Float) -> None:
            shard = shards[number]
            if len(shard.rows) >= HOPELESS_ROWS and np.isnan(logprobs).all():
                raise JudgeError(
                    f"all {len(shard.rows)} prompts of a shard came out as NaN: the model does not work in "
                    f"{self.pool.config.dtype}; try another --dtype"
                )
            self.run.write_shard(group, number, shard, logprobs)
            self._take(shard, logprobs)
            self.tokens += shard.tokens
            inside.pop(number, None)
            tell()

        jobs = [Job(n, len(shards[n].rows), self._loader(shards[n])) for n in open_shards]
        self.pool.run(jobs, done, progress)
        if jobs:  # loading the model does not count
            self.seconds += time.monotonic() - max(began, self.pool.ready_at or began)

    def _loader(self, shard: Shard) -> Callable[[], list[NDArray[np.int32]]]:
        return lambda: [
            self.prepared.prompt(int(row), bool(swapped))
            for row, swapped in zip(shard.rows, shard.swapped, strict=True)
        ]

    def _take(self, shard: Shard, logprobs: Float) -> None:
        self.first[shard.rows[~shard.swapped]] = logprobs[~shard.swapped]
        self.second[shard.rows[shard.swapped]] = logprobs[shard.swapped][:, SWAPPED]
        self._prompts += len(shard.rows)
        self._known_tokens += shard.tokens
