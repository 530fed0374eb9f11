"""The machine besides its cards: cores, memory, disks, limits, the environment, and what ended engines left."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from judge.doctor.finding import Finding, note, ok, problem
from judge.errors import counted, printable
from judge.hardware import machine
from judge.hardware.machine import GIB

# A run writes token ids, parts and its output to disk: 0.3 GB for 25,000 rows of 2,048 tokens.
LITTLE_DISK, ENOUGH_DISK = GIB // 2, 5 * GIB
# Every worker process, every card and every file of a model takes some dozens of descriptors.
FEW_FILES = 1024
# NCCL takes some 10 MB a card and channel; containers get 64 MB unless told otherwise (docker run --shm-size).
ENOUGH_SHARED = GIB
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_TRUE = ("1", "true", "yes", "on")
# Engines give these names: Python's shared memory and semaphores, vLLM's offloading, NCCL, torch, Intel's OpenMP.
_SHARED = re.compile(r"psm_\w+|sem\.mp-\w+|vllm\w*.*|nccl-\w+|torch_\d+_.*|__KMP_REGISTERED_LIB_\d+_\d+")
_LITTLE = 1_000_000  # bytes
# vLLM's sockets in the temporary folder: ipc://{folder}/{uuid4()} (vllm/utils/network_utils.py).
_SOCKET = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_ROOM = "to a folder that can be written, on a disk with room"
# What helps where a folder cannot be written or is full.
_OTHER_PLACE = {
    "cache": f"set XDG_CACHE_HOME {_ROOM}",
    "temporary files": f"set TMPDIR {_ROOM}",
    "Hugging Face's cache": f"set HF_HOME {_ROOM}",
    "vLLM's cache": f"set VLLM_CACHE_ROOT {_ROOM}",
}


def core_findings(group: Path = Path("/sys/fs/cgroup")) -> Iterator[Finding]:
    """Yield the number of cores that this process may use, and which instructions they have."""
    cores, all_cores = len(machine.cpu_cores()), os.cpu_count() or 1
    name = f"{counted(cores, 'CPU core')} ({platform.machine()})"
    quota = cpu_quota(group)
    if quota is not None and quota < cores:
        yield note(
            f"{name}, of which the container may use {quota:g} at a time",
            f"set OMP_NUM_THREADS={max(int(quota), 1)}: more threads only wait for each other",
        )
    elif cores < all_cores:
        yield note(f"{name} of {all_cores}", "raise the affinity (taskset, docker --cpuset-cpus) to use the others")
    else:
        yield ok(name)
    if platform.machine() in ("x86_64", "AMD64"):
        yield instruction_finding(machine.cpu_flags(), machine.cpu_has_fast_bfloat16())


def instruction_finding(flags: frozenset[str], fast_bfloat16: bool) -> Finding:
    """Return what the CPU's instruction sets mean for vLLM's CPU build."""
    if not flags:
        return note("/proc/cpuinfo lists no instruction sets", "nothing, if --device=cuda is used")
    if "avx2" not in flags:
        return problem("the CPU has no AVX2, which vLLM's CPU build needs", "use a card, or --readout=transformers")
    has = "AVX-512" if machine.vllm_cpu_library(flags, "x86_64") != "_C_AVX2" else "AVX2, no AVX-512"
    if fast_bfloat16:
        return ok(f"the CPU has {has} and multiplies bfloat16 by itself")
    return ok(f"the CPU has {has} and no fast bfloat16: float32 is the fastest on it")


def cpu_quota(group: Path) -> float | None:
    """Return the cores that a container may use at a time (cgroup v2, cpu.max), None without a limit."""
    try:
        most, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return int(most) / int(period) if most.isdigit() and int(period) else None


def memory_findings(free: int | None) -> Iterator[Finding]:
    """Yield the memory that is free, within the container's limit, in bytes; None if it is unknown."""
    if free is None:
        yield note("free memory is unknown (no /proc/meminfo)", "compare a model's size with what the machine has")
    elif free < 2 * GIB:
        yield problem(
            f"{free / GIB:.1f} GiB of memory are free", "end other programs: an engine alone takes about 2 GiB"
        )
    else:
        yield ok(f"{free / GIB:.1f} GiB of memory are free")


def disk_findings(folders: Mapping[str, Path], needs: Mapping[str, int] | None = None) -> Iterator[Finding]:
    """Yield for each folder whether it can be written and what is free there.

    Args:
        folders: by what they are for, such as `output`.
        needs: bytes that are known to be needed there, by the same names.
    """
    for what, folder in folders.items():
        yield _disk_finding(what, folder.expanduser().absolute(), (needs or {}).get(what, 0))


