"""What the tests of `judge doctor` share: cards, a Git LFS pointer, and the lines of findings by their level."""

from __future__ import annotations

from collections.abc import Iterable

from judge.doctor.finding import Finding
from judge.hardware.machine import GIB, Gpu

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n"
T4 = Gpu("0", "Tesla T4", 15 * GIB, (7, 5))
P100 = Gpu("0", "Tesla P100", 16 * GIB, (6, 0))


def problems(findings: Iterable[Finding]) -> list[str]:
    return [finding.line for finding in findings if finding.level == "problem"]


def notes(findings: Iterable[Finding]) -> list[str]:
    return [finding.line for finding in findings if finding.level == "note"]
