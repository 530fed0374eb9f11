"""Evaluating 100,000 rows with all intervals: seconds and peak memory of the whole command, against reading alone.

python bench/evaluate.py [--rows 100000] [--table REAL_TABLE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pandas as pd

from bench.results import write
from bench.tables import write_table
from judge.prompting.verdict import NAMES, probabilities


def label_and_predict(table: Path, folder: Path) -> tuple[Path, Path]:
    """Write the table with prompts of its own for each row and random verdicts, and predictions in both orders."""
    frame = pd.read_csv(table)
    rng = np.random.default_rng(0)
    n = len(frame)
    truth = rng.normal(size=(n, 3))
    p = probabilities(truth)
    label = (rng.random((n, 1)) > p.cumsum(axis=1)[:, :2]).sum(axis=1)
    frame["prompt"] = [json.dumps([f"{i}: {(json.loads(t)[:1] or [''])[0]}"]) for i, t in enumerate(frame["prompt"])]
    frame["winner"] = np.array(["model_a", "model_b", "tie"])[label]
    orders = [np.log(probabilities(1.2 * truth + 0.3 * rng.normal(size=(n, 3)))) for _ in range(2)]
    columns = dict(zip([f"p_{name}" for name in NAMES], ((np.exp(orders[0]) + np.exp(orders[1])) / 2).T, strict=True))
    for prefix, logprobs in zip(("", "swap_"), orders, strict=True):
        columns |= {f"{prefix}logprob_{name}": logprobs[:, i] for i, name in enumerate(NAMES)}
    labelled, predictions = folder / "labelled.parquet", folder / "predictions.parquet"
    frame.to_parquet(labelled)
    pd.DataFrame({"id": frame["id"], **columns, "flags": ""}).to_parquet(predictions)
    return labelled, predictions


def measure(*command: str) -> dict[str, float]:
    """Run a command; wall seconds with everything, and the peak memory of the largest so far."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6}


def main() -> None:
    """Measure reading alone, then the evaluation, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--table", type=Path, help="draw the rows from this table")
    options = parser.parse_args()
    judge = str(Path(sys.executable).parent / "judge")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table.csv", options.rows, options.table)
        labelled, predictions = label_and_predict(folder / "table.csv", folder)
        read = "import sys; from judge.tables.table import Table; [0 for c in Table.open(sys.argv[1]).chunks()]"
        reading = measure(sys.executable, "-c", read, str(labelled))
        whole = measure(judge, "evaluate", str(predictions), str(labelled))
    figures: dict[str, Any] = {"rows": options.rows, "reading": reading, "evaluate": whole}
    write("evaluate", figures | {"ratio": whole["seconds"] / reading["seconds"]})


if __name__ == "__main__":
    main()
