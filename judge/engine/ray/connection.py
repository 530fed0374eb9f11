"""The connection to a Ray cluster, or to a Ray on this machine that starts and stops with a run."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from typing import Any

from judge.errors import JudgeError, printable
from judge.hardware import machine

_CONNECTING_SECONDS = 10.0
_STORE_BYTES = 256 << 20  # a shard of 262,144 tokens is 1 MiB
# Ray's sockets lie some 60 characters below its folder, and their paths may have 107.
_LONGEST_TEMPORARY = 40


def connect(address: str | None, workers: int) -> contextlib.ExitStack:
    """Connect to a cluster, or start a Ray for `workers` engines on this machine.

    Returns:
        What closes the connection. A Ray that was started here ends with that; a connection that was there before is
        left as it is.

    Raises:
        JudgeError: the cluster cannot be reached, or Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    closing = contextlib.ExitStack()
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return closing
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if address:
        check_address(address)
    else:
        base = tempfile.gettempdir()
        base = base if len(base) <= _LONGEST_TEMPORARY else "/tmp"  # noqa: S108 - only a new folder in it
        temporary = tempfile.mkdtemp(prefix="judge-ray-", dir=base)
        closing.callback(shutil.rmtree, temporary, ignore_errors=True)
        cores = max(len(machine.cpu_cores()), workers)
        options = {"address": "local", "num_cpus": cores, "object_store_memory": _STORE_BYTES, "_temp_dir": temporary}
    try:
        ray.init(include_dashboard=False, logging_level=logging.CRITICAL, log_to_driver=False, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        closing.close()
        reason = printable(" ".join(str(error).split()), 300)
        where = f"the Ray cluster at {printable(address)} cannot be reached" if address else "Ray does not start"
        raise JudgeError(f"--engine=ray: {where} ({reason})") from None
    closing.callback(ray.shutdown)  # the last that is added is done first
    return closing


def check_address(address: str) -> None:
    """Refuse an address at which nobody answers, for which Ray itself takes minutes."""
    if "://" in address:
        raise JudgeError(
            f"--ray-address={printable(address)}: start judge on a machine of the cluster, and give HOST:PORT or auto"
        )
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), _CONNECTING_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise JudgeError(
            f"--ray-address={printable(address)}: no Ray cluster answers there ({printable(str(error), 200)}); "
            "give the HOST:PORT that `ray start --head` shows"
        ) from None
