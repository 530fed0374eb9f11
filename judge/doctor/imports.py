"""Tries to import torch, transformers and vLLM in processes of their own, with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

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


def import_findings(statements: Mapping[str, str], cards: int, timeout: float = 180.0) -> Iterator[Finding]:
    """Try import statements, each in a process of its own, and yield how they end.

    Args:
        statements: the statements by the names of their packages.
        cards: how many cards the driver shows to this process.
        timeout: seconds for all of them together.
    """
    deadline = time.monotonic() + timeout
    for name, statement in statements.items():
        started = time.monotonic()
        seen, error = _try_import(statement, max(deadline - started, 0.1))
        if error:
            yield problem(f"import {name} fails: {printable(error, 240)}", _advice(name, error))
            continue
        yield ok(f"import {name} works ({time.monotonic() - started:.0f} s)")
        if name == "torch" and seen and int(seen) < cards:
            yield problem(
                f"torch sees {seen} of the driver's {cards} cards",
                "see `python -c 'import torch; torch.cuda.init()'` for the reason; mostly the driver is too old",
            )


def _try_import(statement: str, timeout: float) -> tuple[str, str]:
    """Return how many cards torch sees (empty for a CPU build), and why the import failed (empty if it worked)."""
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
        return "", f"not done after {timeout:.0f} s"
    if done.returncode < 0:
        return "", f"killed by {signal.Signals(-done.returncode).name}"
    if done.returncode:
        return "", (done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1]
    return done.stdout.splitlines()[-1], ""


def _advice(name: str, error: str) -> str:
    if "torchvision" in error or "torchaudio" in error:
        return "run: pip uninstall torchvision torchaudio torchcodec (judge does not need them)"
    if "SIGILL" in error:
        return "it is built for another CPU; install a build for this one"
    if "not done after" in error:
        return "try again: the first import is slow; if it hangs, the disk or the driver does not answer"
    if "No module named" in error:
        return "run: make install, or install what is missing with pip"
    if "undefined symbol" in error or "cannot open shared object" in error:
        return f"{name} and torch are of different builds; install both anew together (make install)"
    return f"install it anew (make install), or see: python -c '{IMPORTS.get(name, '')}'"
