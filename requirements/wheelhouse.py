"""Collects the wheels that a machine without a network needs to run judge: make wheelhouse

The versions are those of the lock files that `make` installs from. A wheelhouse is one flat folder:

    *.whl               every wheel, judge's own too
    requirements.txt    name, version and SHA-256 of each: all of judge
    core.txt            the part of it that needs no engine (tables, checks, submissions)
    SHA256SUMS          for `sha256sum -c`
    wheelhouse.json     what it is for; written last, so a folder without it is not finished
    install.py          installs from it, without a network

What is there already with the right hash is not downloaded again, so the same command goes on after an interruption.
Needs pip 23.1 or newer and no other package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wheelhouse_needs import Target, Wheel, canonicalize_name, needed

ROOT = Path(__file__).resolve().parent.parent
BATCH = 8  # wheels that one call of pip fetches: as much is lost when it is interrupted
LISTS = ("wheelhouse.json", "SHA256SUMS", "requirements.txt", "core.txt", "install.py")


class WheelhouseError(Exception):
    """What stops the collection, in one line."""


def lock_lines(path: Path) -> list[str]:
    """Return the requirements of a lock file, without its comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def core_requirements() -> list[str]:
    """Return what judge itself requires, without its extras."""
    project: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return project


def torch_requirement() -> str:
    """Return the version of PyTorch that install.sh puts in before the CPU lock."""
    match = re.search(r"torch==[0-9.]+", (ROOT / "requirements" / "install.sh").read_text(encoding="utf-8"))
    if match is None:
        raise WheelhouseError("requirements/install.sh: names no version of torch")
    return match[0]


def run_pip(*arguments: str) -> None:
    """Run pip of this interpreter.

    Raises:
        WheelhouseError: it failed; its own message has been shown.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - our own command
        raise WheelhouseError("pip failed (see above); what is finished is kept, the same command goes on")


def resolve(requirements: list[str], target: Target, options: list[str], dependencies: bool = True) -> dict[str, Wheel]:
    """Return what pip would install on the target for these requirements, by name; `options` are more of pip's."""
    if not requirements:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        listed, report = Path(folder) / "wanted.txt", Path(folder) / "report.json"
        listed.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        options = [*target.pip_options(), *options, *([] if dependencies else ["--no-deps"])]
        run_pip(
            *("install", "--quiet", "--dry-run", "--ignore-installed", "--no-build-isolation"),
            # nothing is put into --target: pip only insists on one where it chooses for another machine
            *("--report", str(report), "--target", folder, *options, "-r", str(listed)),
        )
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {wheel.name: wheel for wheel in map(_wheel, chosen)}


def _wheel(item: dict[str, Any]) -> Wheel:
    metadata, source = item["metadata"], item["download_info"]
    sha256 = source.get("archive_info", {}).get("hashes", {}).get("sha256")
    if sha256 is None:
        raise WheelhouseError(f"{metadata['name']} {metadata['version']}: the index tells no SHA-256")
    return Wheel(
        canonicalize_name(metadata["name"]),
        metadata["version"],
        source["url"],
        sha256,
        tuple(metadata.get("requires_dist", ())),
    )


def closure(roots: list[str], target: Target, options: list[str]) -> dict[str, Wheel]:
    """Return the wheels that `roots` need on the target, all of them and no other; `options` are more of pip's."""
    wanted = list(roots)
    for _ in range(4):
        wheels = resolve(wanted, target, options)
        names, missing = needed(wheels, roots, target)
        if not missing:
            return {name: wheels[name] for name in names}
        wanted += missing
    raise WheelhouseError(f"no wheels for Python {target.python} were found of: {', '.join(missing)}")


def choose(device: str, target: Target, index: list[str]) -> dict[str, Wheel]:
    """Return the wheels of a device, as install.sh installs them."""
    cpu_lock = ROOT / "requirements" / "cpu.txt"
    if device == "core":
        return closure(core_requirements(), target, ["--constraint", str(cpu_lock)])
    if device == "cuda":
        return closure([*lock_lines(ROOT / "requirements" / "cuda.txt"), *core_requirements()], target, index)
    # torch first, with what it needs; then the lock without more, which has the last word
    return {
        **closure([torch_requirement()], target, index),
        **resolve(lock_lines(cpu_lock), target, index, dependencies=False),
    }


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(wheels: list[Wheel], house: Path, target: Target) -> None:
    """Download the wheels that are not in the house yet; each appears there whole."""
    missing = [w for w in wheels if not (house / w.file).exists() or sha256_of(house / w.file) != w.sha256]
    print(f"wheelhouse: {len(wheels)} wheels, {len(wheels) - len(missing)} of them here already", flush=True)
    parts = house / "parts"
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        print(f"wheelhouse: {start + 1} to {start + len(batch)} of {len(missing)}", flush=True)
        shutil.rmtree(parts, ignore_errors=True)
        addresses = [f"{w.url.split('#')[0]}#sha256={w.sha256}" for w in batch]
        options = [*target.pip_options(), "--no-deps", "--no-cache-dir", "--quiet", "--dest", str(parts)]
        run_pip("download", *options, *addresses)
        for wheel in batch:
            (parts / wheel.file).replace(house / wheel.file)
    shutil.rmtree(parts, ignore_errors=True)