def _disk_finding(what: str, folder: Path, need: int) -> Finding:
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    shown, other = f"{what} ({printable(str(folder), 200)})", _OTHER_PLACE.get(what, "name another folder")
    if not place.is_dir():
        return problem(f"{shown}: {printable(str(place), 200)} is a file", "name a folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            usage, inodes = shutil.disk_usage(place), os.statvfs(place)
    except OSError as error:
        return problem(f"{shown}: cannot be written ({error.strerror or error})", other)
    free = f"{usage.free / 1e9:,.1f} GB free"
    if inodes.f_files and not inodes.f_favail:
        return problem(f"{shown}: no file can be added (out of inodes)", f"remove small files, or {other}")
    if need and usage.free < need * 1.01 + 50e6:
        return problem(f"{shown}: {free}, and {need / 1e9:,.1f} GB are needed", f"make room, or {other}")
    if usage.free < LITTLE_DISK:
        return problem(f"{shown}: {free}", f"make room, or {other}")
    if usage.free < ENOUGH_DISK and not need:
        return note(f"{shown}: {free}", f"enough for a table, not for a model; for more, {other}")
    return ok(f"{shown}: {free}" + (f", {need / 1e9:,.1f} GB needed" if need else ""))


def shared_memory_findings(cards: int, folder: Path = Path("/dev/shm")) -> Iterator[Finding]:  # noqa: S108
    """Yield the size of shared memory, through which the processes of one model on several cards talk."""
    if not folder.is_dir():
        yield problem(f"{folder} is missing", "mount it: engines share memory there")
        return
    usage = shutil.disk_usage(folder)
    text = f"{folder}: {usage.total / GIB:,.1f} GiB, {usage.free / GIB:,.1f} GiB free"
    advice = "start the container with --shm-size=2g, or --ipc=host"
    if usage.free < ENOUGH_SHARED // 16:
        yield problem(text, f"{advice}, or remove what ended programs left there")
    elif usage.free < ENOUGH_SHARED and cards > 1:
        yield problem(f"{text}, too little for a model over {cards} cards (--parallel=tensor)", advice)
    elif usage.free < ENOUGH_SHARED:
        yield note(text, f"enough for one card; for more, {advice}")
    else:
        yield ok(text)


def limit_findings(limits: Mapping[str, tuple[int, int]] | None = None) -> Iterator[Finding]:
    """Yield limits of the process that stop engines.

    Args:
        limits: soft and hard limit of `files`, `address space` and `processes`; those of this process if not given.
    """
    codes = {"files": resource.RLIMIT_NOFILE, "address space": resource.RLIMIT_AS, "processes": resource.RLIMIT_NPROC}
    known = limits or {name: resource.getrlimit(code) for name, code in codes.items()}
    files, space, processes = (known[name][0] for name in codes)
    unlimited = resource.RLIM_INFINITY
    if 0 <= files < FEW_FILES:
        yield problem(f"only {files:,} open files are allowed (ulimit -n)", "run: ulimit -n 4096")
    else:
        yield ok(f"{files:,} open files are allowed" if files != unlimited else "any number of open files is allowed")
    if space != unlimited:
        yield problem(
            f"the address space is limited to {space / GIB:.1f} GiB (ulimit -v); torch reserves more than it uses",
            "run: ulimit -v unlimited",
        )
    if processes != unlimited and processes < FEW_FILES:
        yield note(f"only {processes:,} processes and threads are allowed (ulimit -u)", "run: ulimit -u 4096")


def encoding_findings(terminal: str | None, files: str) -> Iterator[Finding]:
    """Yield whether names and texts in all languages can be printed, by the encodings of output and of file names."""
    wrong = sorted({e for e in (terminal or "utf-8", files) if not re.fullmatch(r"utf-?8", e, re.IGNORECASE)})
    if wrong:
        yield problem(f"the locale is {printable(', '.join(wrong))}, not UTF-8", "set LANG=C.UTF-8, or PYTHONUTF8=1")
    else:
        yield ok("the locale is UTF-8")


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


def environment_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what variables say about the network. judge's engines are offline in any case (judge.engine.pool)."""
    offline = [name for name in _OFFLINE if environment.get(name, "").lower() in _TRUE]
    if offline:
        yield ok(f"{' and '.join(offline)}: libraries fetch nothing")
    else:
        yield ok("judge reads models from folders only, and its engines run with HF_HUB_OFFLINE=1")
    tokens = [name for name in _TOKENS if environment.get(name)]
    if tokens:
        yield note(f"{' and '.join(tokens)} is in the environment", "unset it: judge needs none for local folders")


def home_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether libraries can write their caches and settings."""
    home = Path(environment.get("HOME") or "~").expanduser()
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    places = {
        "Hugging Face's cache": Path(environment.get("HF_HOME") or cache / "huggingface"),
        "vLLM's cache": Path(environment.get("VLLM_CACHE_ROOT") or cache / "vllm"),
    }
    writable = []
    for what, place in places.items():
        (finding,) = disk_findings({what: place})
        if finding.level == "ok":
            writable.append(what)
        else:
            yield replace(finding, advice=_OTHER_PLACE[what])
    if writable:
        yield ok(f"{' and '.join(writable)} can be written")
