"""Installs judge from this wheelhouse, without a network: python install.py --into FOLDER

FOLDER becomes a virtual environment of its own, so that nothing of the notebook's packages is changed or in the way.
Every wheel's SHA-256 is checked. --core leaves the engine out: enough for tables, checks and submissions, in seconds.
Only Python's own library and pip 22.3 or newer are needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HOUSE = Path(__file__).resolve().parent


def sums(house: Path) -> dict[str, str]:
    """Return the SHA-256 of each wheel of the house, by file name."""
    lines = (house / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def obstacle(house: Path) -> str:
    """Return why this Python cannot install from the house; empty: it can."""
    if not (house / "wheelhouse.json").exists():
        return f"{house}: has no wheelhouse.json; it is not a finished wheelhouse, or was copied in part"
    about = json.loads((house / "wheelhouse.json").read_text(encoding="utf-8"))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if about["python"] != python:
        return (
            f"{house}: its wheels are for Python {about['python']}, this is {python}; "
            f"make one with: make wheelhouse WHEELHOUSE_PYTHON={python}"
        )
    glibc = platform.libc_ver()[1]
    if glibc and _version(glibc) < _version(about["glibc"]):
        return (
            f"{house}: its wheels are for glibc {about['glibc']}, this machine has {glibc}; "
            f"make one with: make wheelhouse WHEELHOUSE_GLIBC={glibc}"
        )
    return ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def found_wheels(house: Path) -> dict[str, Path]:
    """Return where each wheel of the list is, by its right name.

    A place that does not keep file names (the `+` of a local version, say) is no obstacle: a wheel that is not there
    under its name is looked for by its SHA-256 among the other files.
    """
    wanted = sums(house)
    found = {name: house / name for name in wanted if (house / name).is_file()}
    lost = {digest: name for name, digest in wanted.items() if name not in found}
    for path in sorted(house.rglob("*")) if lost else []:
        if path.is_file() and path not in found.values():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest in lost:
                found[lost[digest]] = path
    return found


def names_of(listed: Path) -> list[str]:
    """Return the packages of a requirements file of the house."""
    return [line.split("==")[0] for line in listed.read_text(encoding="utf-8").splitlines()]


def install(house: Path, into: Path, core: bool) -> str:
    """Install into a virtual environment; return what went wrong, empty for nothing."""
    listed = house / ("core.txt" if core else "requirements.txt")
    ready = into / ".judge-ready"
    stamp = listed.read_text(encoding="utf-8")
    if ready.exists() and ready.read_text(encoding="utf-8") == stamp:
        print(f"judge is installed in {into} already")
        return ""
    if into.exists() and any(into.iterdir()) and not (into / "pyvenv.cfg").exists():
        return f"{into}: holds other files; choose a folder that is empty or not there yet"
    found = found_wheels(house)
    owners = {name: re.sub(r"[-_.]+", "-", name.split("-")[0]).lower() for name in sums(house)}
    needed = set(names_of(listed))
    missing = sorted(name for name, owner in owners.items() if owner in needed and name not in found)
    if missing:
        return f"{house}: {len(missing)} wheels are missing, for example {missing[0]}; copy the folder again"
    venv.create(into, with_pip=False, symlinks=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, path in found.items():
            (Path(folder) / name).symlink_to(path)
        # --no-deps: the list is complete, and has the last word where packages contradict each other
        pip = [sys.executable, "-m", "pip", "--python", str(into / "bin" / "python"), "--isolated"]
        options = ["--no-index", "--no-deps", "--require-hashes", "--no-compile", "--quiet", "--find-links", folder]
        command = [*pip, "install", "--disable-pip-version-check", *options, "-r", str(listed)]
        if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - our own command
            return f"{into}: pip could not install (see above)"
    ready.write_text(stamp, encoding="utf-8")
    print(f"installed {len(needed)} packages into {into}")
    return ""


def main() -> int:
    """Install; the exit status is 2 when that is not possible."""
    parser = argparse.ArgumentParser(description="Install judge from this wheelhouse, without a network.")
    parser.add_argument("--into", type=Path, required=True, help="folder of the virtual environment to make")
    parser.add_argument("--core", action="store_true", help="without the engine: tables, checks and submissions")
    arguments = parser.parse_args()
    problem = obstacle(HOUSE) or install(HOUSE, arguments.into, arguments.core)
    if problem:
        print(f"install: {problem}", file=sys.stderr)
    return 2 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