def build_judge(house: Path) -> Wheel:
    """Build judge's own wheel into the house; its source may have changed, so it is built every time."""
    parts = house / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    run_pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(parts), str(ROOT))
    (built,) = parts.glob("*.whl")
    path = built.replace(house / built.name)
    shutil.rmtree(parts)
    return Wheel("judge", built.name.split("-")[1], path.as_uri(), sha256_of(path), tuple(core_requirements()))


def write_lists(house: Path, wheels: dict[str, Wheel], target: Target, device: str) -> None:
    """Write the lists of a finished house, each whole, `wheelhouse.json` last."""
    core, _ = needed(wheels, ["judge"], target)

    def locked(names: Iterable[str]) -> str:
        chosen = (wheels[name] for name in sorted(names))
        return "".join(f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in chosen)

    size = sum((house / w.file).stat().st_size for w in wheels.values())
    about = {"device": device, "python": target.python, "glibc": target.glibc, "wheels": len(wheels), "bytes": size}
    for name, text in (
        ("SHA256SUMS", "".join(f"{w.sha256}  {w.file}\n" for w in sorted(wheels.values(), key=lambda w: w.file))),
        ("requirements.txt", locked(wheels)),
        ("core.txt", locked(core)),
        ("install.py", (ROOT / "requirements" / "wheelhouse_install.py").read_text(encoding="utf-8")),
        ("wheelhouse.json", json.dumps(about, indent=1) + "\n"),
    ):
        temporary = house / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(house / name)


def make_wheelhouse(house: Path, device: str, target: Target, index: list[str]) -> None:
    """Bring a wheelhouse up to date: what is missing is fetched, what is of another version removed."""
    house.mkdir(parents=True, exist_ok=True)
    own = (*LISTS, "parts", "dataset-metadata.json")  # the last is from `kaggle datasets init`
    strange = [path.name for path in house.iterdir() if path.suffix not in (".whl", ".tmp") and path.name not in own]
    if strange:
        raise WheelhouseError(f"{house}: holds other files ({', '.join(sorted(strange)[:3])}); choose an empty folder")
    (house / "wheelhouse.json").unlink(missing_ok=True)
    wheels = choose(device, target, index)
    fetch(sorted(wheels.values(), key=lambda w: w.name), house, target)
    wheels["judge"] = build_judge(house)
    kept = {w.file for w in wheels.values()}
    for path in house.glob("*.whl"):
        if path.name not in kept:
            path.unlink()
    write_lists(house, wheels, target, device)
    total = sum(p.stat().st_size for p in house.glob("*.whl"))
    print(f"wrote {house}: {len(wheels)} wheels, {total / 2**30:.2f} GiB, for Python {target.python} ({device})")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Collect the wheels that judge needs on a machine without a network.")
    parser.add_argument("device", choices=("cuda", "cpu", "core"), help="build of vLLM; core: none at all")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the wheels")
    parser.add_argument("--python", default="3.12", help="version of Python where they will be installed")
    parser.add_argument("--glibc", default="2.35", help="version of glibc there (Ubuntu 22.04 has 2.35)")
    parser.add_argument("--torch-index", default="", help="index with PyTorch's CPU build")
    return parser.parse_args()


def main() -> int:
    """Collect a wheelhouse; the exit status is 2 when it cannot be finished."""
    arguments = _arguments()
    if not re.fullmatch(r"3\.\d+", arguments.python) or not re.fullmatch(r"2\.\d+", arguments.glibc):
        print("wheelhouse: --python is a version like 3.12, --glibc one like 2.35", file=sys.stderr)
        return 2
    index = ["--extra-index-url", arguments.torch_index] if arguments.torch_index else []
    try:
        make_wheelhouse(arguments.output, arguments.device, Target(arguments.python, arguments.glibc), index)
    except WheelhouseError as error:
        print(f"wheelhouse: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"wheelhouse: {error.filename or arguments.output}: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wheelhouse: stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PIP_NO_INPUT", "1")
    sys.exit(main())
