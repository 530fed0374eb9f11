"""A program that scores the folder `table` as a user's command does: MODEL OUTPUT ENGINE."""

from __future__ import annotations

import sys
from pathlib import Path

from judge.cli.score import run_score
from judge.predictions.submission import SubmissionOptions
from judge.scoring.settings import ScoreSettings

model, output, engine = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
settings = ScoreSettings.model_validate(
    {"max_tokens": 300, "shard_tokens": 2000, "engine": engine, "workers": 2 if engine == "ray" else 1}
)
run_score(
    model, Path("table"), output, settings, SubmissionOptions(), cells="auto", on_bad_row="error", restart=False
)  # fmt: skip
