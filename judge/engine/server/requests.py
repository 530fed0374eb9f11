"""Requests to a running `vllm serve`: time limits, bounded answers, and three kinds of failure told apart.

What may pass by itself (`Unavailable`) is worth another try, what the server refuses (`Refused`) is not; an answer that
no `vllm serve` gives is a `JudgeError` at once. The paths and fields are those of vLLM 0.32
(vllm/entrypoints/openai/completion/protocol.py and .../models/serving.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, printable

# The environment variable with the key that `vllm serve --api-key` asks for.
KEY_VARIABLE = "JUDGE_SERVER_KEY"
CONNECT_SECONDS = 10.0
# An answer to a request of ours takes a few kB; a list of some thousand adapters fits as well.
MAX_ANSWER_BYTES = 4 * 2**20
# Log-probabilities are computed in 32 bits: their sum may pass 1 by rounding, not by more.
ROUNDING = 1e-3
# What vLLM writes for minus infinity, which JSON has not (`_create_completion_logprobs`).
_MINUS_INFINITY = -9999.0
# Statuses that say "not now": of gateways, of a server that is starting or has too much to do.
_NOT_NOW = (408, 425, 429, 502, 503, 504)
# What Starlette says when an answer holds a NaN; vLLM passes it on as status 400.
_NAN = "Out of range float values are not JSON compliant"


class Unavailable(Exception):
    """No answer, or one that says to try again."""

    def __init__(self, reason: str, crashed: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.crashed = crashed  # the server answered, but failed on this very request (status 500)
        self.wait = wait  # seconds after which the server wants to be asked again


class Refused(Exception):
    """The server refuses the request, and would do so again."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.nan = status, _NAN in text  # nan: it read NaN as a log-probability, which it cannot write


@dataclass(frozen=True)
class Answer:
    """What a server said about some prompts."""

    logprobs: NDArray[np.float64]  # of the verdicts over the whole vocabulary, shape (prompts, 3)
    prompt_ids: list[list[int]]  # the token ids of each prompt, where they were asked for
    fingerprint: str  # names the server's version and settings


