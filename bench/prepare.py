"""Reading, building and tokenising tables: seconds and peak memory at two sizes, against the tokenizer alone.

python bench/prepare.py --model MODEL [--rows 25000] [--times 10] [--table REAL_TABLE]
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

from bench.results import write
from bench.tables import write_table


def measure(model: Path, table: Path) -> dict[str, Any]:
    """Prepare a table in this process; wall seconds without imports, peak memory with them."""
    from judge.prompting.builder import Budget, PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer
    from judge.prompting.template import load_template
    from judge.runs.prepared import prepare
    from judge.runs.progress import Silent
    from judge.tables.table import Table

    builder = PromptBuilder(TextEncoder(load_tokenizer(model)), load_template("side-by-side"), Budget(2048))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        prepared = prepare(Table.open(table), builder, Path(folder), False, Silent())
        seconds = time.perf_counter() - began
        tokens = int(prepared.lengths.sum())
    return {"seconds": seconds, "tokens": tokens, **_peak()}


def measure_tokenizer(model: Path, table: Path) -> dict[str, Any]:
    """Tokenise the same texts and nothing else, in large batches on all cores."""
    from judge.prompting.encoding import load_tokenizer
    from judge.tables.table import Table

    backend = load_tokenizer(model).backend_tokenizer
    seconds = 0.0
    for chunk in Table.open(table).chunks():
        texts = [t or "" for row in chunk for part in (row.prompt, row.response_a, row.response_b) for t in part]
        began = time.perf_counter()
        backend.encode_batch_fast(texts, add_special_tokens=False)
        seconds += time.perf_counter() - began
    return {"seconds": seconds, **_peak()}


def _peak() -> dict[str, float]:
    return {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def run(kind: str, model: Path, table: Path) -> dict[str, Any]:
    """Measure in a process of its own, so that peaks are not mixed up."""
    command = [sys.executable, __file__, "--model", str(model), "--one", kind, str(table)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure both sizes in one run and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(".cache/SmolLM2-135M-Instruct"))
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--table", type=Path, help="draw the rows from this table")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, table = options.one
        print(json.dumps((measure if kind == "prepare" else measure_tokenizer)(options.model, Path(table))))
        return
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.csv", Path(folder) / "large.csv"
        write_table(small, options.rows, options.table)
        write_table(large, options.rows * options.times, options.table)
        alone = run("tokenizer", options.model, small)
        first = run("prepare", options.model, small)
        second = run("prepare", options.model, large)
    write(
        "prepare",
        {
            "rows": options.rows,
            "tokens_per_row": first["tokens"] / options.rows,
            "seconds": first["seconds"],
            "peak_gb": first["peak_gb"],
            "seconds_over_tokenizer_alone": first["seconds"] / alone["seconds"],
            "rows_large": options.rows * options.times,
            "seconds_large": second["seconds"],
            "peak_gb_large": second["peak_gb"],
            "seconds_ratio": second["seconds"] / first["seconds"],
            "peak_ratio": second["peak_gb"] / first["peak_gb"],
        },
    )


if __name__ == "__main__":
    main()
