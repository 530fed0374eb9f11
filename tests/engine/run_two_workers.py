"""A program that a test kills: two engines that read for ever and leave their process ids in the folder FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.engine.test_pool import broken, make_pool, run

model, folder = map(Path, sys.argv[1:])
run(make_pool(model, folder, workers=2, command=broken(f"pid:{folder}", length=0)), job_size=1)
