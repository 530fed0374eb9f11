"""Merging: a LoRA adapter into its base model, written as one whole model folder that is a judge like the bundle.

The steps: plan (what cannot be merged is refused), prove in memory that the adapter matters and that merging keeps
its verdicts, write the base's shards one by one with the adapted matrices changed, prove what was written, and give
the folder its name.
"""

from __future__ import annotations

import json
import shutil
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from judge.errors import JudgeError
from judge.models.bundle import ADAPTER_WEIGHTS, ModelFolder, copy_tokenizer, file_digest, open_model
from judge.models.judge_file import write_judge_file
from judge.models.tensor_files import write_tensors
from judge.models.trained_rows import FILE as TRAINED_ROWS
from judge.models.trained_rows import trained_rows_of
from judge.runs.folder import Manifest, RunFolder
from judge.version import __version__
from quantize.events import MergeEvents
from quantize.merge_plan import Dtype, MergePlan, plan_merge, reader

STAGE = "merged"
# What else is in a base's folder and belongs to the model.
_EXTRA_FILES = ("generation_config.json", "*processor_config.json")
_DISK_MARGIN = 64 * 2**20  # bytes for tokenizer and configs, and a little that stays free
_INDEX = "model.safetensors.index.json"


def merge(
    bundle: ModelFolder,
    output: Path,
    dtype: Dtype,
    events: MergeEvents,
    proof: bool = True,
    restart: bool = False,
) -> dict[str, Any]:
    """Merge a bundle's adapter into its base model; arithmetic is float32, the result is rounded once.

    Args:
        bundle: as `judge.models.bundle.open_model` returns it.
        output: the folder to write; it appears under this name once it is whole.
        dtype: of all float tensors; `auto` keeps each as the base stores it.
        proof: compare the verdicts of base, base with adapter, and merged model (`quantize.merge_proof`).
        restart: drop what another command left in `OUT.parts`.

    Returns:
        The figures that `judge.json` keeps under the stage `merged`, and `seconds`.

    Raises:
        JudgeError: the adapter cannot be merged, the disk is too full, or the merged model is not what the bundle is;
            nothing is left behind.
    """
    began = time.monotonic()
    for name in ("torch",) if not proof else ("torch", "peft"):
        if find_spec(name) is None:
            raise JudgeError(f"merging needs {name}, not installed here: pip install {name}")
    if output.exists():
        raise JudgeError(f"{output}: exists already; choose another folder with -o, or remove it")
    plan = plan_merge(bundle, dtype)
    trained_rows_of(bundle)  # refuses a bundle whose list of training rows is missing or another's
    events.working("hashing the model", 0, 1)
    digest = bundle.digest()  # refuses another base
    run = RunFolder(output.with_name(output.name + ".parts"))
    try:
        _begin(run, {"version": __version__, "model": digest, "settings": {"stage": STAGE, "dtype": dtype}}, restart)
    except BaseException:
        run.close()
        raise
    try:
        figures = _merge_in(run.path / "model", plan, output, dtype, events, proof)
        (run.path / "model").rename(output)
    finally:
        run.remove()
    return {**figures, "seconds": time.monotonic() - began}


def _begin(run: RunFolder, manifest: Manifest, restart: bool) -> None:
    """Empty the folder, which may hold what a killed merge left, but not what belongs to another command."""
    file = run.path / "manifest.json"
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    run.begin(manifest, restart or old.get("settings", {}).get("stage") == STAGE)


def _merge_in(
    folder: Path, plan: MergePlan, output: Path, dtype: Dtype, events: MergeEvents, wanted: bool
) -> dict[str, Any]:
    """Put the merged model together in a folder and return the figures."""
    from quantize.merge_proof import Proof, refused_proof

    _check_disk(plan.size, output)
    if plan.model.judge is not None and plan.model.judge.method == "qlora":
        events.note(
            "the adapter was trained on 4-bit weights; it is merged into the 16-bit ones, which they were made from"
        )
    skipped = refused_proof(plan) if wanted else "not wanted (--no-proof)"
    if skipped and wanted:
        events.warn(
            f"the proof from end to end is skipped: {skipped}; check the merged judge with judge drift "
            f"{plan.adapter.path} {output} --data TABLE"
        )
    proof = None if skipped else Proof(plan, events)
    if proof:
        proof.prove_adapter()
    folder.mkdir()
    checks: list[float] = []
    _write_weights(folder, plan, checks, events)
    _write_configs(folder, plan, dtype)
    proof_figures = proof.prove_written(folder) if proof else f"skipped: {skipped}"
    figures = {**_figures(plan), "largest_check_error": max(checks), "proof": proof_figures}
    _write_judge(folder, plan, figures)
    open_model(folder)
    return figures


