"""How every long-running stage tells whoever watches it how far it is: one protocol."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Watches a run; the terminal of the command line is one (`judge.runs.terminal`)."""

    def note(self, text: str) -> None:
        """Take a line of information."""

    def warn(self, text: str) -> None:
        """Take a line that the user should notice."""

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        """Take how far a step is.

        Args:
            what: names the step, such as `scoring`; another name begins another step.
            done, total: the work that is done and all of it, in any unit; None where it is not known.
            text: the same in words, such as `3 of 7 layers`. The terminal shows speed and time left behind it, or
                before its first semicolon.
            rate: unit of the speed to show, such as `tokens/s`; none is shown if it is empty.
        """


class Silent:
    """A `Progress` that nobody watches."""

    def note(self, text: str) -> None:
        """Ignore it."""

    def warn(self, text: str) -> None:
        """Ignore it."""

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        """Ignore it."""
