"""Files that ended engines left in shared memory and in the temporary folder; they stay until a restart."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from judge.doctor.finding import Finding, note, ok, problem
from judge.errors import counted, printable

# Engines give these names: Python's shared memory and semaphores, vLLM's offloading, NCCL, torch, Intel's OpenMP.
_SHARED = re.compile(r"psm_\w+|sem\.mp-\w+|vllm\w*.*|nccl-\w+|torch_\d+_.*|__KMP_REGISTERED_LIB_\d+_\d+")
_LITTLE = 1_000_000  # bytes
# vLLM's sockets in the temporary folder: ipc://{folder}/{uuid4()} (vllm/utils/network_utils.py).
_SOCKET = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def leftover_findings(shared: Path, temporary: Path, process: Path = Path("/proc")) -> Iterator[Finding]:
    """Yield which files this user's ended engines left.

    Args:
        shared: /dev/shm.
        temporary: the temporary folder.
        process: /proc, where programs show which files they hold.
    """
    files = [f for f in _own_files(shared) if _SHARED.fullmatch(f.name)]
    held = _held(process, str(shared)) if files else set()
    unused = [file for file in files if str(file) not in held]
    sockets = [f for f in _own_files(temporary) if _SOCKET.fullmatch(f.name) and stat.S_ISSOCK(f.stat().st_mode)]
    open_sockets = _open_sockets(process) if sockets else set()
    dead = [file for file in sockets if str(file) not in open_sockets]
    if unused:
        yield _shared_finding(shared, unused)
    if dead:
        # they take no room, and a new engine takes another name
        yield ok(f"{counted(len(dead), 'socket')} of ended engines in {temporary}, which do no harm")
    if not unused and not dead:
        yield ok("no files of ended engines")


def _shared_finding(shared: Path, unused: list[Path]) -> Finding:
    """Return how much memory leftover files in shared memory take; it is a problem if they fill a tenth of it."""
    size = sum(file.stat().st_size for file in unused)
    largest = max(unused, key=lambda file: file.stat().st_size)
    text = (
        f"{counted(len(unused), 'file')} of ended programs in {shared} ({size / 1e6:,.1f} MB of memory, "
        f"largest {printable(largest.name)})"
    )
    space = os.statvfs(shared)
    much = size > space.f_blocks * space.f_frsize / 10
    if size < _LITTLE:
        return ok(f"{counted(len(unused), 'small file')} of ended programs in {shared}, which do no harm")
    advice = "remove them, unless an engine of yours runs in another container"
    return problem(text, advice) if much else note(text, advice)


def _own_files(folder: Path) -> list[Path]:
    """Return the files in a folder that belong to this user."""
    found = []
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    for entry in entries:
        try:
            status = entry.lstat()
        except OSError:  # removed meanwhile
            continue
        if status.st_uid == os.getuid() and not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            found.append(entry)
    return found


def _held(process: Path, folder: str) -> set[str]:
    """Return the files that programs have mapped from a folder, and all files that programs have open."""
    held: set[str] = set()
    for entry in process.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            maps = (entry / "maps").read_text(encoding="utf-8", errors="replace")
            held |= {line[line.index(folder) :] for line in maps.splitlines() if f" {folder}/" in line}
            links = list((entry / "fd").iterdir())
        except OSError:  # ended meanwhile, or another user's
            continue
        for link in links:
            with contextlib.suppress(OSError):  # closed meanwhile
                held.add(str(link.readlink()))
    return held


def _open_sockets(process: Path) -> set[str]:
    try:
        lines = (process / "net" / "unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {line.split(maxsplit=7)[7] for line in lines[1:] if len(line.split(maxsplit=7)) == 8}
