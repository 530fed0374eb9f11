"""Tries to import torch, transformers and vLLM in processes of their own, with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from judge.doctor.finding import Finding, ok, problem
from judge.errors import printable

# The import statements: each names something that pulls in what a run needs.
IMPORTS = {
    "torch": "import torch",
    "transformers": "from transformers import AutoModelForCausalLM, PreTrainedModel",
    "vllm": "from vllm import LLM, SamplingParams",
}
# Runs one of them, and prints how many cards torch sees; ends without what libraries do when a process ends.
_PROGRAM = """
import os, sys
try:
    exec(sys.argv[1], {})
    torch = sys.modules.get("torch")
    print(torch.cuda.device_count() if torch and torch.version.cuda else "", flush=True)
    os._exit(0)
except BaseException as error:
    print(type(error).__name__ + ":", *str(error).split(), file=sys.stderr, flush=True)
    os._exit(1)
"""
_QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONSAFEPATH": "1"}


@dataclass(frozen=True)
class Outcome:
    """How an import ended.

    Attributes:
        error: why it failed; empty if it worked.
        cards: the number of cards that torch sees; None for another package or a CPU build.
    """

    name: str
    error: str
    seconds: float = 0.0
    cards: int | None = None


def try_imports(statements: Mapping[str, str], timeout: float = 180.0) -> list[Outcome]:
    """Run import statements, each in a process of its own.

    Args:
        statements: the statements by the names of their packages.
        timeout: seconds for all of them together.
    """
    deadline = time.monotonic() + timeout
    return [_try(name, text, max(deadline - time.monotonic(), 0.1)) for name, text in statements.items()]


def _try(name: str, statement: str, timeout: float) -> Outcome:
    started = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-c", _PROGRAM, statement],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **_QUIET},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(name, f"not done after {timeout:.0f} s")
    if done.returncode < 0:
        return Outcome(name, f"killed by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        return Outcome(name, (done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1])
    seen = done.stdout.splitlines()[-1]
    return Outcome(name, "", time.monotonic() - started, int(seen) if name == "torch" and seen else None)


def import_findings(outcomes: Sequence[Outcome], cards: int) -> Iterator[Finding]:
    """Yield how the imports ended.

    Args:
        cards: how many cards the driver shows to this process.
    """
    for outcome in outcomes:
        if outcome.error:
            yield problem(f"import {outcome.name} fails: {printable(outcome.error, 240)}", _advice(outcome))
        else:
            yield ok(f"import {outcome.name} works ({outcome.seconds:.0f} s)")
        if outcome.cards is not None and outcome.cards < cards:
            yield problem(
                f"torch sees {outcome.cards} of the driver's {cards} cards",
                "see `python -c 'import torch; torch.cuda.init()'` for the reason; mostly the driver is too old",
            )


def _advice(outcome: Outcome) -> str:
    error = outcome.error
    if "torchvision" in error or "torchaudio" in error:
        return "run: pip uninstall torchvision torchaudio torchcodec (judge does not need them)"
    if "SIGILL" in error:
        return "it is built for another CPU; install a build for this one"
    if "not done after" in error:
        return "try again: the first import is slow; if it hangs, the disk or the driver does not answer"
    if "No module named" in error:
        return "run: make install, or install what is missing with pip"
    if "undefined symbol" in error or "cannot open shared object" in error:
        return f"{outcome.name} and torch are of different builds; install both anew together (make install)"
    return f"install it anew (make install), or see: python -c '{IMPORTS.get(outcome.name, '')}'"
