"""How fast prompts are read."""

from __future__ import annotations

from dataclasses import dataclass, field

# The speed is that of the last quarter of the reading.
RECENT = 0.25


@dataclass
class Speed:
    """Work done a second of reading; times at which nothing was read do not count.

    Attributes:
        engines: that read at the same time.
    """

    engines: int = 1
    _points: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])  # busy seconds, work
    _busy: float = 0.0
    _since: float | None = None

    def begin(self, now: float) -> None:
        """Reading begins, or goes on after a pause."""
        if self._since is None:
            self._since = now

    def pause(self, now: float) -> None:
        """Nothing is read from now on."""
        self._busy = self.busy(now)
        self._since = None

    def busy(self, now: float) -> float:
        """Return the seconds of reading so far."""
        return self._busy if self._since is None else self._busy + max(now - self._since, 0)

    def observe(self, now: float, work: float) -> None:
        """So much work has been done since the very beginning."""
        busy = self.busy(now)
        if busy - self._points[-1][0] >= 0.01 * busy and work > self._points[-1][1]:
            self._points.append((busy, work))

    def value(self, now: float) -> float | None:
        """Return the recent speed, None before anything is known. Silence makes it smaller."""
        if len(self._points) < 2:
            return None
        busy, (_, work) = self.busy(now), self._points[-1]
        recent = [i for i, (at, _) in enumerate(self._points) if at <= (1 - RECENT) * busy]
        # the first step of an engine is no measure of the others
        fewest = 2 * self.engines  # points that it is measured over, if there are as many
        start = min(max(recent[-1] if recent else 0, 1), max(len(self._points) - 1 - fewest, 0))
        at, before = self._points[start]
        return (work - before) / max(busy - at, 1e-9)

    @property
    def points(self) -> int:
        """How often progress was seen."""
        return len(self._points) - 1
