"""Collects the wheels that a machine without a network needs to run judge: make wheelhouse

uv chooses the versions for that machine, within the lock files that `make` installs from. A wheelhouse is a folder:

    *.whl               every wheel, judge's own too
    requirements.txt    name, version and SHA-256 of each: all of judge
    core.txt            the part of it that needs no engine (tables, checks, submissions)
    SHA256SUMS          for `sha256sum -c`
    wheelhouse.json     what it is for; written last, so a folder without it is not finished
    install.py          installs from it, without a network

A wheel that is in the folder with the right hash is not downloaded again, so the same command goes on after an
interruption. Needs pip 23.1 or newer and uv.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

try:
    from packaging import tags
    from packaging.utils import parse_wheel_filename
except ImportError:  # pip has a copy, so that packaging need not be installed
    from pip._vendor.packaging import tags  # type: ignore[no-redef]
    from pip._vendor.packaging.utils import parse_wheel_filename  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
CPU_LOCK, CUDA_LOCK = (ROOT / "requirements" / f"{device}.txt" for device in ("cpu", "cuda"))
BATCH = 8  # wheels that one call of pip fetches: as much is lost when it is interrupted
LISTS = ("wheelhouse.json", "SHA256SUMS", "requirements.txt", "core.txt", "install.py")
# The versions of glibc that uv knows. A machine with another one runs the wheels for the next older one.
UV_GLIBC = (17, 28, *range(31, 41))


class WheelhouseError(Exception):
    """What stops the collection, in one line."""


@dataclass(frozen=True)
class Target:
    """The machine that installs.

    Attributes:
        python: its version of CPython, such as 3.12.
        glibc: its version of glibc, such as 2.35; decides which manylinux wheels run there.
    """

    python: str
    glibc: str

    def platforms(self) -> list[str]:
        """Return the platform tags of the wheels that run there, the newest first."""
        newest = int(self.glibc.split(".")[1])
        named = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
        return [*named, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]

    def pip_options(self) -> list[str]:
        """Return the options by which pip downloads wheels for this machine."""
        # pip takes each tag as it stands and does not know that a newer glibc runs older wheels
        platforms = [option for tag in self.platforms() for option in ("--platform", tag)]
        return ["--only-binary=:all:", "--python-version", self.python, "--implementation", "cp", *platforms]

    def uv_options(self) -> list[str]:
        """Return the options by which uv chooses versions for this machine."""
        minor = max((known for known in UV_GLIBC if f"manylinux_2_{known}_x86_64" in self.platforms()), default=17)
        return ["--python-version", self.python, "--python-platform", f"x86_64-manylinux_2_{minor}"]

    def runs(self, wheel: str) -> bool:
        """Whether a wheel of this file name can be installed there."""
        version, platforms = tuple(map(int, self.python.split("."))), self.platforms()
        known = {*tags.cpython_tags(version, platforms=platforms)}
        known |= {*tags.compatible_tags(version, f"cp{self.python.replace('.', '')}", platforms)}
        return not known.isdisjoint(parse_wheel_filename(wheel)[3])


@dataclass(frozen=True)
class Package:
    """What uv has chosen of a package: its version, and the SHA-256 of each wheel and archive of that version."""

    version: str
    sums: list[str]

    def hashes(self) -> list[str]:
        """Return the sums as a requirements file has them."""
        return [f"--hash=sha256:{sha256}" for sha256 in self.sums]


@dataclass(frozen=True)
class Wheel:
    """A wheel of the house: the package's name and version, the file's name and its SHA-256."""

    name: str
    version: str
    file: str
    sha256: str


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


def index_options(torch_index: str) -> list[str]:
    """Return the options by which uv looks for packages where pip is set up to, and in the index of PyTorch."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own command
    lines = [line for line in listed.splitlines() if line.startswith(("global.", "download.", ":env:."))]
    lines.sort(key=lambda line: (line.startswith(":env:"), line.startswith("download.")))  # the last one has its way
    pairs = (line.split("=", 1) for line in lines)
    settings = {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in pairs}
    if "cert" in settings:
        os.environ.setdefault("SSL_CERT_FILE", settings["cert"])
    options = ["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else []
    found = [("--default-index", settings.get("index-url", "")), ("--index", settings.get("extra-index-url", ""))]
    found += [("--index", torch_index), ("--find-links", settings.get("find-links", ""))]
    found += [("--constraint", settings.get("constraint", ""))]
    return options + [part for option, values in found for value in values.split() for part in (option, value)]


def resolve(requirements: Iterable[str], target: Target, options: list[str]) -> dict[str, Package]:
    """Return the packages that requirements need on the target, by name.

    Args:
        requirements: lines of a requirements file.
        options: more options of `uv pip compile`.
    """
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise WheelhouseError("needs uv to choose the wheels; run: pip install uv")
    command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes", "-"]
    # pip takes the best version of all indexes, uv that of the first one that has the package
    command += ["--index-strategy=unsafe-best-match", "--only-binary=:all:", "--python", sys.executable]
    command += [*target.uv_options(), *options]
    done = subprocess.run(command, input="\n".join(requirements), stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise WheelhouseError(f"no set of wheels for Python {target.python} was found (see above)")
    packages = re.findall(r"^([\w.-]+)==(\S+)((?: \\\n +--hash=\S+)*)", done.stdout, re.MULTILINE)
    folders = [Path(value) for option, value in pairwise(options) if option == "--find-links" and Path(value).is_dir()]
    return {
        name: Package(version, re.findall(r"sha256:(\w+)", sums) or sums_in(folders, name, version))
        for name, version, sums in packages
    }


def sums_in(folders: list[Path], name: str, version: str) -> list[str]:
    """Return the SHA-256 of a package's wheels in folders that serve as an index; uv does not compute them."""
    wheels = (path for folder in folders for path in folder.glob("*.whl"))
    found = [path for path in wheels if tuple(map(str, parse_wheel_filename(path.name)[:2])) == (name, version)]
    if not found:
        raise WheelhouseError(f"{name} {version}: the index tells no SHA-256")
    return list(map(sha256_of, found))


def choose(device: str, target: Target, index: list[str]) -> dict[str, Package]:
    """Return the packages of a device, as install.sh installs them."""
    lock = CPU_LOCK.read_text(encoding="utf-8").splitlines()
    if device == "core":
        return resolve(core_requirements(), target, [*index, "--constraint", str(CPU_LOCK)])
    if device == "cuda":
        cuda_lock = CUDA_LOCK.read_text(encoding="utf-8").splitlines()
        return resolve([*cuda_lock, *core_requirements()], target, index)
    # torch first, with what it needs; then the lock without more, which has the last word
    return {**resolve([torch_requirement()], target, index), **resolve(lock, target, [*index, "--no-deps"])}


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(packages: dict[str, Package], house: Path, target: Target) -> dict[str, Wheel]:
    """Download the wheels that are not in the house yet; each appears there whole."""
    files = {sha256_of(path): path.name for path in house.glob("*.whl") if target.runs(path.name)}
    missing = [name for name, package in sorted(packages.items()) if files.keys().isdisjoint(package.sums)]
    print(f"wheelhouse: {len(packages)} wheels, {len(packages) - len(missing)} of them here already", flush=True)
    parts, listed = house / "parts", house / "parts" / "wanted.txt"
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        print(f"wheelhouse: {start + 1} to {start + len(batch)} of {len(missing)}", flush=True)
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        lines = [" ".join([f"{name}=={packages[name].version}", *packages[name].hashes()]) for name in batch]
        listed.write_text("\n".join(lines), encoding="utf-8")
        options = [*target.pip_options(), "--no-deps", "--require-hashes", "--no-cache-dir", "--quiet"]
        run_pip("download", *options, "--dest", str(parts), "-r", str(listed))
        for path in parts.glob("*.whl"):
            files[sha256_of(path)] = path.name
            path.replace(house / path.name)
    shutil.rmtree(parts, ignore_errors=True)
    chosen = {name: next(sha256 for sha256 in package.sums if sha256 in files) for name, package in packages.items()}
    return {name: Wheel(name, packages[name].version, files[sha256], sha256) for name, sha256 in chosen.items()}


def build_judge(house: Path) -> Wheel:
    """Build judge's own wheel into the house; its source may have changed, so it is built every time."""
    parts = house / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    run_pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(parts), str(ROOT))
    (built,) = parts.glob("*.whl")
    path = built.replace(house / built.name)
    shutil.rmtree(parts)
    return Wheel("judge", built.name.split("-")[1], path.name, sha256_of(path))


def write_lists(house: Path, wheels: dict[str, Wheel], core: Iterable[str], target: Target, device: str) -> None:
    """Write the lists of a finished house, each whole, `wheelhouse.json` last.

    Args:
        core: the packages that core.txt names.
    """

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
    wheels = fetch(choose(device, target, index), house, target)
    wheels["judge"] = build_judge(house)
    versions = house / "versions.tmp"  # those of the house have the last word
    versions.write_text("".join(f"{w.name}=={w.version}\n" for w in wheels.values()), encoding="utf-8")
    needed = resolve(core_requirements(), target, [*index, "--override", str(versions)])
    versions.unlink()
    kept = {w.file for w in wheels.values()}
    for path in house.glob("*.whl"):
        if path.name not in kept:
            path.unlink()
    write_lists(house, wheels, ["judge", *(needed.keys() & wheels.keys())], target, device)
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
    target, torch_index = Target(arguments.python, arguments.glibc), arguments.torch_index
    try:
        # the index of PyTorch counts for builds of vLLM only
        index = index_options("" if arguments.device == "core" else torch_index)
        make_wheelhouse(arguments.output, arguments.device, target, index)
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
