"""The worker process: one engine, fed with prompts through a socket by `judge.engine.pool`.

Messages are JSON (token ids in, log-probabilities out); Python writes and reads float64 without loss.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from judge.engine.protocol import Engine, EngineConfig

_PARENT_SECONDS = 1.0


def main() -> int:
    """Run the worker; the socket's file descriptor is the first argument, the parent's pid the second."""
    threading.Thread(target=die_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # ends with the usual cleaning up
    return serve(Connection(int(sys.argv[1])))


def serve(connection: Connection, wrap: Any = None) -> int:
    """Start the engine that the first message describes, then answer jobs until the other side hangs up.

    Args:
        wrap: if given, called with the started engine, and what it returns is used instead.
    """
    try:
        config = EngineConfig.model_validate_json(connection.recv_bytes())
        began = time.monotonic()
        engine = start(config)
        engine = wrap(engine) if wrap else engine
        _send(connection, event="ready", seconds=time.monotonic() - began, memory=memory_in_use())
        while True:
            prompts = json.loads(connection.recv_bytes())["prompts"]
            logprobs = engine.read(prompts, lambda rows: _send(connection, event="progress", rows=rows))
            _send(connection, event="done", logprobs=logprobs.tolist(), memory=memory_in_use())
    except EOFError:
        return 0
    except Exception as error:  # whatever an engine raises is reported; its state is not to be trusted then
        traceback.print_exc()  # into the log, before an error points the user to it
        _send(connection, event="failed", memory=_is_memory(error), message=f"{type(error).__name__}: {error}")
        raise


def start(config: EngineConfig) -> Engine:
    """Start the engine that a config names (imports torch and, where named, vLLM)."""
    if config.readout == "transformers":
        from judge.engine.transformers import TransformersEngine

        return TransformersEngine(config)
    from judge.engine.vllm import VllmClassifyEngine, VllmEngine

    return VllmClassifyEngine(config) if config.readout == "vllm-classify" else VllmEngine(config)


def memory_in_use() -> dict[str, int]:
    """Return bytes of memory: `host`, the most that this process has held so far; on a card also `device`, the most
    that torch has held for it, and `used` and `total`, what is taken of the card by everybody and what it has.
    """
    found = {}
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if match := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
            found["host"] = int(match[1]) * 1024
    except OSError:  # not on every system
        pass
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        found |= {"device": int(torch.cuda.max_memory_reserved()), "used": int(total - free), "total": int(total)}
    return found


def _is_memory(error: Exception) -> bool:
    # CUDA's words, those of torch's allocator on a CPU, and C++'s
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def _send(connection: Connection, **message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


def die_with_parent(parent: int) -> None:
    """Watch the parent and end this process and its children once it is gone, even by kill -9.

    (The kernel has a signal for this, but sends it already when the parent's *thread* ends.)
    """
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
