"""The folder of a run in progress: manifest, lock, prepared table and finished shards.

It lies beside the output as `OUT.parts` until the run is complete. Every file in it is written under a temporary name
and then renamed, so that a run that was killed at any moment can go on.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, printable
from judge.files import write_whole
from judge.runs.shards import Shard

Manifest = dict[str, Any]
# What a run's folder and its output say of the run that is wanted: nothing of it is there; a part of it is; all of it
# is; or what is there belongs to another run.
State = Literal["fresh", "unfinished", "done", "foreign"]

_SHARD = np.dtype([("row", np.int32), ("swapped", np.bool_), ("logprobs", np.float64, 3)])
# Each shard's file ends in a checksum: what a failing disk or half a copy left must not become a prediction.
_CHECKSUM_BYTES = 16
# Stands for a hash in the record of a run whose deadline passed before its files were hashed.
NOT_HASHED = "not hashed: the deadline had passed"
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


def without_calibration(manifest: Manifest) -> Manifest:
    """Return the part of a manifest that decides what is read: a calibration only changes what follows from it."""
    result = copy.deepcopy(manifest)
    result.get("settings", {}).pop("calibration", None)
    return result


def write_run_record(path: Path, manifest: Manifest, figures: dict[str, Any]) -> None:
    """Write the manifest and the figures of a finished run beside its output."""
    write_whole(path, (json.dumps({**manifest, "result": figures}, indent=1) + "\n").encode())


def read_run_record(path: Path) -> dict[str, Any]:
    """Return the record of a run: its manifest, and its figures as `result`.

    Raises:
        JudgeError: the file is damaged, or is not a run record.
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
    """A run's working folder, locked while this object is open.

    Args:
        path: the folder; it is made if it is not there.
        output: the file or folder that the run is to write. Its record is `OUTPUT.run.json`.

    Attributes:
        is_new: the folder was not there before.
        manifest: the manifest of the run once it has begun, or was taken up.

    Raises:
        JudgeError: another process has the folder open.
    """

    def __init__(self, path: Path, output: Path | None = None) -> None:
        self.path, self.output = path, output
        self.record = output.with_name(f"{output.name}.run.json") if output else None
        self.manifest: Manifest | None = None
        self.is_new = not path.exists()
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
        """Release the lock; safe to call more than once. A new folder in which no run began is removed."""
        if not self._lock.closed and self.is_new and self.path.exists() and self._is_empty():
            shutil.rmtree(self.path)
        self._lock.close()

    def finished(self) -> dict[str, Any] | None:
        """Return the record of the output if a run has written it and will not go on.

        A run goes on although it has written its output where its engine failed for good before the deadline, or its
        deadline passed before the run could be taken up.

        Raises:
            JudgeError: the output is not from judge.
        """
        if self.output is None or self.record is None or not self.output.exists():
            return None
        if not self.record.exists():
            if self.is_new:
                raise JudgeError(
                    f"{self.output} exists and is not a finished run of judge; pass --restart to overwrite it"
                )
            return None  # the run was killed between writing its output and the record
        record = read_run_record(self.record)
        return None if self._goes_on(record, record["result"]) else record

    def _goes_on(self, manifest: Manifest, figures: dict[str, Any]) -> bool:
        given_up = figures.get("given_up")
        failed = isinstance(given_up, dict) and "failed" in given_up
        return (failed or manifest["model"] == NOT_HASHED) and (self.path / "manifest.json").exists()

    def finish(self, figures: dict[str, Any], restart: bool) -> bool:
        """Write the record of a run that has written its output, and remove the folder unless the run goes on.

        Args:
            restart: the run was to start over: if its deadline passed before, nobody goes on with what is there.

        Returns:
            Whether the folder is kept, because the run goes on (see `finished`).
        """
        assert self.record is not None
        assert self.manifest is not None
        goes_on = self._goes_on(self.manifest, figures) and not (restart and self.manifest["model"] == NOT_HASHED)
        write_run_record(self.record, self.manifest, figures)
        if not goes_on:
            shutil.rmtree(self.path)
        return goes_on

    def state(self, manifest: Manifest) -> tuple[State, str]:
        """Return what the folder and the output say of the run with this manifest, and why it cannot be taken up.

        A run with another calibration counts as the same run: nothing need be read again.
        """
        wanted, record = without_calibration(manifest), self.finished()
        if record is not None:
            if record["model"] == NOT_HASHED:
                return "foreign", (
                    f"{self.output} is complete, but its deadline had passed before anything was read: all rows have "
                    "the class priors; pass --restart to score again"
                )
            if changed := differences(without_calibration(record), wanted):
                return "foreign", (
                    f"{self.output} holds the result of another {', '.join(changed)}; choose another output, or pass "
                    "--restart to overwrite it"
                )
            return "done", ""
        if not (self.path / "manifest.json").exists() and not self._is_empty():
            return "foreign", f"{self.path}: holds files that are not of a run; move them away, or pass --restart"
        before = self._manifest()
        if before is None:
            return "fresh", ""
        if changed := differences(before, wanted):
            return "foreign", (
                f"{self.path}: holds an unfinished run with another {', '.join(changed)}; "
                "use what it was started with, or pass --restart to start over"
            )
        return "unfinished", ""

    def begin(self, manifest: Manifest, restart: bool) -> bool:
        """Take up the run that the folder holds, or begin a new one.

        Args:
            restart: begin a new run, whatever the folder holds; the record of a finished run is removed.

        Returns:
            Whether there is a run to go on with.

        Raises:
            JudgeError: the folder holds another run, or files that are not of a run, and `restart` is false.
        """
        state, why = ("fresh", "") if restart else self.state(manifest)
        if state == "foreign":
            raise JudgeError(why)
        self.manifest = manifest
        if state == "unfinished":
            return True
        if self.record is not None:  # from here on, the same command without --restart goes on with this run
            self.record.unlink(missing_ok=True)
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock" and entry.suffix != ".log":  # an engine may be logging already
                entry.unlink()
        write_whole(self.path / "manifest.json", json.dumps(without_calibration(manifest), indent=1).encode())
        return False

    def _manifest(self) -> Manifest | None:
        """Return the manifest of the run that the folder holds, None if there is none or a disk has spoilt it."""
        try:
            content = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _is_empty(self) -> bool:
        """Whether the folder holds nothing but the lock and what engines log."""
        names = [entry.name for entry in self.path.iterdir()]
        return all(n == "lock" or n.endswith(".log") or n.startswith(".manifest.json.") for n in names)

    def remove(self) -> None:
        """Delete the folder and all that is in it."""
        self._lock.close()
        shutil.rmtree(self.path)

    def write_shard(self, group: str, number: int, shard: Shard, logprobs: NDArray[np.float64]) -> None:
        """Write a finished shard; log-probabilities as read, shape (prompts, 3)."""
        records = np.zeros(len(shard.rows), dtype=_SHARD)
        records["row"], records["swapped"], records["logprobs"] = shard.rows, shard.swapped, logprobs
        content = io.BytesIO()
        np.save(content, records, allow_pickle=False)
        data = content.getvalue()
        write_whole(self.path / f"shard-{group}-{number:05d}.npy", data + _checksum(data))

    def shards(self) -> Iterator[tuple[str, int, Shard, NDArray[np.float64]]]:
        """Yield group, number, prompts (`tokens` is 0) and log-probabilities of every whole shard.

        A shard whose file is not as it was written is left out.
        """
        for path in sorted(self.path.glob("shard-*.npy")):
            records = _read_records(path)
            _, group, number = path.stem.split("-", 2)
            if records is not None and number.isdecimal():
                yield group, int(number), Shard(records["row"], records["swapped"], 0), records["logprobs"]
