"""Reads prompts through a running `vllm serve`, without an engine on this machine.

Token ids go in as they are, and the log-probabilities of the three verdicts over the whole vocabulary come back
(`logprob_token_ids` of /v1/completions): the same numbers as vLLM's in a worker process, up to what batches of another
composition change in the last digits. The server's prefix cache is shared within a job only, as it is there. No mask is
put on the vocabulary: it would change nothing in vLLM's default `raw_logprobs`, and hide the mass on the verdicts in a
server started with `processed_logprobs`.

A second thread with an event loop sends the requests; the caller's thread takes jobs and hands results over. A failure
that may pass by itself is followed by another try, after a longer pause each time, for as long as the user's patience
lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal

from judge.deadline import DeadlinePassed
from judge.engine.pool import Float, Job, Pool, Work
from judge.engine.protocol import EngineConfig
from judge.engine.server.checks import Connection, Endpoint, connect, fresh_salt
from judge.engine.server.requests import Client, Refused, Unavailable
from judge.errors import JudgeError

# A request holds so many prompts or tokens. Measured: 8 prompts a request cost the server half the time of 8 requests.
REQUEST_PROMPTS = 8
REQUEST_TOKENS = 8_192
# Pauses between tries, in seconds: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
# So often may the server fail on one request (status 500) before its prompts are sent one by one, then left out.
MOST_CRASHES = 3
_POLL_SECONDS = 0.5
_CLOSING_SECONDS = 2.0
# Shorter interruptions are not worth a line.
UNTOLD_SECONDS = 2.0


@dataclass(frozen=True)
class _Request:
    """Prompts of one job that are sent together, the first of them at `start`; `salt` is the job's."""

    key: int
    start: int
    prompts: list[list[int]]
    salt: str


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
        """Take note of a request without an answer; ends the run when there has been none for too long."""
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


