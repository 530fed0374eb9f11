"""The thread that a server's requests are sent from, and the record of how long the server has been silent."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from judge.engine.server.requests import Client, Unavailable
from judge.errors import JudgeError

Result = TypeVar("Result")

# Shorter interruptions are not worth a line.
UNTOLD_SECONDS = 2.0


@dataclass
class Outage:
    """How long the server has been giving no answer. Written by the loop's thread, read by the caller's."""

    url: str
    patience: float
    began: float | None = None
    told: bool = False
    count: int = 0
    lines: deque[str] = field(default_factory=deque)

    def note(self, error: Unavailable) -> None:
        """Take note of a request without an answer.

        Raises:
            JudgeError: there has been none for too long.
        """
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        silent = now - self.began
        if silent >= self.patience:
            raise JudgeError(
                f"{self.url}: no answer for {silent:,.0f} s ({error}); what is finished is kept: start the server "
                "again as before, then give the same command again"
            )
        if silent > UNTOLD_SECONDS and not self.told:
            self.told, self.count = True, self.count + 1
            self.lines.append(f"{self.url} does not answer ({error}); trying again for up to {self.patience:g} s")

    def over(self) -> None:
        """Take note of an answer."""
        if self.told:
            self.lines.append(f"{self.url} answers again")
        self.began, self.told = None, False


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge-server", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start some work; its result can be waited for in any thread, and cancelled."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, client: Client | None = None) -> None:
        """Cancel what is going on, close the client's connections and end the thread."""
        with contextlib.suppress(TimeoutError):
            self.submit(_end(client)).result(timeout=2)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=2)
        if not self._thread.is_alive():
            self._loop.close()


async def _end(client: Client | None) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if client is not None:
        await client.close()
