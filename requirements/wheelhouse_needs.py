"""Which wheels a machine needs: pip's choice, checked against the requirements as that machine reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:  # pip has a copy, so no package needs to be installed first
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
    from pip._vendor.packaging.utils import canonicalize_name  # type: ignore[assignment]

__all__ = ["Target", "Wheel", "canonicalize_name", "needed"]


@dataclass(frozen=True)
class Target:
    """The machine that installs.

    Attributes:
        python: its version of CPython, such as 3.12.
        glibc: its version of glibc, such as 2.35; decides which manylinux wheels run there.
    """

    python: str
    glibc: str

    def pip_options(self) -> list[str]:
        """Return the options by which pip chooses wheels for this machine instead of the one that it runs on."""
        newest = int(self.glibc.split(".")[1])
        # pip takes each tag as it stands and does not know that a newer glibc runs older wheels
        tags = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
        tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
        platforms = [option for tag in tags for option in ("--platform", tag)]
        return ["--only-binary=:all:", "--python-version", self.python, "--implementation", "cp", *platforms]

    def environment(self) -> dict[str, str]:
        """Return the values of the markers in a package's requirements (PEP 508) on this machine."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True)
class Wheel:
    """A wheel that pip has chosen: name (canonical), version, where it is, its SHA-256, what it requires."""

    name: str
    version: str
    url: str
    sha256: str
    requires: tuple[str, ...]

    @property
    def file(self) -> str:
        """Its file name; a `+` of the version is written as %2B in addresses."""
        return self.url.split("#")[0].rsplit("/", 1)[1].replace("%2B", "+")


def needed(wheels: dict[str, Wheel], roots: Iterable[str], target: Target) -> tuple[set[str], list[str]]:
    """Follow requirements on the target from `roots` on.

    pip reads markers such as `python_version > "3.11"` on the machine that it runs on, whatever --python-version
    says, so what it chose can lack packages or be of a wrong version, and hold some that the target has no use for.

    Returns:
        The names of the wheels that are needed, and the requirements that none of them meets.
    """
    seen: set[tuple[str, str]] = set()
    missing: list[str] = []
    waiting = [Requirement(root) for root in roots]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in wheels or not requirement.specifier.contains(wheels[name].version, prereleases=True):
            missing.append(str(requirement).split(";")[0].strip())
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            waiting += _requirements(wheels[name], extra, target)
    return {name for name, _ in seen}, sorted(set(missing))


def _requirements(wheel: Wheel, extra: str, target: Target) -> Iterator[Requirement]:
    """Yield what a wheel requires on the target, with one of its extras (or without: empty)."""
    for line in wheel.requires:
        requirement = Requirement(line)
        marker = requirement.marker
        with_extra = marker is None or marker.evaluate({**target.environment(), "extra": extra})
        without = marker is None or marker.evaluate({**target.environment(), "extra": ""})
        if with_extra and (not extra or not without):
            yield requirement
