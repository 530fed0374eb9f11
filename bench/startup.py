"""How long `judge --help` takes, and that it imports nothing heavy.

python bench/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.results import write

RUNS = 15


def main() -> None:
    """Run `judge --help` several times and write the figures."""
    command = [str(Path(sys.executable).parent / "judge"), "--help"]
    seconds = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    counted = seconds[1:]  # the first reads the files from disk
    write(
        "startup",
        {
            "help_seconds_median": statistics.median(counted),
            "help_seconds_worst": max(counted),
            "help_seconds_cold": seconds[0],
            "limit_seconds": 0.5,
        },
    )


if __name__ == "__main__":
    main()
