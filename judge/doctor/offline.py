"""Work without a network: nothing is fetched, and what libraries write has a place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from judge.doctor.finding import Finding, note, ok
from judge.doctor.machine import disk_findings

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_TRUE = ("1", "true", "yes", "on")


def environment_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what variables say about the network. Engines of judge are offline in any case (judge.engine.pool)."""
    offline = [name for name in _OFFLINE if environment.get(name, "").lower() in _TRUE]
    if offline:
        yield ok(f"{' and '.join(offline)}: libraries fetch nothing")
    else:
        yield ok("judge reads models from folders only, and its engines run with HF_HUB_OFFLINE=1")
    tokens = [name for name in _TOKENS if environment.get(name)]
    if tokens:
        yield note(
            f"{' and '.join(tokens)} is in the environment", "unset it: judge reads local folders and needs none"
        )
    if environment.get("PYTHONPATH"):
        yield note(
            "PYTHONPATH is set, and what lies there hides installed packages", "unset it if an import goes wrong"
        )


def home_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether libraries can write their caches and settings."""
    home = Path(environment.get("HOME") or "~").expanduser()
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    places = {
        "Hugging Face's cache": Path(environment.get("HF_HOME") or cache / "huggingface"),
        "vLLM's cache": Path(environment.get("VLLM_CACHE_ROOT") or cache / "vllm"),
    }
    advice = {"Hugging Face's cache": "HF_HOME", "vLLM's cache": "VLLM_CACHE_ROOT"}
    writable = []
    for what, place in places.items():
        for finding in disk_findings({what: place}):
            if finding.level == "ok":
                writable.append(what)
            else:
                text = f"set {advice[what]} to a folder that can be written, on a disk with room"
                yield Finding(finding.level, finding.text, text)
    if writable:
        yield ok(f"{' and '.join(writable)} can be written")
