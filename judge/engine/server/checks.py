"""What judge checks before it gives prompts to a server: the model, its length, its tokenizer, the three verdicts."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from judge.engine.server.requests import KEY_VARIABLE, Client, Refused, Unavailable
from judge.errors import JudgeError, printable
from judge.prompting.builder import PromptBuilder
from judge.tables.comparison import Comparison

# The checks come before anything is written, so a user learns soon that a server hangs.
CHECK_SECONDS = 60.0
# A row with what tokenizers read differently: several scripts, digits, code, runs of white space, an emoji.
_PROBE = Comparison(
    id=0,
    prompt=("Où est 北京? It's 12,345 km…",),
    response_a=("Привет, мир!  for i in range(10):\n\treturn i\n\n",),
    response_b=("العربية 🙂 don't KNOW",),
)


@dataclass(frozen=True)
class Endpoint:
    """A server, and how it is to be asked."""

    url: str  # as `server_url` returns it
    key: str | None  # the bearer token; it is written nowhere
    wanted: str | None  # the name of the model to use there; None takes the only one
    adapter: bool  # the model is an adapter
    requests: int  # most at a time
    timeout: float  # seconds until a request must be answered
    patience: float  # seconds without any answer after which a run ends
    verdict_ids: tuple[int, int, int]  # token ids of A, B and tie
    max_prompt_tokens: int  # of the longest prompt that will be asked for
    probe_text: str  # a prompt, with its verdicts
    probe_ids: list[int]  # its token ids

    def client(self, timeout: float | None = None) -> Client:
        """Return a client for the running event loop."""
        return Client(self.url, self.key, self.requests, timeout or self.timeout)

    def body(self, model: str, prompt: str | list[list[int]], salt: str) -> dict[str, Any]:
        """Return a request for one more token after each prompt, and the verdicts' log-probabilities there.

        Prefixes in the server's cache are shared only where the `salt` is the same.
        Penalties and the like are named, for a server takes them from the model's generation_config.json otherwise;
        they act in `processed_logprobs` only.
        """
        return {
            "model": model,
            "prompt": prompt,
            "max_tokens": 1,
            "ignore_eos": True,
            "add_special_tokens": False,
            "logprobs": 1,
            "logprob_token_ids": list(self.verdict_ids),
            "return_tokens_as_token_ids": True,
            "cache_salt": salt,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }


@dataclass(frozen=True)
class Connection:
    """What a server turned out to be."""

    model: str  # the name of the model that is read there
    fingerprint: str  # names vLLM's version and the settings that decide the numbers
    described: str  # the model and the version, for people


def fresh_salt() -> str:
    """Return a name for a part of the server's prefix cache that nobody has used."""
    return secrets.token_hex(16)


def probe_of(builder: PromptBuilder) -> tuple[str, list[int]]:
    """Return a prompt as text, followed by the verdicts, and the token ids of that text."""
    tokenizer = builder.encoder.tokenizer
    ids = [*builder.build([_PROBE])[0].ids.tolist(), *builder.verdict_ids]
    text = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return text, [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]


async def connect(endpoint: Endpoint) -> Connection:
    """Check a server, with a few requests.

    Raises:
        JudgeError: it does not answer; it serves no such model, or none that takes the budget; it makes other token ids
            of a text; or it does not give the verdicts' log-probabilities.
    """
    client = endpoint.client(min(endpoint.timeout, CHECK_SECONDS))
    try:
        card = choose_model(endpoint, client, await client.send("GET", "/v1/models"))
        model = str(card["id"])
        body = endpoint.body(model, endpoint.probe_text, fresh_salt()) | {"return_token_ids": True}
        answer = await client.complete(body)
    except Unavailable as error:
        if error.crashed:
            raise JudgeError(f"{endpoint.url}: fails on a first prompt ({error}); see the server's log") from None
        raise JudgeError(f"{endpoint.url}: no answer ({error}); is vllm serve running there?") from None
    except Refused as error:
        raise _refusal(endpoint, error) from None
    finally:
        await client.close()
    _compare_ids(endpoint, answer.prompt_ids[0])
    root = f" ({printable(card['root'], 200)})" if isinstance(card.get("root"), str) else ""
    return Connection(model, answer.fingerprint, f"{printable(model, 200)}{root}, {answer.fingerprint},")


def choose_model(endpoint: Endpoint, client: Client, answer: Any) -> dict[str, Any]:
    """Return the entry of the model to use, from a server's list of models.

    Raises:
        JudgeError: there is no such model, or more than one; or it takes shorter prompts only.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    cards = [c for c in data if isinstance(c, dict) and isinstance(c.get("id"), str)] if isinstance(data, list) else []
    if not cards:
        raise client.strange("names no model")
    kind = "an adapter" if endpoint.adapter else "a whole model"
    fitting = [card for card in cards if (card.get("parent") is not None) == endpoint.adapter]
    if endpoint.wanted is not None:
        named = [card for card in cards if card["id"] == endpoint.wanted]
        if not named:
            raise JudgeError(f"--server-model={printable(endpoint.wanted)}: {endpoint.url} serves {_names(cards)}")
        if named[0] not in fitting:
            raise JudgeError(f"--server-model={printable(endpoint.wanted)}: is not {kind} there, but MODEL is")
        fitting = named
    if not fitting:
        start = "; start it with --enable-lora --lora-modules NAME=FOLDER" if endpoint.adapter else ""
        raise JudgeError(f"{endpoint.url}: MODEL is {kind}, and it serves none ({_names(cards)}){start}")
    if len({card.get("root") or card["id"] for card in fitting}) > 1:
        raise JudgeError(f"{endpoint.url}: serves {_names(fitting)}; choose one with --server-model")
    card: dict[str, Any] = fitting[0]
    base = next((c for c in cards if c["id"] == card.get("parent")), cards[0])
    longest = card.get("max_model_len") or base.get("max_model_len")
    needed = endpoint.max_prompt_tokens + 1  # one for the verdict
    if type(longest) is int and longest < needed:
        raise JudgeError(
            f"{endpoint.url}: takes {longest:,} tokens, and a budget of {endpoint.max_prompt_tokens:,} needs one more; "
            f"start it with --max-model-len {needed}, or pass --max-tokens {max(longest - 1, 1)}"
        )
    return card


def _names(cards: Sequence[dict[str, Any]]) -> str:
    return printable(", ".join(str(card["id"]) for card in cards), 300)


def _refusal(endpoint: Endpoint, error: Refused) -> JudgeError:
    if error.status in (401, 403):
        return JudgeError(f"{endpoint.url}: refuses the key ({error}); give the right one in {KEY_VARIABLE}")
    if error.nan:
        return JudgeError(
            f"{endpoint.url}: reads NaN from a first prompt: the model does not work in the server's dtype; start it "
            "with another --dtype"
        )
    return JudgeError(f"{endpoint.url}: refuses a first prompt ({error}); --server takes the address of a vllm serve")


def _compare_ids(endpoint: Endpoint, found: list[int]) -> None:
    """Refuse a server that makes other token ids of a text."""
    for number, (there, here) in enumerate(zip_longest(found, endpoint.probe_ids, fillvalue="nothing"), 1):
        if there != here:
            raise JudgeError(
                f"{endpoint.url}: its tokenizer is not MODEL's: token {number} of a first prompt is {printable(there)} "
                f"there and {here} here; serve MODEL itself, or give the folder of the model that is served"
            )