def _check_disk(size: int, output: Path) -> None:
    place = next(parent for parent in output.absolute().parents if parent.exists())
    need, free = size + _DISK_MARGIN, shutil.disk_usage(place).free
    if need > free:
        raise JudgeError(
            f"{output}: the merged model needs {need / 1e9:,.1f} GB of disk, {free / 1e9:,.1f} GB are free at {place}; "
            "make room, or choose another place with -o"
        )


def _write_weights(folder: Path, plan: MergePlan, checks: list[float], events: MergeEvents) -> None:
    from safetensors import safe_open

    read, done = reader(plan, checks), 0
    for shard, tensors in plan.shards.items():
        with safe_open(shard, framework="numpy") as file:
            header = file.metadata() or {"format": "pt"}
        written = {tensor.entry: tensor for tensor in tensors}

        def value(entry: Any, written: Any = written) -> Any:
            nonlocal done
            tensor = read(written[entry])
            done += entry.size
            events.working("merging", done, plan.size)
            return tensor

        write_tensors(folder / shard.name, list(written), value, header)
    index = plan.model.path / _INDEX
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {
            tensor.entry.name: shard.name for shard, tensors in plan.shards.items() for tensor in tensors
        }
        sizes = {"total_size": plan.size, "total_parameters": plan.parameters}
        old = content.get("metadata") or {}
        content["metadata"] = {**old, **{key: n for key, n in sizes.items() if key in old or key == "total_size"}}
        _write_json(folder / _INDEX, content)


def _write_configs(folder: Path, plan: MergePlan, dtype: Dtype) -> None:
    """Write config.json with what has changed in it; copy the tokenizer and the model's other files."""
    base = plan.model.path
    changes: dict[str, Any] = {}
    if dtype != "auto":
        changes["dtype"] = dtype
    if plan.untied:
        changes["tie_word_embeddings"] = False
    config = dict(plan.model.config)
    if not changes:
        shutil.copyfile(base / "config.json", folder / "config.json")
    else:
        nested = [key for key in config if key == "text_config" and isinstance(config[key], dict)]
        for part in (config, *(config[key] for key in nested)):
            part.update(changes)
            if "torch_dtype" in part and dtype != "auto":
                part["torch_dtype"] = dtype
        _write_json(folder / "config.json", config)
    copy_tokenizer(base, folder)
    for pattern in _EXTRA_FILES:
        for path in base.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _figures(plan: MergePlan) -> dict[str, Any]:
    """Return what there is to say about the merge but its proof."""
    config, judge = plan.adapter.config, plan.model.judge
    dtypes: dict[str, int] = {}
    for written in plan.tensors:
        dtypes[written.entry.dtype] = dtypes.get(written.entry.dtype, 0) + written.entry.values
    return {
        "adapter": "DoRA" if config.get("use_dora") else "rsLoRA" if config.get("use_rslora") else "LoRA",
        "rank": plan.adapter.rank,
        "adapter_sha256": file_digest(plan.adapter.path / ADAPTER_WEIGHTS),
        "trained_on_4bit_base": judge is not None and judge.method == "qlora",
        "merged_matrices": len(plan.adapted),
        "tensors": len(plan.tensors),
        "parameters": plan.parameters,
        "bytes": plan.size,
        "dtypes": dtypes,
        "own_output_head": plan.untied,
        "versions": {"judge": __version__, **{name: _version(name) for name in ("torch", "transformers", "peft")}},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _write_judge(folder: Path, plan: MergePlan, figures: dict[str, Any]) -> None:
    """Write `judge.json` and the fingerprints of the training rows, where the bundle has them."""
    sources: tuple[Path, ...] = (plan.adapter.path, plan.model.path)  # a plain adapter's base may be a judge itself
    if plan.model.judge is not None:
        write_judge_file(folder, plan.model.judge.with_stage(STAGE, **figures))
    rows = next((path / TRAINED_ROWS for path in sources if (path / TRAINED_ROWS).exists()), None)
    if rows is not None:
        shutil.copyfile(rows, folder / TRAINED_ROWS)
