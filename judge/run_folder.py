"""The folder of a run in progress: manifest, lock, prepared table and finished shards.

It lies beside the output as `OUT.parts` until the run is complete. Everything in it appears whole (written
under a temporary name, then renamed), so that a run that was killed at any moment can go on.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, printable
from judge.shards import Shard

Manifest = dict[str, Any]

_SHARD = np.dtype([("row", np.int32), ("swapped", np.bool_), ("logprobs", np.float64, 3)])
# What a difference in the manifest is called when a run cannot go on.
_WORDS = {
    "table": "table",
    "model": "model",
    "template": "template",
    "prompt": "prompt (template, budget or tokenizer)",
    "settings": "settings",
    "version": "version of judge",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the name `path` when the block ends without error.

    Raises:
        JudgeError: it cannot be written.
    """
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a process that was killed
        left_over.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # not of a file that is read meanwhile
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise JudgeError(f"{path}: cannot be written ({reason})") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Return in words what differs between two manifests."""
    found = []
    for key, word in _WORDS.items():
        if key == "settings":
            a, b = old.get(key, {}), new.get(key, {})
            found += [
                f"{name.replace('_', '-')} ({a.get(name)} before, {b.get(name)} now)"
                for name in sorted({*a, *b})
                if a.get(name) != b.get(name)
            ]
        elif old.get(key) != new.get(key):
            found.append(word)
    # The prompt's hash covers the template and the budget: name it only when nothing clearer differs.
    return [w for w in found if w != _WORDS["prompt"]] or found


def write_run_record(path: Path, manifest: Manifest, figures: dict[str, Any]) -> None:
    """Write the manifest and the figures of a finished run beside its output."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**manifest, "result": figures}, indent=1) + "\n", encoding="utf-8")


def read_run_record(path: Path) -> dict[str, Any]:
    """Return the record of a run: its manifest, and its figures as `result`.

    Raises:
        JudgeError: it is damaged, or none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise JudgeError(f"{path}: cannot be read ({printable(str(error), 160)})") from None
    whole = isinstance(record, dict) and all(isinstance(record.get(key), dict) for key in ("settings", "result"))
    if not whole or not all(isinstance(record.get(key), str) for key in ("model", "template", "prompt")):
        raise JudgeError(f"{path}: is not the record of a run; move it away if it is not from judge score")
    content: dict[str, Any] = record
    return content


class RunFolder:
    """A run's working folder, locked while this object is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise JudgeError(f"{path}: another judge process is working on this output") from None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; safe to call more than once."""
        self._lock.close()

    def begin(self, manifest: Manifest, restart: bool) -> bool:
        """Take up the run that the folder holds, or begin a new one.

        Returns:
            Whether there is a run to go on with.

        Raises:
            JudgeError: the folder holds a run with another model, template, budget, table or settings, or files
                that are not of a run, and `restart` is false.
        """
        file = self.path / "manifest.json"
        if not file.exists() and not restart and not self._is_fresh():
            raise JudgeError(f"{self.path}: holds files that are not of a run; move them away, or pass --restart")
        if file.exists() and not restart:
            changed = differences(json.loads(file.read_text(encoding="utf-8")), manifest)
            if changed:
                raise JudgeError(
                    f"{self.path}: holds an unfinished run with another {', '.join(changed)}; "
                    "use what it was started with, or pass --restart to start over"
                )
            return True
        self._clear()
        with whole_file(file) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        return False

    def _is_fresh(self) -> bool:
        names = [entry.name for entry in self.path.iterdir()]
        return all(n == "lock" or n.endswith(".log") or n.startswith(".manifest.json.") for n in names)

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock" and entry.suffix != ".log":  # an engine may be logging already
                entry.unlink()

    def remove(self) -> None:
        """Delete the folder and all that is in it."""
        self.close()
        shutil.rmtree(self.path)

    @property
    def log_folder(self) -> Path:
        """Where the engine processes log."""
        return self.path

    def _shard_path(self, group: str, number: int) -> Path:
        return self.path / f"shard-{group}-{number:05d}.npy"

    def write_shard(self, group: str, number: int, shard: Shard, logprobs: NDArray[np.float64]) -> None:
        """Write a finished shard; log-probabilities as read, shape (prompts, 3)."""
        records = np.zeros(len(shard.rows), dtype=_SHARD)
        records["row"], records["swapped"], records["logprobs"] = shard.rows, shard.swapped, logprobs
        with whole_file(self._shard_path(group, number)) as temporary, temporary.open("wb") as file:
            np.save(file, records, allow_pickle=False)

    def read_shard(self, group: str, number: int, shard: Shard) -> NDArray[np.float64] | None:
        """Return a shard's log-probabilities, or None when it is not (or not readably) there."""
        path = self._shard_path(group, number)
        try:
            records = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        same = (
            records.dtype == _SHARD
            and np.array_equal(records["row"], shard.rows)
            and np.array_equal(records["swapped"], shard.swapped)
        )
        return records["logprobs"] if same else None
