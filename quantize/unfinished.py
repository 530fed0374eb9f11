"""The folder `OUT.parts` in which a 4-bit model is put together, and what must be so before."""

from __future__ import annotations

import json
from pathlib import Path

from judge.errors import JudgeError
from judge.runs.folder import RunFolder

_MANIFEST = {"work": "quantized"}


def check_output(output: Path) -> None:
    """Check that the 4-bit model can be written to `output`.

    Raises:
        JudgeError: it exists, or its parent does not.
    """
    if output.exists():
        raise JudgeError(f"{output}: exists already; choose another output, or remove it first")
    if not output.resolve().parent.is_dir():
        raise JudgeError(f"{output}: there is no folder {output.parent} to write to")


class unfinished:  # noqa: N801 - used like a function
    """The folder `OUT.parts` for the work, emptied of what a killed run left; removed at the end, however it ends."""

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(output.name + ".parts")
        file = self.path / "manifest.json"
        own = file.exists() and json.loads(file.read_text(encoding="utf-8")) == _MANIFEST
        if not own and self.path.exists() and {entry.name for entry in self.path.iterdir()} - {"lock"}:
            raise JudgeError(f"{self.path}: holds something that judge quantize did not leave there; move it away")
        self.run = RunFolder(self.path)

    def __enter__(self) -> RunFolder:
        self.run.begin(_MANIFEST, restart=True)
        return self.run

    def __exit__(self, *exc: object) -> None:
        self.run.remove()
