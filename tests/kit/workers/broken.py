"""A real engine that does FAILURE on prompts of LENGTH tokens (0: on all), and only once where MARK names a file.

`memory` and `error` raise. `killed` gets SIGKILL, `exit` ends the process. `sleep:S` waits S seconds and then reads.
`pid:FOLDER` leaves the process id in that folder and waits for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from judge.engine.protocol import Engine, Progress
from judge.engine.worker import die_with_parent, serve

length, failure, mark = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def fail() -> None:
    kind, _, value = failure.partition(":")
    if mark and Path(mark).exists():
        return
    if mark:
        Path(mark).touch()
    if kind == "memory":
        raise MemoryError("out of memory")
    if kind == "error":
        raise RuntimeError("CUDA error")
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(7)
    if kind == "pid":
        Path(value, str(os.getpid())).touch()
    time.sleep(float(value) if kind == "sleep" else 600)


class Broken:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def read(self, prompts: Sequence[Sequence[int]], progress: Progress) -> NDArray[np.float64]:
        if not length or any(len(prompt) == length for prompt in prompts):
            fail()
        return self.engine.read(prompts, progress)

    def close(self) -> None:
        self.engine.close()


threading.Thread(target=die_with_parent, args=(int(sys.argv[-1]),), daemon=True).start()
serve(Connection(int(sys.argv[-2])), Broken)
