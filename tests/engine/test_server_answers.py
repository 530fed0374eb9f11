"""A pool that reads through a server: limits, retries, and answers that no real `vllm serve` would give."""

from __future__ import annotations

import gzip
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from judge.deadline import DeadlinePassed
from judge.engine.pool import Job
from judge.engine.server.checks import Endpoint
from judge.engine.server.pool import REQUEST_PROMPTS, ServerPool, requests_of
from judge.engine.server.requests import KEY_VARIABLE, MAX_ANSWER_BYTES, server_key, server_url
from judge.errors import JudgeError
from tests.kit.server_doubles import Reply, Scripted, endpoint, said


def prompts_of(lengths: list[int]) -> list[NDArray[np.int32]]:
    return [np.arange(i, i + n, dtype=np.int32) for i, n in enumerate(lengths)]


def jobs_of(prompts: list[NDArray[np.int32]], size: int = 4) -> list[Job]:
    def job(key: int) -> Job:
        part = prompts[key * size : (key + 1) * size]
        return Job(key, len(part), lambda: part)

    return [job(key) for key in range(-(-len(prompts) // size))]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted([7, 8, 9]) as server:
        yield server


@dataclass
class Run:
    """What a pool handed over."""

    logprobs: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    progress: int = 0
    said: list[str] = field(default_factory=list)
    failures: int = 0


def run(
    point: Endpoint,
    jobs: list[Job],
    then: Callable[[int], None] = lambda _: None,
    into: Run | None = None,
    stop_at: float = math.inf,
) -> Run:
    """Read jobs; what comes is in `into` even if it ends early."""
    pool = ServerPool(point)
    result = into or Run()
    pool.say = result.said.append

    def done(key: int, logprobs: NDArray[np.float64]) -> None:
        result.logprobs[key] = logprobs
        then(key)

    def progress(_: int, rows: int) -> None:
        result.progress += rows

    try:
        pool.run(jobs, done, progress, stop_at)
    finally:
        pool.close()
        result.failures = pool.failures
    return result


def refusal(point: Endpoint) -> str:
    with pytest.raises(JudgeError) as caught:
        ServerPool(point)
    text = str(caught.value)
    assert text.isprintable()
    return text


def test_prompts_go_in_as_ids_and_each_gets_its_own_numbers(scripted: Scripted) -> None:
    prompts = prompts_of([5, 3, 9, 4, 20, 2, 6, 31, 8, 7, 11])
    result = run(endpoint(scripted.url), jobs_of(prompts))
    found = np.concatenate([result.logprobs[key] for key in sorted(result.logprobs)])
    assert found.tolist() == [said(prompt.tolist()) for prompt in prompts]
    assert result.progress == len(prompts)
    assert sorted(len(p) for b in scripted.bodies for p in b["prompt"]) == sorted(map(len, prompts))
    assert scripted.bodies[0]["logprob_token_ids"] == [1, 2, 3]
    assert {b["model"] for b in scripted.bodies} == {"judge"}
    salts = {(b["cache_salt"], (b["prompt"][0][0]) // 4) for b in scripted.bodies}
    assert len(salts) == len({salt for salt, _ in salts}) == 3  # each job has a part of the prefix cache for itself


def test_requests_are_limited_in_prompts_and_in_tokens() -> None:
    prompts = prompts_of([5] * 20 + [5000, 4000, 3000])
    parts = requests_of(Job(0, len(prompts), lambda: prompts))
    assert [len(part.prompts) for part in parts] == [REQUEST_PROMPTS, REQUEST_PROMPTS, 5, 2]
    assert [part.start for part in parts] == [0, 8, 16, 21]
    assert [ids for part in parts for ids in part.prompts] == [prompt.tolist() for prompt in prompts]


def test_no_more_requests_than_wanted_are_under_way(scripted: Scripted) -> None:
    scripted.delay = 0.05
    run(endpoint(scripted.url, requests=3), jobs_of(prompts_of([5] * 96), 16))
    assert scripted.most == 3


def test_a_bad_address_is_refused_and_a_password_in_it_never_repeated() -> None:
    assert server_url("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000"
    assert server_url("https://host/judges/v1") == "https://host/judges"
    for text in ("localhost:8000", "ftp://host", "http://", "http://host:99999", "http://host/?a=b", "http://ho st/"):
        with pytest.raises(JudgeError, match=r"--server=.*expected http://HOST:PORT"):
            server_url(text)
    with pytest.raises(JudgeError, match=KEY_VARIABLE) as caught:
        server_url("http://me:secret@host:8000")
    assert "secret" not in str(caught.value)


def test_the_key_comes_from_the_environment(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    run(endpoint(scripted.url, key=server_key()), jobs_of(prompts_of([4])))
    assert set(scripted.keys) == {"Bearer sesame"}
    monkeypatch.setenv(KEY_VARIABLE, "a\nb")
    with pytest.raises(JudgeError, match="cannot have"):
        server_key()


def html(_: Any, __: Any) -> Reply:
    return 200, {"Content-Type": "text/html"}, b"<html>\x1b[31m welcome </html>"


def verdicts(change: Callable[[dict[str, float]], dict[str, Any]]) -> Callable[[Any, dict[str, Any]], Reply | None]:
    """Change the log-probabilities of every answer."""

    def changed(_: Any, honest: dict[str, Any]) -> Reply | None:
        if "data" in honest:
            return None
        for choice in honest["choices"]:
            choice["logprobs"]["top_logprobs"] = [change(choice["logprobs"]["top_logprobs"][0])]
        return 200, {}, json.dumps(honest).encode()

    return changed


def always(status: int, text: str = "", **headers: str) -> Callable[[Any, Any], Reply]:
    return lambda _, __: (status, headers, text.encode())


# What the server answers instead of the truth, and the line that comes of it.
STRANGE: dict[str, tuple[Callable[[Any, Any], Reply | None], str]] = {
    "html": (html, r"is not JSON \(<html>\\x1b\[31m welcome </html>\)"),
    "other ids": (verdicts(lambda _: {f"token_id:{i}": -1.0 for i in (4, 5, 6)}), "lacks the log-prob.* 1, 2 and 3"),
    "one missing": (verdicts(lambda v: {k: x for k, x in v.items() if k != "token_id:3"}), "lacks the log-prob"),
    "text": (verdicts(lambda v: {**v, "token_id:1": "-1"}), "gives .* as log-probabilities"),
    "bool": (verdicts(lambda v: {**v, "token_id:1": False}), "gives .* as log-probabilities"),
    "null": (verdicts(lambda v: {**v, "token_id:1": None}), "gives .* as log-probabilities"),
    "NaN": (verdicts(lambda v: {**v, "token_id:1": float("nan")}), "is not JSON"),
    "logits": (verdicts(lambda v: {**v, "token_id:1": 3.5}), "no log-probabilities; start it without --logprobs-mode"),
    "too much": (verdicts(lambda v: {**v, "token_id:1": -0.1, "token_id:2": -0.2}), "no log-probabilities"),
    "deep": (lambda _, __: (200, {}, b"[" * 200_000), "is not JSON"),
    "a list": (always(200, "[]"), "names no model"),
    "huge": (lambda _, __: (200, {}, b" " * (MAX_ANSWER_BYTES + 1)), "is longer than 4 MiB"),
    "packed": (lambda _, __: (200, {"Content-Encoding": "gzip"}, gzip.compress(b"{}")), "is compressed"),
    "moved": (always(302, Location="http://elsewhere/"), "refuses a first prompt .HTTP 302"),
    "no such page": (always(404, "nothing \x07 here"), r"HTTP 404: nothing \\x07 here"),
    "no key": (always(401, '{"error": "Unauthorized"}'), f"refuses the key .HTTP 401: Unauthorized.*{KEY_VARIABLE}"),
    "crash": (always(500, '{"error": {"message": "boom"}}'), r"fails on a first prompt \(HTTP 500: boom\)"),
    "busy": (always(503), r"no answer \(HTTP 503\); is vllm serve running"),
    "empty": (lambda _, h: None if "data" in h else (200, {}, b'{"choices": []}'), "holds 0 of 1 completions"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_answer_that_vllm_would_not_give_is_one_clear_line(scripted: Scripted, name: str) -> None:
    scripted.replace, line = STRANGE[name]
    assert re.search(line, refusal(endpoint(scripted.url))), refusal(endpoint(scripted.url))


def test_an_answer_that_drips_is_given_up(scripted: Scripted) -> None:
    scripted.drip = True
    began = time.monotonic()
    assert "no answer within 0.3 s" in refusal(endpoint(scripted.url, timeout=0.3))
    assert time.monotonic() - began < 3


def test_a_server_with_another_model_is_refused(scripted: Scripted) -> None:
    whole, adapter = scripted.cards[0], {"id": "lora", "root": "/a", "parent": "judge", "max_model_len": None}
    assert "takes 512 tokens, and a budget of 512 needs one more" in refusal(
        endpoint(scripted.url, max_prompt_tokens=512)
    )
    assert "token 2 of a first prompt is 8 there and 88 here" in refusal(endpoint(scripted.url, probe_ids=[7, 88, 9]))
    assert "token 3 of a first prompt is 9 there and nothing here" in refusal(endpoint(scripted.url, probe_ids=[7, 8]))
    assert "MODEL is an adapter, and it serves none (judge)" in refusal(endpoint(scripted.url, adapter=True))
    assert "--server-model=x: " in refusal(endpoint(scripted.url, wanted="x"))
    scripted.cards = [whole, {**whole, "id": "alias"}, adapter]
    assert ServerPool(endpoint(scripted.url)).config.model == "judge"
    assert ServerPool(endpoint(scripted.url, adapter=True)).config.model == "lora"
    assert "is not a whole model there, but MODEL is" in refusal(endpoint(scripted.url, wanted="lora"))
    assert "takes 512 tokens" in refusal(endpoint(scripted.url, adapter=True, max_prompt_tokens=512))
    scripted.cards = [whole, {**whole, "id": "two", "root": "/n"}]
    assert "serves judge, two; choose one with --server-model" in refusal(endpoint(scripted.url))
    assert ServerPool(endpoint(scripted.url, wanted="two")).config.model == "two"


def sometimes(times: int, reply: Reply) -> Callable[[dict[str, Any], Any], Reply | None]:
    """Give another answer to the first requests after the checks."""
    left = iter(range(times))
    return lambda body, _: reply if isinstance(body.get("prompt"), list) and next(left, None) is not None else None


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_passes_by_itself_leaves_no_trace(scripted: Scripted, status: int) -> None:
    scripted.replace = sometimes(2, (status, {"Retry-After": "0"}, b""))
    prompts = prompts_of([5, 3, 9])
    result = run(endpoint(scripted.url, requests=1), jobs_of(prompts))
    assert result.logprobs[0].tolist() == [said(prompt.tolist()) for prompt in prompts]
    assert len(scripted.bodies) == 3


def test_a_prompt_that_the_server_fails_on_is_left_out_and_said(scripted: Scripted) -> None:
    crash = 500, {"Retry-After": "0"}, b'{"error": {"message": "boom"}}'
    scripted.replace = lambda body, _: crash if any(len(p) == 9 for p in body.get("prompt", "")) else None
    prompts = prompts_of([5, 3, 9, 4])
    result = run(endpoint(scripted.url), jobs_of(prompts))
    expected = np.array([said(prompt.tolist()) for prompt in prompts])
    expected[2] = np.nan
    np.testing.assert_array_equal(result.logprobs[0], expected)
    assert result.said[-1] == f"{scripted.url} fails on a prompt, which is left out (HTTP 500: boom)"
    assert result.failures == 1


def test_a_prompt_that_the_model_reads_nan_from_has_no_numbers(scripted: Scripted) -> None:
    """What a real server answers then: it has the NaN and cannot write it as JSON."""
    nan: Reply = 400, {}, b'{"error": {"message": "Out of range float values are not JSON compliant", "code": 400}}'
    scripted.replace = lambda body, _: nan if any(len(p) == 9 for p in body.get("prompt", "")) else None
    result = run(endpoint(scripted.url), jobs_of(prompts_of([5, 3, 9, 4])))
    assert np.isnan(result.logprobs[0]).all(axis=1).tolist() == [False, False, True, False]
    assert result.failures == 0


# What a server does after three jobs, and how the run ends.
ENDINGS: dict[str, tuple[Reply, str]] = {
    "refuses": ((400, {}, b'{"error": {"message": "too \\u001b long"}}'), r"refuses prompts .HTTP 400: too \\x1b long"),
    "crashes": ((500, {"Retry-After": "0"}, b""), r"fails on every prompt \(HTTP 500\); see the server's log"),
    "is silent": ((503, {}, b""), r"no answer for \d+ s \(HTTP 503\); what is finished is kept"),
    "is another": ((200, {}, b""), "started anew with other settings.*vllm-0-test before, vllm-1-test now"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_server_that_breaks_for_good_ends_the_run_and_jobs_are_kept(scripted: Scripted, name: str) -> None:
    reply, line = ENDINGS[name]

    def breaks(key: int) -> None:
        if key == 2:
            scripted.replace = lambda _, honest: reply if reply[0] != 200 else other(honest)

    def other(honest: dict[str, Any]) -> Reply:
        return 200, {}, json.dumps({**honest, "system_fingerprint": "vllm-1-test"}).encode()

    result = Run()
    with pytest.raises(JudgeError, match=line):
        run(endpoint(scripted.url, requests=1, patience=0.6), jobs_of(prompts_of([5] * 24)), breaks, result)
    assert sorted(result.logprobs) == [0, 1, 2]


def test_a_run_stops_at_its_deadline_though_the_server_is_silent(scripted: Scripted) -> None:
    def hang(key: int) -> None:
        if key == 0:
            scripted.delay = 3

    began, result = time.monotonic(), Run()
    with pytest.raises(DeadlinePassed):
        run(endpoint(scripted.url, requests=1), jobs_of(prompts_of([5] * 16)), hang, result, began + 0.8)
    assert time.monotonic() - began < 2
    assert sorted(result.logprobs) == [0]
