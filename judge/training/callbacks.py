"""Callbacks of the trainer: when to evaluate and save, whole checkpoints, the metrics file, and checks."""

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
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from judge.errors import JudgeError
from judge.files import whole_file
from judge.runs.progress import Progress
from judge.training.heldout import FIGURES

WHOLE = "judge-whole"  # the mark of a checkpoint that is whole
MOVED_AFTER = 3  # after so many steps, trained weights must have changed
# Checkpoints for each evaluation, so that a killed run loses little.
CHECKPOINTS_PER_EVALUATION = 3


def chosen_steps(steps: int, count: int) -> set[int]:
    """Return `count` steps, evenly over the run, the last step among them."""
    return {max(1, math.ceil(steps * i / count)) for i in range(1, count + 1)}


class Schedule(TrainerCallback):  # type: ignore[misc]  # transformers is not analysed
    """Evaluates and saves at steps spread evenly over the run, the last one included."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for what this step is chosen for."""
        step, steps, count = state.global_step, state.max_steps, self.evaluations
        if step in chosen_steps(steps, count):
            control.should_evaluate = control.should_save = True
        if step in chosen_steps(steps, count * CHECKPOINTS_PER_EVALUATION):
            control.should_save = True


class WholeCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Marks each checkpoint when all of it is on the disk: a run goes on from the last one with a mark.

    The mark holds the names and sizes of the files. So a checkpoint that a killed run had half deleted does not count.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the mark, after everything else has reached the disk, on all devices."""
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in [*files, folder]:
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        with whole_file(folder / WHOLE) as temporary:
            temporary.write_text(json.dumps({str(p.relative_to(folder)): p.stat().st_size for p in files}))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the latest whole checkpoint below `folder`, or None."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}") if _is_whole(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(mark: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads(mark.read_text(encoding="utf-8"))
        return all((mark.parent / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


class MetricsFile(TrainerCallback):  # type: ignore[misc]
    """Writes every logged figure as a line of JSON, and tells how far the run is and what its evaluations found.

    Args:
        path: the file of lines.
        before: the file for the held-out figures from before the first step; a resumed run does not measure them again.
    """

    def __init__(self, path: Path, before: Path, progress: Progress, clock: Callable[[], float] = time.time) -> None:
        self.path, self.before, self.progress, self.clock = path, before, progress, clock
        self._loss: float | None = None
        self._batches = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop the lines that a resumed run will write again."""
        if state.is_world_process_zero and self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["step"] <= state.global_step]
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Tell the progress."""
        if state.is_world_process_zero:
            loss = f", loss {self._loss:.3f}" if self._loss is not None else ""
            text = f"step {state.global_step:,} of {state.max_steps:,}{loss}"
            self.progress.step("training", state.global_step, state.max_steps, text)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Write a line."""
        if not state.is_world_process_zero:
            return
        self._loss = logs.get("loss", self._loss)
        line = {"step": state.global_step, "time": round(self.clock(), 1), **logs}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_prediction_step(self, args: Any, state: TrainerState, control: Any, eval_dataloader: Any, **_: Any) -> None:
        """Tell the progress of an evaluation."""
        self._batches += 1
        if state.is_world_process_zero:
            total = len(eval_dataloader)
            self.progress.step("evaluating", self._batches, total, f"batch {self._batches:,} of {total:,}")

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: dict[str, Any], **_: Any) -> None:
        """Tell the held-out figures."""
        self._batches = 0
        if not state.is_world_process_zero or "eval_log_loss" not in metrics:
            return
        figures = {name: metrics[f"eval_{name}"] for name in FIGURES}
        if state.global_step == 0:
            with whole_file(self.before) as temporary:
                temporary.write_text(json.dumps(figures), encoding="utf-8")
        when = "before training" if state.global_step == 0 else f"step {state.global_step:,}"
        self.progress.note(
            f"{when}: held-out log loss {figures['log_loss']:.4f}, accuracy {figures['accuracy']:.1%}, "
            f"verdict mass {figures['verdict_mass']:.4f}"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, without a last line that a kill has cut off."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class WeightsMove(TrainerCallback):  # type: ignore[misc]
    """Stops a run whose trained weights do not change: its result would be the untrained model.

    Two kinds of steps change nothing and do not count: the first of a warm-up, with a learning rate of 0, and those
    that the gradient scaler of float16 skips.
    """

    def __init__(self) -> None:
        self._before: list[torch.Tensor] | None = None
        self._steps = 0
        self._rate = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: Any, **_: Any) -> None:
        """Keep a sum over each trained tensor."""
        self._before = _sums(model)
        if not self._before:
            raise JudgeError("no weight of the model is trainable: nothing can be learnt")

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, optimizer: Any, **_: Any) -> None:
        """Keep the learning rate of the step that begins."""
        self._rate = max(group["lr"] for group in optimizer.param_groups)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, model: Any, optimizer: Any, **_: Any) -> None:
        """Compare once, after `MOVED_AFTER` steps that should have changed something."""
        if self._before is None:
            return
        self._steps += self._rate > 0 and not getattr(optimizer, "step_was_skipped", False)
        if self._steps < MOVED_AFTER:
            return
        if all(torch.equal(a, b) for a, b in zip(self._before, _sums(model), strict=True)):
            raise JudgeError(
                f"after {state.global_step} steps no trained weight has changed: the gradients are zero or the "
                "learning rate is too small, and the result would be the untrained model"
            )
        self._before = None


class EpochOrder(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler which epoch begins, and checks that a whole epoch shows every row once.

    accelerate tells the sampler too, but not on several devices when a run resumes inside an epoch.

    Args:
        set_epoch: of the sampler.
        rows_seen: returns how many rows have gone through the model in training.
        rows: prompts of an epoch; None on several devices, which may repeat some rows so that all have as many.
    """

    def __init__(self, set_epoch: Callable[[int], None], rows_seen: Callable[[], int], rows: int | None) -> None:
        self.set_epoch, self.rows_seen, self.rows = set_epoch, rows_seen, rows
        self._began: tuple[int, int] | None = None

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, train_dataloader: Any, **_: Any) -> None:
        """Tell the sampler the epoch."""
        steps = max(math.ceil(len(train_dataloader) / args.gradient_accumulation_steps), 1)
        self.set_epoch(state.global_step // steps)
        self._began = (self.rows_seen(), state.global_step + steps) if state.global_step % steps == 0 else None

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check that the epoch showed as many rows as there are."""
        if self.rows is None or self._began is None or state.global_step != self._began[1]:
            return
        shown = self.rows_seen() - self._began[0]
        assert shown == self.rows, f"an epoch showed {shown} rows of {self.rows}"


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
        """Catch Ctrl-C from now on."""
        self._old = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        del number, frame
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop."""
        if self.interrupted and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Leave Ctrl-C to whoever had it before; does nothing if the run never caught it."""
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            self._old = None
