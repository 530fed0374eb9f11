"""Trains a judge, scores a table with it and says how good it is: python examples/train_score_evaluate.py MODEL OUT

MODEL is a folder with a chat model (after `make demo`: .cache/SmolLM2-135M-Instruct), OUT a new folder.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from judge import Judge
from judge.evaluation.evaluate import evaluate
from judge.predictions.file import read_predictions
from judge.runs.progress import Silent
from judge.tables.table import Table
from judge.training.settings import parse_train_settings
from judge.training.train import train

DEMO = Path(__file__).parents[1] / "judge" / "demo"  # put your own tables in the place of the demo's
SETTINGS = {"template": "minimal", "max_tokens": 512, "holdout": 0.25, "epochs": 3, "learning_rate": 3e-4}


def main(model: Path, out: Path, **more_settings: Any) -> None:
    """Train on one table of the demo, score and evaluate another one."""
    out.mkdir()
    data = {"model": str(model), "data": [str(DEMO / "training.csv")]}
    figures = train(parse_train_settings({**data, **SETTINGS, **more_settings}), out / "judge", False, False, Silent())
    print(f"held-out log loss {figures['before']['log_loss']:.3f} before, {figures['after']['log_loss']:.3f} after")

    with Judge(out / "judge", swap="all") as judge:
        predictions = judge.score(pd.read_csv(DEMO / "comparisons.csv"))
    predictions.to_parquet(out / "predictions.parquet")

    table = Table.open(DEMO / "comparisons.csv", on_bad_row="placeholder")
    found = evaluate(read_predictions(out / "predictions.parquet"), table).figures["all"]
    for name, figure in (("log loss", found.log_loss), ("accuracy", found.accuracy)):
        print(f"{name} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}) on {found.rows} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
