"""Readings by the content of their prompts: what has been read once is never read again.

The key of a reading is a hash of all that decides it: the model's files, how the engine computes, the verdicts' token
ids, and the prompt's. So an experiment takes what an earlier one read of the same prompts, whatever its arms were
called.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted, printable
from judge.files import whole_file
from judge.prompting.verdict import Float, unread

_READING = np.dtype([("key", np.uint8, 32), ("logprobs", np.float64, 3)])
_PREFIX, _SUFFIX = "readings-", ".npy"
# Hexadecimal digits of a file's hash that its name has.
_DIGITS = 32


class ReadingCache:
    """Log-probabilities on disk, in files that appear whole and are never changed.

    A file's name has the hash of its content, so that a damaged one is known, and several processes can add to one
    folder.

    Args:
        folder: made where it is not there.
        warn: told which files are damaged; what they held is read again.

    Raises:
        JudgeError: the folder cannot be made.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JudgeError(f"{folder}: the cache cannot be made there ({error.strerror})") from None
        self.folder = folder
        self._known: dict[bytes, tuple[float, float, float]] = {}
        damaged = [path.name for path in sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}")) if not self._load(path)]
        if damaged:
            warn(
                f"{folder}: {counted(len(damaged), 'file')} of the cache cannot be read (for example "
                f"{printable(damaged[0])}); what was in it is read again"
            )

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> tuple[float, float, float] | None:
        """Return the log-probabilities of A, B and tie as the prompt has them, or None where it has not been read."""
        return self._known.get(key)

    def add(self, keys: Sequence[bytes], logprobs: Float) -> None:
        """Store readings, shape (prompts, 3); those without numbers (NaN) are left out and tried again next time."""
        good = np.flatnonzero(~unread(logprobs))
        if not len(good):
            return
        records = np.zeros(len(good), dtype=_READING)
        records["key"] = np.frombuffer(b"".join(keys[i] for i in good), dtype=np.uint8).reshape(-1, 32)
        records["logprobs"] = logprobs[good]
        buffer = io.BytesIO()
        np.save(buffer, records, allow_pickle=False)
        content = buffer.getvalue()
        with whole_file(self.folder / _name_of(content)) as temporary:
            temporary.write_bytes(content)
        self._take(records)

    def _load(self, path: Path) -> bool:
        try:
            content = path.read_bytes()
            if path.name != _name_of(content):
                return False
            records = np.load(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        if records.dtype != _READING:
            return False
        self._take(records)
        return True

    def _take(self, records: NDArray[np.void]) -> None:
        keys = records["key"].tobytes()
        for i, (a, b, tie) in enumerate(records["logprobs"].tolist()):
            self._known[keys[32 * i : 32 * i + 32]] = (a, b, tie)


def context_key(**parts: Any) -> bytes:
    """Return the part of a key that all prompts of an arm share, from plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def reading_key(context: bytes, prompt: NDArray[np.int32]) -> bytes:
    """Return the key of one prompt's reading, 32 bytes."""
    return hashlib.sha256(context + np.ascontiguousarray(prompt, dtype="<i4").tobytes()).digest()


def _name_of(content: bytes) -> str:
    return f"{_PREFIX}{hashlib.sha256(content).hexdigest()[:_DIGITS]}{_SUFFIX}"
