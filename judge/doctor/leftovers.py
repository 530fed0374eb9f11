"""Files that ended engines left in shared memory and in the temporary folder; they stay until a restart."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from judge.doctor.finding import Finding, note, ok, problem
from judge.errors import counted, printable

# Engines give these names: Python's shared memory and semaphores, vLLM's offloading, NCCL, torch, Intel's OpenMP.
_SHARED = re.compile(r"psm_\w+|sem\.mp-\w+|vllm\w*.*|nccl-\w+|torch_\d+_.*|__KMP_REGISTERED_LIB_\d+_\d+")
_LITTLE = 1_000_000  # bytes
# vLLM's sockets in the temporary folder: ipc://{folder}/{uuid4()} (vllm/utils/network_utils.py).
_SOCKET = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def leftover_findings(shared: Path, temporary: Path) -> Iterator[Finding]:
    """Yield which files this user's ended engines left in shared memory and in the temporary folder."""
    files = [file for file in _own_files(shared, _SHARED) if file.is_file()]
    held = _held(str(shared)) if files else set()
    unused = [file for file in files if str(file) not in held]
    sockets = [file for file in _own_files(temporary, _SOCKET) if file.is_socket()]
    open_sockets = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace") if sockets else ""
    dead = [file for file in sockets if f" {file}\n" not in open_sockets]
    if unused:
        yield _shared_finding(shared, unused)
    if dead:
        # they take no room, and a new engine takes another name
        yield ok(f"{counted(len(dead), 'socket')} of ended engines in {temporary}, which do no harm")
    if not unused and not dead:
        yield ok("no files of ended engines")


def _shared_finding(shared: Path, unused: list[Path]) -> Finding:
    """Return how much memory leftover files in shared memory take; it is a problem if they fill a tenth of it."""
    sizes = {file.name: file.stat().st_size for file in unused}
    size = sum(sizes.values())
    if size < _LITTLE:
        return ok(f"{counted(len(unused), 'small file')} of ended programs in {shared}, which do no harm")
    level = problem if size > shutil.disk_usage(shared).total / 10 else note
    return level(
        f"{counted(len(unused), 'file')} of ended programs in {shared} ({size / 1e6:,.1f} MB of memory, "
        f"largest {printable(max(sizes, key=sizes.__getitem__))})",
        "remove them, unless an engine of yours runs in another container",
    )


def _own_files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """Return what belongs to this user in a folder and has names of a kind."""
    found = []
    for entry in sorted(folder.iterdir()) if os.access(folder, os.R_OK) else ():
        with contextlib.suppress(OSError):  # removed meanwhile
            if names.fullmatch(entry.name) and not entry.is_symlink() and entry.stat().st_uid == os.getuid():
                found.append(entry)
    return found


def _held(folder: str) -> set[str]:
    """Return the files that programs have mapped from a folder, and all files that programs have open."""
    held: set[str] = set()
    for entry in Path("/proc").iterdir():
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
