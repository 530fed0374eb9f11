"""Small labelled tables, made on the spot: the better response repeats a word of the prompt."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd

_WORDS = (
    "apple river stone cloud tiger piano bread winter candle mirror garden copper silver rabbit ladder basket "
    "window bottle forest island pepper marble rocket saddle thunder velvet wagon yellow zebra anchor bridge castle"
)
WORDS = _WORDS.split()


def labelled_rows(count: int, seed: int = 0, prompts: int | None = None) -> list[dict[str, Any]]:
    """Return rows of the LMSYS schema; about a third of each verdict, `prompts` different prompts."""
    pick = random.Random(seed)  # noqa: S311 - repeatable
    rows = []
    for i in range(count):
        number = i % (prompts or count)
        word, other = WORDS[number % len(WORDS)], WORDS[(number + 7) % len(WORDS)]
        good, bad = f"Here it is: {word}.", f"Perhaps {other}?" + " Or so." * pick.randint(0, 2)
        label = i % 3
        a, b = [(good, bad), (bad, good), (good, f"It is {word}.")][label]
        rows.append(
            {
                "id": i + 1,
                "prompt": f"Say {word} {number}.",
                "response_a": a,
                "response_b": b,
                "winner_model_a": int(label == 0),
                "winner_model_b": int(label == 1),
                "winner_tie": int(label == 2),
            }
        )
    return rows


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as CSV, Parquet or JSON Lines, by the path's suffix."""
    frame = pd.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    return path
