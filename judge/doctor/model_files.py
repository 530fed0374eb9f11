"""The files of a model folder: finds all that are missing, damaged or only a pointer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge.doctor.finding import Finding, from_error, ok, problem
from judge.errors import JudgeError, counted, printable
from judge.models.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, ModelFolder, is_adapter, open_model, tensor_shapes
from judge.models.judge_file import FILE as JUDGE_FILE
from judge.models.judge_file import JudgeFile, read_judge_file

_INDEX = "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<all>\d{5})\.safetensors")
_LAYER = re.compile(r"\b(?:layers|h|blocks)\.(\d+)\.")
_HEADS = ("lm_head.", "embed_out.", "output_layer.", "output.")
_SHOWN = 3  # names of files in one line


@dataclass
class Subject:
    """A model folder as far as it can be read.

    Attributes:
        folder: the folder that the user gave.
        opened: the checked model; None if something is wrong with its files.
        readable: the model for checks that need no weights, as these may be damaged; None if it has no config.
    """

    folder: Path
    opened: ModelFolder | None = None
    readable: ModelFolder | None = None


def examine_files(subject: Subject, base: Path | None) -> Iterator[Finding]:
    """Look at all files of a model folder, and of the base model where it holds an adapter; open it if they are sound.

    Args:
        subject: its folder is looked at, and its models are set.
        base: the base model of an adapter, if it has moved.
    """
    folder, findings, judge = subject.folder, list[Finding](), None
    if folder.is_dir():
        try:
            judge = read_judge_file(folder)
        except JudgeError as error:
            findings.append(problem(str(error), f"copy the judge's {JUDGE_FILE} again"))
        path: Path | None = folder
        if is_adapter(folder):
            findings += [*_file_findings(folder), *_tensor_file_findings([folder / ADAPTER_WEIGHTS])]
            path = _base_folder(folder, judge, base)
        if path is not None and path.is_dir():
            findings += [*_file_findings(path), *_whole_model_findings(path)]
            config = _read_object(path / "config.json")
            subject.readable = ModelFolder(path, config, (), judge=judge) if config is not None else None
    yield from findings
    if findings:
        return
    try:
        subject.opened = subject.readable = open_model(folder, base)
    except JudgeError as error:
        yield from_error(error)
    else:
        yield from _weight_findings(subject.opened)


def _base_folder(folder: Path, judge: JudgeFile | None, base: Path | None) -> Path | None:
    """Return where an adapter's base should be, by the rules of `judge.models.bundle`."""
    config = _read_object(folder / ADAPTER_CONFIG) or {}
    named = base or (judge.base.path if judge else config.get("base_model_name_or_path"))
    return Path(str(named)).expanduser() if named else None


def _read_object(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    return None


def _file_findings(path: Path) -> Iterator[Finding]:
    """Yield links into nowhere and Git LFS pointers among the files of a folder."""
    entries = sorted(path.iterdir())
    broken = [entry for entry in entries if entry.is_symlink() and not entry.exists()]
    if broken:
        yield problem(
            f"{path}: {counted(len(broken), 'link')} to files that are not there ({_names(broken)})",
            "copy the folder with its contents (cp -rL), or fetch it anew with hf download --local-dir",
        )
    pointers = [entry for entry in entries if entry.is_file() and _starts_with(entry, _POINTER)]
    if pointers:
        yield problem(
            f"{path}: {len(pointers)} of {counted(len(entries), 'file')} hold a Git LFS pointer, not content "
            f"({_names(pointers)})",
            "run there: git lfs pull",
        )


def _starts_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(printable(path.name) for path in paths[:_SHOWN]) + more


def _whole_model_findings(path: Path) -> Iterator[Finding]:
    """Yield what is wrong with config, index and weights of a whole model."""
    config = path / "config.json"
    if not config.exists():
        yield problem(f"{path}: no config.json", "copy it from where the model came from; judge needs a model folder")
    elif not _starts_with(config, _POINTER) and _read_object(config) is None:
        yield problem(f"{config}: is not a JSON object", "copy it again")
    shards = [file for file in sorted(path.glob("*.safetensors")) if file.exists()]
    missing = _missing_shards(path, shards)
    if missing:
        yield problem(
            f"{path}: {counted(len(missing), 'weight file')} missing ({_names([Path(name) for name in missing])})",
            "copy or download them again",
        )
    elif not shards:
        pickles = [file for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)]
        if pickles:
            yield problem(
                f"{path}: only pickle files ({_names(pickles)}), which judge does not load since they can run code",
                "get the model's safetensors files, or convert it where you trust it (save_pretrained)",
            )
        else:
            yield problem(f"{path}: no weights", "copy the model's *.safetensors files there")
    yield from _tensor_file_findings(shards)


def _missing_shards(path: Path, shards: Sequence[Path]) -> list[str]:
    """Return the missing weight files: those that the index, or the numbers in the other files' names, speak of."""
    names = {shard.name for shard in shards}
    wanted = (_read_object(path / _INDEX) or {}).get("weight_map")
    expected = {str(name) for name in wanted.values()} if isinstance(wanted, dict) else set()
    for match in filter(None, map(_NUMBERED.fullmatch, () if expected else names)):
        numbers = range(1, min(int(match["all"]), 10_000) + 1)
        expected |= {f"{match['stem']}-{i:05d}-of-{match['all']}.safetensors" for i in numbers}
    return sorted(expected - names)


def _tensor_file_findings(shards: Sequence[Path]) -> Iterator[Finding]:
    """Yield the safetensors files whose header and length do not agree, as after a copy that was cut off."""
    for shard in shards:
        if not shard.exists() or _starts_with(shard, _POINTER):
            continue
        try:
            tensor_shapes(shard)
        except JudgeError as error:
            yield problem(
                f"{error} [{shard.stat().st_size / 1e6:,.1f} MB]", "copy the file again; it was cut off or damaged"
            )


def _weight_findings(model: ModelFolder) -> Iterator[Finding]:
    """Yield whether the tensors are those that the config speaks of."""
    names = [name for shard in model.shards for name in tensor_shapes(shard)]
    found = {int(match[1]) for match in map(_LAYER.search, names) if match}
    layers = model.text_config.get("num_hidden_layers")
    lacking = sorted(set(range(layers)) - found) if isinstance(layers, int) and found else []
    if lacking:
        yield problem(
            f"{model.path}: {len(lacking)} of {layers} layers have no weights (first {lacking[0]})",
            "copy all weight files, or the config.json that belongs to them",
        )
    tied = model.text_config.get("tie_word_embeddings", model.config.get("tie_word_embeddings"))
    if tied is False and not any(head in name for name in names for head in _HEADS):
        yield problem(
            f"{model.path}: no output head among the weights, though tie_word_embeddings is false",
            "copy all weight files, or save the model again",
        )
    if not lacking:
        what = f"{model.folder.name}: an adapter on {model.path.name}" if model.adapter else model.path.name
        kind = model.model_type or "model"
        yield ok(
            f"{printable(what)}: {kind}, {counted(len(names), 'tensor')} in {counted(len(model.shards), 'file')}, "
            f"{model.weights / 1e9:,.2f} GB, saved in {printable(model.dtype)}"
        )
