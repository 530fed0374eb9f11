"""Tries to import torch, transformers and vLLM in another process, with a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judge.doctor.finding import Finding, ok, problem
from judge.errors import printable

# The import statements: each names something that pulls in what a run needs.
IMPORTS = {
    "torch": "import torch",
    "transformers": "from transformers import AutoModelForCausalLM, PreTrainedModel",
    "vllm": "from vllm import LLM, SamplingParams",
}
_PROGRAM = """
import json, sys, time
real = sys.stdout
sys.stdout = sys.stderr
for name, statement in json.loads(sys.argv[1]).items():
    started = time.monotonic()
    print(json.dumps({"begin": name}), file=real, flush=True)
    try:
        exec(statement, {})
        error = ""
    except BaseException as failure:
        error = type(failure).__name__ + ": " + " ".join(str(failure).split())
    told = {"name": name, "error": error, "seconds": time.monotonic() - started}
    torch = sys.modules.get("torch")
    if name == "torch" and not error and torch.version.cuda:
        told |= {"cards": torch.cuda.device_count(), "built": torch.cuda.get_arch_list()}
    print(json.dumps(told), file=real, flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """How an import ended.

    Attributes:
        error: why it failed; empty if it worked.
        cards: the number of cards that torch sees; None for another package or a CPU build.
        built: the architectures that torch has kernels for, such as `sm_75`.
    """

    name: str
    error: str
    seconds: float = 0.0
    cards: int | None = None
    built: tuple[str, ...] = ()


def try_imports(statements: Mapping[str, str], timeout: float = 180.0, command: Sequence[str] = ()) -> list[Outcome]:
    """Run import statements in another process; when one kills it, the others go on in a new one.

    Args:
        statements: the statements by the names of their packages.
        timeout: seconds for all of them together.
        command: starts the interpreter; the one that runs this if not given.
    """
    left, outcomes, deadline = dict(statements), [], time.monotonic() + timeout
    while left:
        told, status = _run(left, max(deadline - time.monotonic(), 0.1), command or (sys.executable,))
        begun = ""
        for entry in told:
            if "begin" in entry:
                begun = entry["begin"]
                continue
            built = tuple(map(str, entry.get("built", ())))
            outcomes.append(Outcome(entry["name"], entry["error"], entry["seconds"], entry.get("cards"), built))
            del left[entry["name"]]
        if begun in left:  # it died, or time was up
            outcomes.append(Outcome(begun, status))
            del left[begun]
        elif left:  # the interpreter itself does not start
            outcomes += [Outcome(name, status or "the interpreter says nothing") for name in left]
            break
    return outcomes


def _run(statements: Mapping[str, str], timeout: float, command: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Return the lines that the program printed, parsed, and how it ended."""
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and program
            [*command, "-c", _PROGRAM, json.dumps(dict(statements))],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **quiet},
            check=False,
        )
        output, status = done.stdout, f"exit status {done.returncode}"
        if done.returncode < 0:
            status = f"killed by {signal.Signals(-done.returncode).name}"
    except subprocess.TimeoutExpired as error:
        caught = error.stdout or b""
        output = caught.decode(errors="replace") if isinstance(caught, bytes) else caught
        status = f"not done after {timeout:.0f} s"
    return [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")], status


def import_findings(outcomes: Sequence[Outcome], cards: int) -> Iterator[Finding]:
    """Yield how the imports ended.

    Args:
        cards: the number of cards that the driver shows to this process.
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
