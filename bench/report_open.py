"""How long a report of many rows takes to open in a real browser, and how large it is.

python bench/report_open.py [--rows 25000]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from bench.results import write
from bench.tables import made_up_table
from judge.predictions.file import StoredPredictions
from judge.report.page import write_page
from judge.report.row_data import rows_of
from judge.tables.table import Table

OPENED = 5
# When the list can be used: the page's own clock, from the start of the navigation.
READY = """() => new Promise((resolve) => {
    const look = () => document.documentElement.dataset.ready
        ? requestAnimationFrame(() => resolve(performance.now() / 1000)) : setTimeout(look, 5);
    look();
})"""


def random_predictions(rows: int) -> StoredPredictions:
    """Return predictions in both orders for the rows of a made-up table."""
    rng = np.random.default_rng(0)
    first, second = np.log(rng.dirichlet([1.0, 1.0, 0.5], rows)), np.log(rng.dirichlet([1.0, 1.0, 0.5], rows))
    p = (np.exp(first) + np.exp(second)) / 2
    ids = [str(i) for i in range(rows)]
    none = np.zeros(rows, dtype=np.uint32)
    return StoredPredictions("made-up", "predictions", ids, p, np.ones(rows), none, first, second, none > 0)


def main() -> None:
    """Write a report, open it several times, and write the figures."""
    from tests.kit.browser import opened, started

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25_000)
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        table, report = Path(folder) / "table.csv", Path(folder) / "report.html"
        made_up_table(table, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        write_page(report, "Report", [], rows_of(random_predictions(rows), Table.open(table)))
        seconds = time.perf_counter() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        opening, row, search = [], [], []
        with started() as browser:
            for _ in range(OPENED):
                with opened(browser, report.as_uri()) as visit:
                    opening.append(visit.page.evaluate(READY))
                    began = time.perf_counter()
                    visit.page.keyboard.press("j")
                    visit.page.wait_for_selector(".conversation")
                    row.append(time.perf_counter() - began)
            with opened(browser, report.as_uri()) as visit:
                visit.page.locator("#search").fill("nowhere at all")
                began = time.perf_counter()
                visit.page.keyboard.press("Enter")
                visit.page.get_by_text("all texts searched").wait_for(timeout=120_000)
                search.append(time.perf_counter() - began)
        figures = {
            "rows": rows,
            "table_megabytes": table.stat().st_size / 1e6,
            "file_megabytes": report.stat().st_size / 1e6,
            "write_seconds": seconds,
            "write_memory_megabytes": grown / 1e3,
            "open_seconds_median": statistics.median(opening),
            "open_seconds_worst": max(opening),
            "open_limit_seconds": 3.0,
            "row_seconds_median": statistics.median(row),
            "search_all_seconds": search[0],
        }
    write("report_open", figures)


if __name__ == "__main__":
    main()
