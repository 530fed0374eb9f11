"""Faults in the middle of `judge score`: after each, the finished file is byte for byte what an undisturbed run writes.

    python bench/faults.py --model MODEL [--readout vllm] [--rounds 3] [--seed 0] [--only NAME]

Every fault strikes a real run of the command from outside, at a random shard: signals, limits of the system, files
changed on disk. Where the run does not get over it by itself, the same command is given again, as a user would.
tests/whole/test_faults.py lets all of them strike one run, one after another.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.results import write
from bench.tables import made_up_table

JUDGE = str(Path(sys.executable).parent / "judge")
OUTPUT, SUBMISSION, PARTS = "p.parquet", "s.csv", "p.parquet.parts"
PATIENCE = 600.0  # seconds for a run to come to the point where the fault is to strike

# A command that still runs after a fault; None if the fault has ended it.
Struck = subprocess.Popen[str] | None

# Loaded by Python at the start of the command: from the moment that the file MARK exists, the wall clock is off.
CLOCK = """
import os, time
_true = time.time
time.time = lambda: _true() + (float(os.environ["JUMP"]) if os.path.exists(os.environ["MARK"]) else 0.0)
"""


@dataclass
class Run:
    """One scoring in a folder of its own.

    Attributes:
        folder: where output, submission and the run's parts go.
        arguments: of `judge score`, without the output and the submission.
        shard: how many shards are written before the next fault strikes.
    """

    folder: Path
    arguments: tuple[str, ...]
    shard: int = 1

    def __post_init__(self) -> None:
        clock = self.folder / "clock"
        clock.mkdir()
        (clock / "sitecustomize.py").write_text(CLOCK, encoding="utf-8")
        self.mark = clock / "mark"

    @property
    def environment(self) -> dict[str, str]:
        """What some faults need to be able to strike; without them it changes nothing."""
        # memory is asked of the system, however small a tensor is, and of nothing else
        memory = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1"}
        return {**os.environ, **memory, "PYTHONPATH": str(self.mark.parent), "JUMP": "-86400", "MARK": str(self.mark)}

    @property
    def parts(self) -> Path:
        """The folder of the unfinished run."""
        return self.folder / PARTS

    def start(self) -> subprocess.Popen[str]:
        """Start the command."""
        output, submission = self.folder / OUTPUT, self.folder / SUBMISSION
        return subprocess.Popen(
            [JUDGE, "score", *self.arguments, "-o", str(output), "--submission", str(submission)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            # a shell that runs us in the background lets Ctrl-C be ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        )

    def wait(self, process: subprocess.Popen[str]) -> None:
        """Wait until the shards are written after which the next fault strikes."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if len(self.shards()) >= self.shard:
                return
            if process.poll() is not None:
                raise RuntimeError(f"the run ended before shard {self.shard}: {process.communicate()[1]}")
            time.sleep(0.002)
        raise RuntimeError(f"no shard {self.shard} within {PATIENCE:.0f} s")

    def shards(self) -> list[Path]:
        """Return the files of the shards that are written."""
        return sorted(self.parts.glob("shard-*.npy"))

    def finish(self, process: subprocess.Popen[str] | None = None) -> str:
        """Wait for a run, or give the command again; return what it said. It must end well."""
        process = process or self.start()
        said = process.communicate()[1]
        if process.returncode != 0:
            raise RuntimeError(f"exit status {process.returncode}: {said}")
        return said

    def unfinished(self) -> None:
        """Make sure that the fault has struck a run that was not finished."""
        if (self.folder / OUTPUT).exists() or not self.parts.exists():
            raise RuntimeError("the run was finished already: the fault struck nothing")

    def files(self) -> dict[str, bytes]:
        """Return the contents of the output and the submission."""
        return {name: (self.folder / name).read_bytes() for name in (OUTPUT, SUBMISSION)}


