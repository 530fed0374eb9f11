"""A real engine that takes its time: LOAD seconds to load, READ seconds a job and TOKEN seconds a token.

Where MARK names a file, the engine reads three jobs, makes the file, and dies; from then on it dies at once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from judge.engine.protocol import Engine, Progress
from judge.engine.worker import serve

load, read, token = map(float, sys.argv[1:4])
mark = sys.argv[4]
if mark and Path(mark).exists():
    os._exit(7)


class Slow:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.jobs = engine, 0
        time.sleep(load)

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        self.jobs += 1
        if mark and self.jobs > 3:
            Path(mark).touch()
            os._exit(7)
        time.sleep(read)
        results = []
        for prompt in prompts:
            time.sleep(len(prompt) * token)
            results.append(self.engine.read([prompt], progress))
        return np.concatenate(results)

    def close(self) -> None:
        self.engine.close()


serve(Connection(int(sys.argv[-2])), Slow)
