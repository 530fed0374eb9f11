"""Tells whether `vllm serve` in this container answers: exit status 0 when it does, 1 when not.

Python's own library only. PORT is the server's port, 8000 where it is not set.
"""

from __future__ import annotations

import http.client
import os
import sys

SECONDS = 2.0  # less than the time that the health check in compose.yaml has


def is_healthy(port: int) -> bool:
    """Whether the server on this machine answers /health with 200; vLLM says 503 when its engine is dead."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if is_healthy(int(os.environ.get("PORT", "8000"))) else 1)
