"""What merging and quantising tell whoever watches them."""

from __future__ import annotations

from typing import Protocol


class MergeEvents(Protocol):
    """What a merge tells whoever watches it."""

    def note(self, text: str) -> None:
        """A line of information."""

    def warn(self, text: str) -> None:
        """A line that should be noticed."""

    def working(self, what: str, done: int, total: int) -> None:
        """So much of a step is done: bytes written, or comparisons read."""


class QuantizeEvents(Protocol):
    """What quantising tells whoever watches it."""

    def note(self, text: str) -> None:
        """A line of information."""

    def warn(self, text: str) -> None:
        """A line that should be noticed."""

    def loading(self) -> None:
        """The checks are done; libraries and weights are being loaded."""

    def layer(self, done: int, total: int) -> None:
        """So many decoder blocks are done, of so many."""

    def writing(self) -> None:
        """The 4-bit model is being put together and written."""
