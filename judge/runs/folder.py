"""The folder of a run in progress: manifest, lock, prepared table and finished shards.

It lies beside the output as `OUT.parts` until the run is complete. Everything in it appears whole (written
under a temporary name, then renamed), so that a run that was killed at any moment can go on.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, printable
from judge.files import whole_file
from judge.runs.shards import Shard

Manifest = dict[str, Any]

_SHARD = np.dtype([("row", np.int32), ("swapped", np.bool_), ("logprobs", np.float64, 3)])
# Behind the records: a disk that fails, or a file that was half copied, must not become a prediction.
_CHECKSUM_BYTES = 16
# What a difference in the manifest is called when a run cannot go on.
_WORDS = {
    "table": "table",
    "model": "model",
    "template": "template",
    "prompt": "prompt (template, budget or tokenizer)",
    "settings": "settings",
    "version": "version of judge",
}


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


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES).digest()


def _read_records(path: Path) -> NDArray[np.void] | None:
    """Return the records of a shard's file, or None when it is not there as it was written."""
    try:
        content = path.read_bytes()
        data, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if checksum != _checksum(data):
            return None
        records: NDArray[np.void] = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return records if records.dtype == _SHARD else None


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
        before = None if restart else self._manifest()
        if before is not None:
            changed = differences(before, manifest)
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

    def _manifest(self) -> Manifest | None:
        """Return the manifest of the run that the folder holds; None if there is none, or a disk has spoilt it."""
        try:
            content = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

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
        content = io.BytesIO()
        np.save(content, records, allow_pickle=False)
        with whole_file(self._shard_path(group, number)) as temporary:
            temporary.write_bytes(content.getvalue() + _checksum(content.getvalue()))

    def read_shard(self, group: str, number: int, shard: Shard) -> NDArray[np.float64] | None:
        """Return a shard's log-probabilities, or None when it is not there as it was written."""
        records = _read_records(self._shard_path(group, number))
        if records is None:
            return None
        same = np.array_equal(records["row"], shard.rows) and np.array_equal(records["swapped"], shard.swapped)
        return records["logprobs"] if same else None

    def shards_like(self, pattern: str) -> Iterator[tuple[str, int, Shard, NDArray[np.float64]]]:
        """Yield group, number, prompts (`tokens` is 0) and log-probabilities of whole shards, whatever rows they hold.

        Args:
            pattern: of the groups' names, such as `late*`.
        """
        for path in sorted(self.path.glob(f"shard-{pattern}-*.npy")):
            records = _read_records(path)
            _, group, number = path.stem.split("-", 2)
            if records is not None and number.isdecimal():
                yield group, int(number), Shard(records["row"], records["swapped"], 0), records["logprobs"]