def server_url(text: str) -> str:
    """Return the address of a server without a slash or `/v1` at its end.

    Raises:
        JudgeError: not http(s)://HOST[:PORT][/PATH], or one that holds a password.
    """
    wanted = "expected http://HOST:PORT, the address of a running vllm serve"
    try:
        parts = urlsplit(text.strip())
        host, port, named = parts.hostname, parts.port, parts.username is not None or parts.password is not None
    except ValueError:
        raise JudgeError(f"--server={printable(text)}: is not an address; {wanted}") from None
    if named:  # it is not repeated: messages end in logs
        raise JudgeError(f"--server: the address holds a name or password; give the key in {KEY_VARIABLE} instead")
    clean = text.isprintable() and " " not in text.strip()
    if parts.scheme not in ("http", "https") or not host or port == 0 or parts.query or parts.fragment or not clean:
        raise JudgeError(f"--server={printable(text)}: {wanted}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


def server_key() -> str | None:
    """Return the server's key from the environment, or None.

    Raises:
        JudgeError: it holds what no HTTP header can.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise JudgeError(f"{KEY_VARIABLE}: holds characters that a key cannot have")
    return key or None


class Client:
    """Speaks HTTP with one server, inside one event loop; a whole answer must be there after `timeout` seconds."""

    def __init__(self, url: str, key: str | None, connections: int, timeout: float) -> None:
        self.url, self._timeout = url, timeout
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=not _is_this_machine(url),  # proxies of the environment lead away from it
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def complete(self, body: dict[str, Any]) -> Answer:
        """Return the server's answer to a request for completions (see `send`).

        Raises:
            JudgeError: it lacks a prompt or a verdict, or holds what is no log-probability.
        """
        answer = await self.send("POST", "/v1/completions", body)
        prompts = 1 if isinstance(body["prompt"], str) else len(body["prompt"])
        found = answer.get("choices") if isinstance(answer, dict) else None
        choices = [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []
        places = {c.get("index"): c for c in choices if type(c.get("index")) is int}
        if len(choices) != prompts or set(places) != set(range(prompts)):
            raise self.strange(f"holds {len(choices)} of {prompts} completions")
        fingerprint = answer.get("system_fingerprint")
        return Answer(
            np.array([self._verdicts(places[i], body["logprob_token_ids"]) for i in range(prompts)]),
            [ids if isinstance(ids := places[i].get("prompt_token_ids"), list) else [] for i in range(prompts)],
            printable(fingerprint) if isinstance(fingerprint, str) and fingerprint else "unnamed",
        )

    async def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one request, once, and return the JSON of the answer.

        Raises:
            Unavailable, Refused: see there.
            JudgeError: an answer that is not from vLLM's API.
        """
        try:
            async with asyncio.timeout(self._timeout):
                async with self._http.stream(method, self.url + path, json=body) as response:
                    content = await self._content(response)
        except TimeoutError:
            raise Unavailable(f"no answer within {self._timeout:g} s") from None
        except httpx.TransportError as error:
            raise Unavailable(_reason(error)) from None
        status = response.status_code
        if status == 200:
            try:
                return json.loads(content, parse_constant=_no_number)
            except (ValueError, RecursionError):
                shown = printable(content[:60].decode("utf-8", "replace"))
                raise self.strange(f"is not JSON ({shown})") from None
        text = _error_text(status, content)
        if status == 500 or status in _NOT_NOW:
            wait = response.headers.get("retry-after", "")
            raise Unavailable(text, status == 500, float(wait) if wait.isdecimal() and len(wait) < 6 else None)
        raise Refused(status, text)

    async def _content(self, response: httpx.Response) -> bytes:
        if "content-encoding" in response.headers:  # not asked for; it could unpack to any size
            raise self.strange("is compressed")
        content = bytearray()
        async for part in response.aiter_raw():
            content += part
            if len(content) > MAX_ANSWER_BYTES:
                raise self.strange(f"is longer than {MAX_ANSWER_BYTES / 2**20:g} MiB")
        return bytes(content)

    def strange(self, what: str) -> JudgeError:
        """Return the error for an answer that `vllm serve` does not give."""
        return JudgeError(f"{self.url}: its answer {what}; --server takes the address of a vllm serve (0.32 or later)")

    def _verdicts(self, choice: dict[str, Any], verdict_ids: Sequence[int]) -> list[float]:
        """Return the log-probabilities of one prompt's verdicts."""
        try:
            first = choice["logprobs"]["top_logprobs"][0]
            values = [first[f"token_id:{token}"] for token in verdict_ids]
        except (KeyError, IndexError, TypeError):
            shown = printable(json.dumps(choice.get("logprobs")), 120)
            a, b, tie = verdict_ids
            raise self.strange(f"lacks the log-probabilities of tokens {a}, {b} and {tie} ({shown})") from None
        if not all(type(value) in (int, float) for value in values):
            raise self.strange(f"gives {printable(values)} as log-probabilities")
        numbers = [-math.inf if value <= _MINUS_INFINITY else float(value) for value in values]
        if max(numbers) > ROUNDING or sum(math.exp(min(n, 1)) for n in numbers) > 1 + ROUNDING:
            raise JudgeError(
                f"{self.url}: gives {printable(values)}, which are no log-probabilities; "
                "start it without --logprobs-mode, or with --logprobs-mode raw_logprobs"
            )
        return numbers


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _reason(error: Exception) -> str:
    """Return in words why a connection failed: httpx's own text, or the name of its error."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ConnectionRefusedError):
            return "connection refused"
        if isinstance(inner, ConnectionResetError):
            return "connection reset"
        inner = inner.__cause__ or inner.__context__
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    return printable(" ".join(str(error).split()) or type(error).__name__, 160)


def _error_text(status: int, content: bytes) -> str:
    """Return what a server says about an error, in one line."""
    text = content[:4000].decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    text = printable(" ".join(text.split()), 200)
    return f"HTTP {status}" + (f": {text}" if text else "")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
