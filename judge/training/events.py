"""What a training run tells whoever watches it."""

from __future__ import annotations

from typing import Any, Protocol


class TrainingEvents(Protocol):
    """What a training run tells whoever watches it."""

    def note(self, text: str) -> None:
        """A line of information."""

    def warn(self, text: str) -> None:
        """A line that should be noticed."""

    def reading(self, rows: int) -> None:
        """So many rows have been read and tokenised."""

    def trained(self, step: int, steps: int, loss: float | None) -> None:
        """So many optimizer steps are done, of so many; the latest mean loss."""

    def evaluating(self, batches: int, all_batches: int | None) -> None:
        """So many batches of held-out rows have been read, of so many."""

    def evaluated(self, step: int, figures: dict[str, Any]) -> None:
        """The held-out rows have been read at this step (0: before training)."""