class ServerPool(Pool):
    """Reads jobs through a server, which is checked at once (see `judge.engine.server.checks.connect`)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._outage = Outage(endpoint.url, endpoint.patience)
        self._stack: ExitStack | None = None  # the open connections and their thread
        self._portal: BlockingPortal
        self._client: Client
        self._waiting: deque[_Request] = deque()
        self._sent: dict[Future[Float], _Request] = {}
        self._open: dict[int, tuple[Float, int]] = {}  # log-probabilities of a job, and prompts that are not read yet
        self._introduced = False
        with start_blocking_portal() as portal:
            self._connection: Connection = portal.call(connect, endpoint)
        self.config = EngineConfig(
            model=self._connection.model,
            server=self._connection.fingerprint,
            verdict_ids=endpoint.verdict_ids,
            max_prompt_tokens=endpoint.max_prompt_tokens,
            dtype="as served",
            device="server",
        )

    @property
    def engines(self) -> int:
        """Jobs that are read at a time: while the last requests of one are answered, those of the next are sent."""
        return 2

    def start(self) -> None:
        """Open the connections, and a thread with an event loop that sends the requests."""
        if self._stack is None:
            self._stack = ExitStack()
            self._portal = self._stack.enter_context(start_blocking_portal(name="judge-server"))
            self._client = self._portal.call(self._endpoint.client)
            self._outage = Outage(self._endpoint.url, self._endpoint.patience, lines=self._outage.lines)
            self.ready_at = time.monotonic()

    def _run(self, work: Work) -> None:
        if not self._introduced:
            self._introduced = True
            self.say(f"reading with {self._connection.described} at {self._endpoint.url}")
        self.start()
        self._waiting, self._sent, self._open = deque(), {}, {}
        try:
            while self._send(work):
                for future in wait(self._sent, min(work.seconds_left(), _POLL_SECONDS), FIRST_COMPLETED).done:
                    self._take(self._sent.pop(future), future.result(), work)
                self._tell()
                if self._open and work.seconds_left() == 0:
                    raise DeadlinePassed
        finally:
            self._tell()

    def _send(self, work: Work) -> bool:
        """Send as many requests as allowed, of the next job when no others wait; return whether any is under way."""
        while len(self._sent) < self._endpoint.requests:
            if not self._waiting and (job := next(work.jobs, None)) is not None:
                self._open[job.key] = np.full((job.rows, 3), np.nan), job.rows
                self._waiting.extend(requests_of(job))
            if not self._waiting:
                break
            request = self._waiting.popleft()
            self._sent[self._portal.start_task_soon(self._read, request.prompts, request.salt)] = request
        return bool(self._sent)

    def _take(self, request: _Request, logprobs: Float, work: Work) -> None:
        """Put the answer to a request into its job, and hand the job over when it is complete."""
        work.on_progress(request.key, len(logprobs))
        job, left = self._open.pop(request.key)
        job[request.start : request.start + len(logprobs)] = logprobs
        if left == len(logprobs):
            work.on_done(request.key, job)
        else:
            self._open[request.key] = job, left - len(logprobs)

    def close(self, at_once: bool = False) -> None:
        """Close the connections, in the same way with `at_once`; the server gives up what it is reading for them."""
        del at_once
        stack, self._stack, self.ready_at = self._stack, None, None
        if stack is not None:
            with contextlib.suppress(TimeoutError, CancelledError):
                self._portal.start_task_soon(self._end).result(timeout=_CLOSING_SECONDS)
            # not longer: the thread may be looking up a name, which nothing can end
            thread = threading.Thread(target=stack.close, daemon=True)
            thread.start()
            thread.join(_CLOSING_SECONDS)

    async def _end(self) -> None:
        await self._client.close()
        await self._portal.stop(cancel_remaining=True)

    def _tell(self) -> None:
        self.failures += self._outage.count
        self._outage.count = 0
        while self._outage.lines:
            self.say(self._outage.lines.popleft())

    async def _read(self, prompts: list[list[int]], salt: str, again: bool = False) -> Float:
        """Return the log-probabilities of prompts, shape (prompts, 3); NaN where the model gives NaN, or crashes."""
        try:
            return await self._persist(prompts, salt)
        except Refused as error:
            if not error.nan:
                raise JudgeError(f"{self._endpoint.url}: refuses prompts ({error})") from None
            if len(prompts) == 1 and not again:
                return await self._read(prompts, fresh_salt(), again=True)  # the NaN may be another prompt's
            reason = ""
        except Unavailable as error:  # the server runs, and fails on these prompts
            reason = str(error)
        if len(prompts) > 1:
            # not through the cache: vLLM's attention for CPUs carries the NaN of a cached prompt into later ones
            return np.concatenate([await self._read([prompt], fresh_salt()) for prompt in prompts])
        if reason:
            await self._refuse_broken_server(reason)
            self._outage.count += 1
            self._outage.lines.append(f"{self._endpoint.url} fails on a prompt, which is left out ({reason})")
        return np.full((1, 3), np.nan)

    async def _refuse_broken_server(self, reason: str) -> None:
        """Ask what the server could answer at the beginning: does it fail on one prompt, or on all?"""
        try:
            await self._persist([self._endpoint.probe_ids], fresh_salt())
        except (Refused, Unavailable):
            raise JudgeError(f"{self._endpoint.url}: fails on every prompt ({reason}); see the server's log") from None

    async def _persist(self, prompts: list[list[int]], salt: str) -> Float:
        """Ask until there is an answer; raises `Unavailable` when the server fails on these prompts again and again."""
        crashes = tries = 0
        body = self._endpoint.body(self._connection.model, prompts, salt)
        while True:
            try:
                answer = await self._client.complete(body)
            except Unavailable as error:
                crashes += error.crashed
                if crashes >= MOST_CRASHES:
                    raise
                if not error.crashed:
                    self._outage.note(error)
                await asyncio.sleep(self._pause(tries, error.wait))
                tries += 1
                continue
            self._outage.over()
            if answer.fingerprint != self._connection.fingerprint:
                raise JudgeError(
                    f"{self._endpoint.url}: was started anew with other settings, which give other numbers "
                    f"({self._connection.fingerprint} before, {answer.fingerprint} now); start it as before"
                )
            return answer.logprobs

    def _pause(self, tries: int, wanted: float | None) -> float:
        """Return the seconds to wait: twice as long each time, with chance in it so that requests spread."""
        longest = min(LONGEST_PAUSE, max(self._endpoint.patience / 4, 0.1))
        if wanted is not None:
            return min(wanted, 60.0, max(self._endpoint.patience / 2, 0.1))
        return min(FIRST_PAUSE * 2.0 ** min(tries, 10), longest) * random.uniform(0.5, 1)  # noqa: S311 - no secret


def requests_of(job: Job) -> list[_Request]:
    """Return a job's prompts in requests of limited size, in the job's order."""
    requests: list[_Request] = []
    tokens, salt = 0, fresh_salt()  # as a local engine's cache is emptied before each job
    for position, prompt in enumerate(job.load()):
        ids = [int(token) for token in prompt]
        full = requests and (len(requests[-1].prompts) == REQUEST_PROMPTS or tokens + len(ids) > REQUEST_TOKENS)
        if not requests or full:
            requests.append(_Request(job.key, position, [], salt))
            tokens = 0
        requests[-1].prompts.append(ids)
        tokens += len(ids)
    return requests
