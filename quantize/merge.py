"""Merging: a LoRA adapter into its base model, written as one whole model folder that is a judge like the bundle.

The steps: plan the merge and refuse what cannot be merged, prove in memory that the adapter changes verdicts and that
merging keeps them, write the shards of the base one by one with the adapted matrices changed, prove what was written,
and give the folder its name.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.errors import JudgeError, printable
from judge.files import check_new_folder
from judge.models.bundle import ADAPTER_WEIGHTS, FLOATS, ModelFolder, copy_tokenizer, file_digest, open_model
from judge.models.judge_file import write_judge_file
from judge.models.tensor_files import write_tensors
from judge.models.trained_rows import FILE as TRAINED_ROWS
from judge.models.trained_rows import trained_rows_of
from judge.runs.progress import Progress
from judge.version import versions
from quantize.merge_plan import Dtype, MergePlan, Written, plan_merge
from quantize.output import check_disk, work_folder

if TYPE_CHECKING:
    from torch import Tensor

STAGE = "merged"
# Other files of the base that belong to the model.
_EXTRA_FILES = ("generation_config.json", "*processor_config.json")
_INDEX = "model.safetensors.index.json"


def merge(
    bundle: ModelFolder,
    output: Path,
    dtype: Dtype,
    progress: Progress,
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
    check_new_folder(output, parent_needed=False)
    plan = plan_merge(bundle, dtype)
    trained_rows_of(bundle)  # refuses a bundle whose list of training rows is missing or another's
    progress.step("hashing the model")
    bundle.digest()  # refuses another base
    with work_folder(output, "judge merge", restart) as folder:
        figures = _merge_in(folder, plan, output, dtype, progress, proof)
        folder.rename(output)
    return {**figures, "seconds": time.monotonic() - began}


def _merge_in(
    folder: Path, plan: MergePlan, output: Path, dtype: Dtype, progress: Progress, wanted: bool
) -> dict[str, Any]:
    """Put the merged model together in a folder and return the figures."""
    from quantize.merge_proof import Proof, refused_proof

    check_disk(output, plan.size, "the merged model")
    if plan.model.judge is not None and plan.model.judge.method == "qlora":
        progress.note(
            "the adapter was trained on 4-bit weights; it is merged into the 16-bit ones, which they were made from"
        )
    skipped = refused_proof(plan) if wanted else "not wanted (--no-proof)"
    if skipped and wanted:
        progress.warn(
            f"the proof from end to end is skipped: {skipped}; check the merged judge with judge drift "
            f"{plan.adapter.path} {output} --data TABLE"
        )
    proof = None if skipped else Proof(plan, progress)
    if proof:
        proof.prove_adapter()
    error = _write_weights(folder, plan, progress)
    _write_configs(folder, plan, dtype)
    proof_figures = proof.prove_written(folder) if proof else f"skipped: {skipped}"
    figures = {**_figures(plan), "largest_check_error": error, "proof": proof_figures}
    _write_judge(folder, plan, figures)
    open_model(folder)
    return figures


def _write_weights(folder: Path, plan: MergePlan, progress: Progress) -> float:
    """Write the shards one by one; return the largest error that the checks of the merged matrices found."""
    from safetensors import safe_open

    done, largest = 0, 0.0
    for shard, tensors in plan.shards.items():
        with safe_open(shard, framework="numpy") as file:
            header = file.metadata() or {"format": "pt"}
        written = {tensor.entry: tensor for tensor in tensors}

        def value(entry: Any, written: Any = written) -> Any:
            nonlocal done, largest
            tensor, error = _read(plan, written[entry])
            done, largest = done + entry.size, max(largest, error)
            progress.step("merging", done, plan.size, f"{done / plan.size:.0%}")
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
    return largest


def _read(plan: MergePlan, written: Written) -> tuple[Tensor, float]:
    """Return a tensor of the output, and the error of its check if the adapter changes it, else 0."""
    import torch

    tensor, error = plan.merged(written) if written.adapted else (plan.source(written), 0.0)
    if written.adapted is None and written.entry.dtype == written.source.dtype:
        return tensor, error
    kind = FLOATS[written.entry.dtype]
    rounded = tensor.to(getattr(torch, kind))
    if not bool(torch.isfinite(rounded).all()):
        reason = f"values that {kind} cannot hold" if bool(torch.isfinite(tensor).all()) else "values like NaN"
        advice = "choose another --dtype" if kind == "float16" else "its weights are damaged"
        raise JudgeError(f"{plan.adapter.path}: {printable(written.entry.name)} has {reason}; {advice}")
    return rounded, error


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
        nested = config.get("text_config")
        for part in (config, nested) if isinstance(nested, dict) else (config,):
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
    """Return the figures of a merge, without those of its checks and its proof."""
    config, judge = plan.adapter.config, plan.model.judge
    dtypes: Counter[str] = Counter()
    for written in plan.tensors:
        dtypes[written.entry.dtype] += written.entry.values
    return {
        "adapter": "DoRA" if config.get("use_dora") else "rsLoRA" if config.get("use_rslora") else "LoRA",
        "rank": plan.adapter.rank,
        "adapter_sha256": file_digest(plan.adapter.path / ADAPTER_WEIGHTS),
        "trained_on_4bit_base": judge is not None and judge.method == "qlora",
        "merged_matrices": len(plan.adapted),
        "tensors": len(plan.tensors),
        "parameters": plan.parameters,
        "bytes": plan.size,
        "dtypes": dict(dtypes),
        "own_output_head": plan.untied,
        "versions": versions(("torch", "transformers", "peft")),
    }


def _write_judge(folder: Path, plan: MergePlan, figures: dict[str, Any]) -> None:
    """Write `judge.json` and the fingerprints of the training rows, where the bundle has them."""
    if plan.model.judge is not None:
        write_judge_file(folder, plan.model.judge.with_stage(STAGE, **figures))
    for source in (plan.model.path, plan.adapter.path):  # a plain adapter's base may be a judge itself
        if (source / TRAINED_ROWS).exists():
            shutil.copyfile(source / TRAINED_ROWS, folder / TRAINED_ROWS)
