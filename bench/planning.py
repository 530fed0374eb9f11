"""Predicted against measured time: `judge rehearse` and `judge plan --rehearsal` against `judge score`.

    python bench/planning.py --model MODEL [--table TABLE] [--rows 200] [--sample 48]

The three commands run one after the other on the same table, each in a process of its own. A made-up table of the
contest's lengths is read if none is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.results import write
from bench.tables import made_up_table


def judge(*arguments: str | Path) -> str:
    """Run a judge command and return what it prints; its progress stays on the terminal."""
    command = [sys.executable, "-m", "judge", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode > 1:  # 1: it would not fit a deadline
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}")
    return done.stdout


def compared(predicted: dict[str, float], seconds: float) -> dict[str, Any]:
    """Return a prediction beside the seconds that were measured."""
    return {
        **{name: round(value, 1) for name, value in predicted.items()},
        "relative_error": round(predicted["value"] / seconds - 1, 3),
        "in_range": predicted["low"] <= seconds <= predicted["high"],
    }


def main() -> None:
    """Predict, measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--rows", type=int, default=200, help="rows of the made-up table")
    parser.add_argument("--sample", type=int, default=48, help="rows of the rehearsal's random sample")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="judge-bench-") as name:
        folder = Path(name)
        table = options.table or folder / "made_up.csv"
        if options.table is None:
            made_up_table(table, options.rows)
        rehearsal = folder / "rehearsal.json"
        rehearsal.write_text(judge("rehearse", options.model, table, "--sample", str(options.sample), "--json"))
        rehearsed = json.loads(rehearsal.read_text())
        planned = json.loads(judge("plan", options.model, table, "--rehearsal", rehearsal, "--json"))
        began = time.monotonic()
        judge("score", options.model, table, "-o", folder / "predictions.parquet")
        seconds = time.monotonic() - began
    figures = {
        "rows": rehearsed["rows"],
        "mean_tokens": rehearsed["mean_tokens"],
        "measured_seconds": round(seconds, 1),
        "rehearse": compared(rehearsed["total_seconds"], seconds),
        "plan": compared(planned["seconds"], seconds),
    }
    write("planning", figures)


if __name__ == "__main__":
    main()
