"""A merge that is killed when it has written half of the model: `killed_merge.py ADAPTER BASE OUTPUT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from judge.models.bundle import open_model
from judge.runs.progress import Silent
from quantize.merge import merge


class Killed(Silent):
    """Kills this process in the middle of writing."""

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        del text, rate
        if what == "merging" and done is not None and total is not None and done > total / 2:
            os.kill(os.getpid(), 9)


if __name__ == "__main__":
    merge(open_model(sys.argv[1], sys.argv[2]), Path(sys.argv[3]), "auto", Killed(), False)
