"""A real `vllm serve` for tests, a TCP proxy that breaks connections to it, and a server that gives answers on order.

The last one is for what a real server would not do; everything else is tested against the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from judge.engine.pool import cpu_environments
from judge.engine.server.checks import Endpoint

Reply = tuple[int, dict[str, str], bytes]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def vllm_serve(log: Path, model: Path, *flags: object) -> Iterator[tuple[int, int]]:
    """Run `vllm serve` on this machine's CPU until the block ends; gives its port and process group.

    (`vllm serve` itself looks up the version of a package called vllm, which the CPU wheel is not: the module is what
    it runs.)
    """
    port = free_port()
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", port]
    program += ["--host", "127.0.0.1", *flags]
    environment = {**os.environ, **cpu_environments(1, [0], 1)[0], "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in program], stdout=file, stderr=file, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while not _answers(port):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield port, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/health"):
            return True
    except OSError:
        return False


class Proxy:
    """Passes TCP connections on, until it is told to refuse or to break them. A context manager.

    Attributes:
        url: its address.
        cuts: answers that were cut so far.
        cut: every so many answers, one is cut in the middle and its connection broken; 0 for none.
    """

    def __init__(self, target: int, cut: int = 0) -> None:
        self._target, self.cuts, self.cut = target, 0, cut
        self._answers = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.accept()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.refuse()

    def accept(self) -> None:
        """Take connections (again)."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def refuse(self) -> None:
        """Take no more connections, and break those that are open."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """Break the open connections."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                ours, _ = listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._open |= {ours, theirs}
            threading.Thread(target=self._pass_on, args=(ours, theirs), daemon=True).start()

    def _pass_on(self, ours: socket.socket, theirs: socket.socket) -> None:
        with ours, theirs, contextlib.suppress(OSError, ValueError):
            while True:
                for one in select.select([ours, theirs], [], [])[0]:
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is theirs and self._cuts():
                        ours.sendall(data[: len(data) // 2])
                        return
                    (theirs if one is ours else ours).sendall(data)

    def _cuts(self) -> bool:
        with self._lock:
            self._answers += 1
            cuts = self.cut > 0 and self._answers % self.cut == 0
            self.cuts += cuts
            return cuts


class Scripted:
    """A server that answers like `vllm serve` but for what a test replaces. A context manager.

    Attributes:
        url: its address.
        cards: what /v1/models lists.
        prompt_ids: what its tokenizer makes of every text.
        bodies: the requests for completions so far, without the checks of the beginning.
        keys: the Authorization headers so far.
        most: the most requests at a time.
        replace: called with a request's body and the honest answer; returns another status, headers and content.
    """

    def __init__(self, prompt_ids: list[int]) -> None:
        self.cards: list[dict[str, Any]] = [{"id": "judge", "root": "/m", "parent": None, "max_model_len": 512}]
        self.prompt_ids = prompt_ids
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most = self._now = 0
        self.replace: Callable[[dict[str, Any], dict[str, Any]], Reply | None] = lambda _, __: None
        self.delay = 0.0
        self.drip = False
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the honest answer: log-probabilities that a prompt's first token and length tell."""
        prompts = [self.prompt_ids] if isinstance(body["prompt"], str) else body["prompt"]
        choices = []
        for index, prompt in enumerate(prompts):
            values = {f"token_id:{t}": v for t, v in zip(body["logprob_token_ids"], said(prompt), strict=True)}
            logprobs = {"top_logprobs": [{"token_id:0": -0.1, **values}]}
            ids = prompt if body.get("return_token_ids") else None
            choices.append({"index": index, "logprobs": logprobs, "prompt_token_ids": ids})
        return {"choices": choices, "system_fingerprint": "vllm-0-test"}

    def answer(self, path: str, body: dict[str, Any] | None, key: str | None) -> Reply:
        with self._lock:
            self.keys.append(key)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            time.sleep(self.delay)
            honest = {"data": self.cards} if body is None else self.complete(body)
            if body is not None and not isinstance(body["prompt"], str):
                self.bodies.append(body)
            replaced = self.replace({"path": path, **(body or {})}, honest)
            return replaced or (200, {}, json.dumps(honest).encode())
        finally:
            with self._lock:
                self._now -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(None)

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _reply(self, body: dict[str, Any] | None) -> None:
                status, headers, content = server.answer(self.path, body, self.headers["Authorization"])
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for i in range(len(content) if server.drip else 1):
                        self.wfile.write(content[i : i + 1] if server.drip else content)
                        time.sleep(0.05 if server.drip else 0)

            def log_message(self, *_: Any) -> None:
                return

        return Handler


def endpoint(url: str, **changes: Any) -> Endpoint:
    """Return an endpoint without a tokenizer behind it, as `Scripted` takes it for a good one."""
    plain = Endpoint(url, None, None, False, 4, 5.0, 5.0, (1, 2, 3), 64, "text", [7, 8, 9])
    return replace(plain, **changes)


def said(prompt: list[int]) -> list[float]:
    """The log-probabilities that `Scripted` gives for a prompt."""
    return [-1.0 - prompt[0] / 1000, -2.0 - len(prompt) / 1000, -3.0]
