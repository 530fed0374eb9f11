"""Which loss teaches a judge better: over the three verdicts, or over the vocabulary? Same rows, order and seeds.

    python bench/losses.py --model MODEL [--table TABLE] [--seeds 0 1] [-- --epochs 2 …]

For each seed and loss one run of `judge train`; the seed changes the split, the order and the adapter's first values.
What follows `--` goes to every run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.results import OUT, write

ROOT = Path(__file__).parent.parent
LOSSES = ("verdicts", "vocabulary")


def held_out(model: str, table: str, loss: str, seed: int, more: list[str]) -> dict[str, Any]:
    """Train once and return the held-out figures after training."""
    bundle = OUT / f"loss-{loss}-{seed}"
    shutil.rmtree(bundle, ignore_errors=True)
    command = [sys.executable, "-m", "judge", "train", "--config", str(ROOT / "configs" / "smollm2-135m-cpu.yaml")]
    command += ["--model", model, "--data", table, "-o", str(bundle), "--restart", f"--loss={loss}", f"--seed={seed}"]
    subprocess.run([*command, *more], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    figures: dict[str, Any] = json.loads((bundle / "judge.json").read_text(encoding="utf-8"))["metrics"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--table", default=str(ROOT / "judge" / "demo" / "training.csv"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("more", nargs="*")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    runs = {
        f"{loss} {seed}": held_out(arguments.model, arguments.table, loss, seed, arguments.more)
        for seed in arguments.seeds
        for loss in LOSSES
    }
    after = {loss: [runs[f"{loss} {seed}"]["after"]["log_loss"] for seed in arguments.seeds] for loss in LOSSES}
    gains = [b - a for a, b in zip(after["verdicts"], after["vocabulary"], strict=True)]
    write("losses", {"log_loss": after, "mean_gain_of_verdicts": statistics.mean(gains), "runs": runs})


if __name__ == "__main__":
    main()
