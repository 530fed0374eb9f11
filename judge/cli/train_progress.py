"""What a person sees while a judge is trained: a bar with loss and time left, lines in a log, a table at the end."""

from __future__ import annotations

from typing import Any

from judge.runs.terminal import Terminal, duration


class TrainingTerminal(Terminal):
    """Shows the events of a training run on standard error, and its figures on standard output."""

    def reading(self, rows: int) -> None:
        """Show how many rows have been read and tokenised."""
        self._show("reading", None, None, f"{rows:,} rows")

    def trained(self, step: int, steps: int, loss: float | None) -> None:
        """Show how far the training is, the loss, and the time left."""
        now = self._clock()
        if self._first is None:
            self._first = (now, step)
        text = f"step {step:,} of {steps:,}"
        if loss is not None:
            text += f", loss {loss:.3f}"
        seconds, done = now - self._first[0], step - self._first[1]
        if done > 0:
            text += f", {duration((steps - step) * seconds / done)} left"
        self._show("training", step, steps, text)

    def evaluating(self, batches: int, all_batches: int | None) -> None:
        """Show how far an evaluation is."""
        text = f"{batches:,} batches" if all_batches is None else f"batch {batches:,} of {all_batches:,}"
        self._show("evaluating", batches, all_batches, text)

    def evaluated(self, step: int, figures: dict[str, Any]) -> None:
        """Print the held-out figures of a step."""
        when = "before training" if step == 0 else f"step {step:,}"
        self._err.print(
            f"{when}: held-out log loss {figures['log_loss']:.4f}, accuracy {figures['accuracy']:.1%}, "
            f"verdict mass {figures['verdict_mass']:.4f}",
            soft_wrap=True,
        )