def engine_of(process: subprocess.Popen[str]) -> int:
    """Wait until a command has started an engine; return its process id."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == process.pid and b"judge.engine.worker" in (path / "cmdline").read_bytes():
                    return int(path.name)
        time.sleep(0.05)
    raise RuntimeError("the run has no engine")


def another_engine(process: subprocess.Popen[str], before: int) -> None:
    """Wait until a command has replaced an engine."""
    end = time.monotonic() + PATIENCE
    while engine_of(process) == before:
        if time.monotonic() > end:
            raise RuntimeError("nobody noticed that an engine failed")
        time.sleep(0.01)


def worker_killed(run: Run, process: subprocess.Popen[str]) -> Struck:
    """An engine is killed in mid-run."""
    engine = engine_of(process)
    run.wait(process)
    os.kill(engine, signal.SIGKILL)
    another_engine(process, engine)
    return process


def out_of_memory(run: Run, process: subprocess.Popen[str]) -> Struck:
    """An engine gets no more memory from the system in mid-run."""
    engine = engine_of(process)
    run.wait(process)
    # less than it has: whatever it asks for next is refused
    resource.prlimit(engine, resource.RLIMIT_AS, (1 << 20, 1 << 20))
    another_engine(process, engine)
    return process


def killed(run: Run, process: subprocess.Popen[str]) -> Struck:
    """The command is killed."""
    run.wait(process)
    process.kill()
    process.communicate()
    run.unfinished()
    return None


def ctrl_c(run: Run, process: subprocess.Popen[str]) -> Struck:
    """The user presses Ctrl-C."""
    run.wait(process)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    run.unfinished()
    if process.returncode != 130 or "give the same command again to go on" not in said:
        raise RuntimeError(f"exit status {process.returncode}: {said}")
    return None


def file_too_large(run: Run, process: subprocess.Popen[str]) -> Struck:
    """The system refuses to write files any further, as a quota does; later there is room."""
    run.wait(process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (16, 16))
    return refused(run, process)


def disk_full(run: Run, process: subprocess.Popen[str]) -> Struck:
    """The disk fills up in mid-run; later there is room. Needs a disk of its own: see `small_disk`."""
    run.wait(process)
    ballast = run.folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    refused(run, process)
    ballast.unlink()
    return None


def refused(run: Run, process: subprocess.Popen[str]) -> Struck:
    """Make sure that a run that could not write ended with one clear line and wrote nothing by halves."""
    said = process.communicate()[1]
    if (run.folder / OUTPUT).exists() or (run.folder / SUBMISSION).exists():
        raise RuntimeError("the run was finished, or left half a file")
    last = said.strip().split("\n")[-1]
    if process.returncode != 2 or "Traceback" in said or "cannot be written" not in last:
        raise RuntimeError(f"exit status {process.returncode}: {said}")
    return None


def corrupted_shard(run: Run, process: subprocess.Popen[str]) -> Struck:
    """After an interruption, single bits of the files on disk are wrong: of a shard, and of the prepared table."""
    killed(run, process)
    for path in (run.shards()[0], run.parts / "tokens.bin", run.parts / "rows.npy"):
        content = bytearray(path.read_bytes())
        content[len(content) * 3 // 4] ^= 1
        path.write_bytes(content)
    return None


def half_written_files(run: Run, process: subprocess.Popen[str]) -> Struck:
    """After an interruption, files are cut off, and temporary files lie about."""
    killed(run, process)
    shard = run.shards()[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    (run.parts / "shard-first-99999.npy").write_bytes(b"")
    (run.parts / f".{shard.name}.1.tmp").write_bytes(b"half a shard")
    (run.folder / f".{OUTPUT}.1.tmp").write_bytes(b"half a file")
    return None


def clock_jump(run: Run, process: subprocess.Popen[str]) -> Struck:
    """The wall clock jumps a day back in mid-run and stays there, and files come from the future."""
    run.wait(process)
    run.mark.touch()
    for path in run.shards():
        os.utime(path, (2e9, 2e9))
    return process


def two_runs(run: Run, process: subprocess.Popen[str]) -> Struck:
    """The command is given twice at a time: the second is refused, the first goes on."""
    run.wait(process)
    process.send_signal(signal.SIGSTOP)  # a slow second start must not miss it
    second = run.start()
    said = second.communicate()[1]
    process.send_signal(signal.SIGCONT)
    if second.returncode != 2 or "another judge process is working on this output" not in said:
        raise RuntimeError(f"exit status {second.returncode}: {said}")
    return process


# Each strikes a running command, and gives it back if it still runs.
FAULTS: dict[str, Callable[[Run, subprocess.Popen[str]], Struck]] = {
    "clock jump": clock_jump,
    "worker killed": worker_killed,
    "two runs on one folder": two_runs,
    "engine out of memory": out_of_memory,
    "disk full": disk_full,
    "corrupted shard": corrupted_shard,
    "Ctrl-C": ctrl_c,
    "half-written files": half_written_files,
    "file too large": file_too_large,
    "command killed": killed,
}


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """Mount a disk of `size` bytes in memory and give its folder; None where we may not."""
    folder.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["/bin/umount", str(folder)], check=True)


def undisturbed(folder: Path, arguments: tuple[str, ...]) -> dict[str, bytes]:
    """Return what a run writes that nothing happens to."""
    folder.mkdir()
    run = Run(folder, arguments)
    run.finish()
    return run.files()


def strike(names: Sequence[str], run: Run, expected: dict[str, bytes]) -> None:
    """Let faults strike one after another, give the command again each time it has ended, and compare.

    Raises:
        RuntimeError: a fault did not strike, the run did not get over it, or wrote something else.
    """
    process: Struck = None
    for name in names:
        process = process or run.start()
        try:
            process = FAULTS[name](run, process)
        except RuntimeError as error:
            raise RuntimeError(f"{name}: {error}") from None
        run.shard = len(run.shards()) + 2
    run.finish(process)
    changed = [name for name, content in run.files().items() if content != expected[name]]
    if changed or run.parts.exists():
        raise RuntimeError(f"not what an undisturbed run leaves: {', '.join(changed) or PARTS}")


def main() -> int:
    """Strike with every fault, several times each, at random shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--readout", default="vllm")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=tuple(FAULTS))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    figures: dict[str, object] = {"readout": options.readout, "rows": options.rows, "rounds": options.rounds}
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "table.csv"
        made_up_table(table, options.rows)
        small = ("--max-tokens", "700", "--swap", "25%", "--shard-tokens", "1500")
        arguments = (str(options.model), str(table), "--readout", str(options.readout), *small)
        began = time.monotonic()
        expected = undisturbed(Path(place) / "undisturbed", arguments)
        figures["seconds_undisturbed"] = time.monotonic() - began
        for name in [options.only] if options.only else FAULTS:
            passed = 0
            for number in range(options.rounds):
                said = struck(name, Path(place) / f"{name.replace(' ', '-')}-{number}", arguments, rng, expected)
                passed += said == ""
                print(f"{name} {number + 1}/{options.rounds}: {said or 'the same bytes'}", flush=True)
            failed += options.rounds - passed
            figures[name] = f"{passed} of {options.rounds}"
    write("faults", figures)
    return min(failed, 1)


def struck(name: str, folder: Path, arguments: tuple[str, ...], rng: random.Random, expected: dict[str, bytes]) -> str:
    """Strike once at a random shard; return what went wrong, or an empty text."""
    shard = rng.randrange(1, 6)
    with contextlib.ExitStack() as stack:
        if name == "disk full":
            disk = stack.enter_context(small_disk(folder, 8 << 20))
            if disk is None:
                return "left out: a disk of its own needs the right to mount"
        else:
            folder.mkdir()
        try:
            strike([name], Run(folder, arguments, shard), expected)
        except RuntimeError as error:
            return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())
