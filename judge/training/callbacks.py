"""What happens at certain steps of a run: evaluations, checkpoints, the metrics file, and checks that it learns."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from judge.errors import JudgeError
from judge.run_folder import whole_file
from judge.training.events import TrainingEvents
from judge.training.heldout import FIGURES

WHOLE = "judge-whole"  # the file that says that a checkpoint was written to its end
MOVED_AFTER = 3  # steps after which trained weights must differ from what they were
# Checkpoints between two evaluations, so that a killed run loses little.
CHECKPOINTS_PER_EVALUATION = 3


def chosen_steps(steps: int, count: int) -> set[int]:
    """Return `count` steps, evenly over the run, the last step among them."""
    return {max(1, math.ceil(steps * i / count)) for i in range(1, count + 1)}


class Schedule(TrainerCallback):  # type: ignore[misc]  # transformers is not analysed
    """Evaluates and saves at steps spread evenly over the run, the last one included."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations
        self._evaluate: set[int] = set()
        self._save: set[int] = set()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Choose the steps."""
        del args, control
        self._evaluate = chosen_steps(state.max_steps, self.evaluations)
        self._save = chosen_steps(state.max_steps, self.evaluations * CHECKPOINTS_PER_EVALUATION) | self._evaluate

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for what this step is chosen for."""
        del args
        control.should_evaluate = control.should_evaluate or state.global_step in self._evaluate
        control.should_save = control.should_save or state.global_step in self._save


class WholeCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Marks each checkpoint once it is written, so that a run killed while writing one goes on from the one before."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the mark, after everything else has reached the disk."""
        del control
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for path in [*folder.rglob("*"), folder]:
            if path.is_file() or path == folder:
                handle = os.open(path, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)
        (folder / WHOLE).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """Return the latest whole checkpoint below `folder`, or None."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class MetricsFile(TrainerCallback):  # type: ignore[misc]
    """Writes every logged figure as a line of JSON, the held-out figures from before the first step, tells the events.

    Args:
        path: the file of lines.
        before: the file for the figures from before the first step, which a resumed run does not measure again.
    """

    def __init__(
        self, path: Path, before: Path, events: TrainingEvents, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.before, self.events, self.clock = path, before, events, clock
        self._loss: float | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the lines that a resumed run is about to write again."""
        del args, control
        if state.is_world_process_zero and self.path.exists():
            lines = read_metrics(self.path)
            kept = [line for line in lines if line["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell the progress."""
        del args, control
        if state.is_world_process_zero:
            self.events.step(state.global_step, state.max_steps, self._loss)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write a line."""
        del args, control
        if not state.is_world_process_zero or not logs:
            return
        self._loss = logs.get("loss", self._loss)
        line = {"step": state.global_step, "time": round(self.clock(), 1), **logs}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Tell the held-out figures."""
        del args, control
        if not state.is_world_process_zero or not metrics or "eval_log_loss" not in metrics:
            return
        figures = {name: metrics[f"eval_{name}"] for name in FIGURES}
        if state.global_step == 0:
            with whole_file(self.before) as temporary:
                temporary.write_text(json.dumps(figures), encoding="utf-8")
        self.events.evaluated(state.global_step, figures)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a last line that was cut off by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class WeightsMove(TrainerCallback):  # type: ignore[misc]
    """Stops a run whose trained weights do not change: a frozen adapter looks like a judge and is none."""

    def __init__(self) -> None:
        self._before: list[torch.Tensor] | None = None
        self._check_at = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Keep a sum over each trained tensor."""
        del args, control
        self._before = _sums(model)
        if not self._before:
            raise JudgeError("no weight of the model is trainable: nothing can be learnt")
        self._check_at = min(state.global_step + MOVED_AFTER, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Compare, once."""
        del args, control
        if self._before is None or state.global_step < self._check_at:
            return
        if all(torch.equal(a, b) for a, b in zip(self._before, _sums(model), strict=True)):
            raise JudgeError(
                f"after {state.global_step} steps no trained weight has changed: the learning rate or the gradients "
                "are zero, and the result would be the untrained model"
            )
        self._before = None


def _sums(model: Any) -> list[torch.Tensor]:
    """Return the sum and the sum of squares of every trained tensor, in float64."""
    return [
        torch.stack([p.detach().double().sum(), p.detach().double().square().sum()]).cpu()
        for p in model.parameters()
        if p.requires_grad
    ]


class StopOnInterrupt(TrainerCallback):  # type: ignore[misc]
    """Lets Ctrl-C end the run after the current step, with a checkpoint; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._old: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the signal over."""
        del args, state, control
        self._old = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        del number, frame
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop."""
        del args
        if self.interrupted and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Give the signal back; safe to call when it was never taken."""
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            self._old = None
