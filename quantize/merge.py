"""Merging: a LoRA adapter into its base model, written as one whole model folder that is a judge like the bundle.

The steps: plan the merge and refuse what cannot be merged, prove in memory that the adapter changes verdicts and that
merging keeps them, write the shards of the base one by one with the adapted matrices changed, prove what was written,
and give the folder its name.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.errors import JudgeError, printable
from judge.files import check_new_folder
from judge.models.bundle import ADAPTER_WEIGHTS, ModelFolder, copy_tokenizer, file_digest, open_model
from judge.models.judge_file import write_judge_file
from judge.models.tensor_files import FLOATS, write_tensors
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
    checks: list[float] = []
    _write_weights(folder, plan, checks, progress)
    _write_configs(folder, plan, dtype)
    proof_figures = proof.prove_written(folder) if proof else f"skipped: {skipped}"
    figures = {**_figures(plan), "largest_check_error": max(checks), "proof": proof_figures}
    _write_judge(folder, plan, figures)
    open_model(folder)
    return figures


def _write_weights(folder: Path, plan: MergePlan, checks: list[float], progress: Progress) -> None:
    from safetensors import safe_open

    read, done = _reader(plan, checks), 0
    for shard, tensors in plan.shards.items():
        with safe_open(shard, framework="numpy") as file:
            header = file.metadata() or {"format": "pt"}
        written = {tensor.entry: tensor for tensor in tensors}

        def value(entry: Any, written: Any = written) -> Any:
            nonlocal done
            tensor = read(written[entry])
            done += entry.size
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


def _reader(plan: MergePlan, checks: list[float]) -> Callable[[Written], Tensor]:
    """Return a function that gives each tensor of the output; it adds the errors of merged ones to `checks`.

    Raises:
        JudgeError: a merged matrix fails its check or is not finite, or a value does not fit the output's dtype.
    """
    import torch

    def read(written: Written) -> Tensor:
        if written.adapted is None:
            tensor = plan.source(written)
        else:
            tensor, error = plan.merged(written)
            checks.append(error)
        if written.adapted is None and written.entry.dtype == written.source.dtype:
            return tensor
        rounded = tensor.to(getattr(torch, FLOATS[written.entry.dtype]))
        if not bool(torch.isfinite(rounded).all()):
            kind = FLOATS[written.entry.dtype]
            reason = f"values that {kind} cannot hold" if bool(torch.isfinite(tensor).all()) else "values like NaN"
            advice = "choose another --dtype" if kind == "float16" else "its weights are damaged"
            raise JudgeError(f"{plan.adapter.path}: {printable(written.entry.name)} has {reason}; {advice}")
        return rounded

    return read


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
    """Return the figures of a merge, without those of its checks and its proof."""
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
        "versions": versions(("torch", "transformers", "peft")),
    }


def _write_judge(folder: Path, plan: MergePlan, figures: dict[str, Any]) -> None:
    """Write `judge.json` and the fingerprints of the training rows, where the bundle has them."""
    sources: tuple[Path, ...] = (plan.adapter.path, plan.model.path)  # a plain adapter's base may be a judge itself
    if plan.model.judge is not None:
        write_judge_file(folder, plan.model.judge.with_stage(STAGE, **figures))
    rows = next((path / TRAINED_ROWS for path in sources if (path / TRAINED_ROWS).exists()), None)
    if rows is not None:
        shutil.copyfile(rows, folder / TRAINED_ROWS)
