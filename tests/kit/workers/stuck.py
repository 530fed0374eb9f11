"""A worker that says that it is ready and then takes no prompts; with `hangs-up` it also closes the socket."""

from __future__ import annotations

import sys
import time
from multiprocessing.connection import Connection

connection = Connection(int(sys.argv[-2]))
connection.send_bytes(b'{"event": "ready"}')
if sys.argv[1] == "hangs-up":
    connection.close()
time.sleep(600)
