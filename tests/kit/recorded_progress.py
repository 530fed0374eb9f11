"""A `Progress` that keeps what it is told."""

from __future__ import annotations


class RecordedProgress:
    """Keeps notes, warnings and steps.

    Attributes:
        steps: name, done, total and text of each.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[tuple[str, float | None, float | None, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        del rate
        assert done is None or total is None or 0 <= done <= total
        self.steps.append((what, done, total, text))

    def named(self, what: str) -> list[tuple[float | None, float | None]]:
        """Return done and total of the steps of a name."""
        return [(done, total) for name, done, total, _ in self.steps if name == what]
