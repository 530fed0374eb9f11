"""Tables for benchmarks: made up, with the lengths of real Arena rows, or repeated from a real table.

The made-up texts are slices of the Python documentation that comes with Python itself. Lengths follow the
Arena's: median 548 tokens a row, mean about 643, 95 % under 1,528, a few of many thousands.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

COLUMNS = ("id", "prompt", "response_a", "response_b")
# Characters a row (three texts): about 4.2 characters a token, in a log-normal with the figures above.
_MEDIAN_CHARACTERS, _SIGMA = 2300, 0.78


def made_up_table(path: Path, rows: int, seed: int = 0) -> None:
    """Write a CSV of `rows` made-up comparisons; one in eight has two to four turns."""
    text = "\n".join(topics.values())
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.lognormal(np.log(_MEDIAN_CHARACTERS), _SIGMA, rows), 45_000)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, length in enumerate(lengths):
            turns = int(rng.integers(2, 5)) if rng.random() < 0.125 else 1
            cells = []
            for share in (0.12, 0.44, 0.44):
                size = max(int(length * share / turns), 20)
                starts = rng.integers(0, len(text) - size, turns)
                cells.append(json.dumps([text[s : s + size] for s in starts]))
            writer.writerow([i, *cells])


def repeated_table(source: Path, path: Path, rows: int, seed: int = 0) -> None:
    """Write a CSV of `rows` rows drawn from a real table, with new ids."""
    from judge.tables.table import Table

    comparisons = [row for chunk in Table.open(source).chunks() for row in chunk]
    pick = random.Random(seed)
    order = [
        i for _ in range(rows // len(comparisons) + 1) for i in pick.sample(range(len(comparisons)), len(comparisons))
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for new_id, i in enumerate(order[:rows]):
            row = comparisons[i]
            writer.writerow([new_id, *(json.dumps(t) for t in (row.prompt, row.response_a, row.response_b))])


def write_table(path: Path, rows: int, source: Path | None) -> None:
    """Write the table that a benchmark asked for."""
    if source is None:
        made_up_table(path, rows)
    else:
        repeated_table(source, path, rows)
