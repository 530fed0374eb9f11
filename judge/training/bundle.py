"""Writing a judge bundle: adapter or model, tokenizer, `judge.json`, and what the run leaves to look at."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.models.bundle import ADAPTER_CONFIG, adapter_is_untrained, copy_tokenizer, file_digest
from judge.models.judge_file import Base, JudgeFile, write_judge_file
from judge.models.trained_rows import FILE as TRAINED_ROWS
from judge.models.trained_rows import TrainedRows, joined, write_trained_rows
from judge.prompting.template import template_data
from judge.prompting.verdict import NAMES, probabilities, verdict_mass
from judge.tables.comparison import Flag
from judge.training.heldout import Figures
from judge.version import versions

if TYPE_CHECKING:
    from judge.training.run import TrainingRun
    from judge.training.trainer import VerdictTrainer

METRICS, HELD_OUT = "metrics.jsonl", "held_out.parquet"
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "tokenizers", "numpy")


def write_bundle(
    run: TrainingRun,
    trainer: VerdictTrainer,
    output: Path,
    folder: Path,
    figures: dict[str, Figures],
    logprobs: NDArray[np.float64],
) -> None:
    """Write the bundle of a finished run; it appears under its name once it is whole.

    Args:
        folder: the run's folder, with its metrics file; the bundle is put together in it.
        figures: the held-out figures, for `judge.json`.
        logprobs: of the held-out rows, shape (rows, 3), for the out-of-fold predictions.

    Raises:
        JudgeError: the adapter came out untrained.
    """
    ready = folder / "bundle"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    _save_weights(trainer.model, ready)
    (ready / "README.md").unlink(missing_ok=True)  # PEFT's form for a model card, not filled in
    if (ready / ADAPTER_CONFIG).exists() and adapter_is_untrained(ready):
        raise JudgeError(
            f"the best checkpoint is the adapter as it began (step {trainer.state.best_global_step}; all B matrices "
            "are zero): nothing was learnt, nothing is written; train longer or with another learning rate"
        )
    copy_tokenizer(run.base.path, ready)
    rows = run.train_rows.records[run.split.train]
    # what trained the judge that this run goes on from trained this one too
    earlier = [run.trained_before] if run.trained_before else []
    trained = joined([TrainedRows(rows["row_key"], rows["group"]), *earlier])
    write_trained_rows(ready, trained)
    _write_held_out(ready / HELD_OUT, run, trained, logprobs)
    shutil.copyfile(folder / METRICS, ready / METRICS)
    write_judge_file(ready, judge_file(run, trainer, figures, ready))
    ready.rename(output)


def _save_weights(model: Any, folder: Path) -> None:
    """Save the adapter, or the whole model, as safetensors."""
    config = folder / ADAPTER_CONFIG
    if not hasattr(model, "peft_config"):
        model.config.use_cache = True  # off while training
        model.save_pretrained(folder, safe_serialization=True)
        return
    # without whole copies of embeddings, which vLLM would refuse
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    values = json.loads(config.read_text(encoding="utf-8"))
    if isinstance(values["target_modules"], list):  # a set to PEFT: equal runs would differ in its order
        values["target_modules"] = sorted(values["target_modules"])
    config.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def judge_file(run: TrainingRun, trainer: VerdictTrainer, figures: dict[str, Figures], folder: Path) -> JudgeFile:
    """Return the content of `judge.json` for a finished run whose other files are in `folder`."""
    # the commit of the model hub, where the folder's path names it: …/snapshots/COMMIT
    revision = run.base.path.name if run.base.path.parent.name == "snapshots" else None
    finite = {name: {k: v for k, v in values.items() if np.isfinite(v)} for name, values in figures.items()}
    return JudgeFile(
        template=template_data(run.builder.template),
        template_digest=run.builder.template.digest,
        verdict_ids=run.builder.verdict_ids,
        max_tokens=run.builder.budget.max_tokens,
        truncation=run.builder.budget.policy,
        shares=run.builder.budget.shares,
        prompt_fingerprint=run.builder.fingerprint(),
        method=run.settings.method,
        base=Base(path=str(run.base.path), digest=run.base.base_digest, revision=revision),
        training={
            "settings": run.settings.model_dump(mode="json"),
            "data": [
                {"file": Path(path).name, "digest": digest}
                for path, digest in zip(run.settings.data, run.train_rows.digests, strict=True)
            ],
            "continued_from": run.settings.continue_from,
            "trained_rows_sha256": file_digest(folder / TRAINED_ROWS),
            "train_rows": len(run.split.train),
            "held_out_rows": len(run.split.held_out),
            "steps": trainer.state.global_step,
            "best_step": trainer.state.best_global_step,
            "seed": run.settings.seed,
            "dtype": run.machine.dtype,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(_PACKAGES),
        },
        metrics=finite,
    )


def _write_held_out(path: Path, run: TrainingRun, trained: TrainedRows, logprobs: NDArray[np.float64]) -> None:
    """Write the held-out rows' predictions in the columns of `judge score`, for out-of-fold use."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    p = probabilities(logprobs)
    columns: dict[str, Any] = {"id": run.eval_rows.id_column(run.split.held_out)}
    columns |= {f"p_{name}": pa.array(p[:, i]) for i, name in enumerate(NAMES)}
    columns |= {f"logprob_{name}": pa.array(logprobs[:, i]) for i, name in enumerate(NAMES)}
    columns["verdict_mass"] = pa.array(verdict_mass(logprobs))
    columns["prompt_tokens"] = pa.array(run.eval_rows.lengths[run.split.held_out])
    same_prompt = np.isin(run.eval_rows.records["group"][run.split.held_out], trained.groups)
    columns["flags"] = pa.array([Flag.TRAINED_PROMPT.names() if same else "" for same in same_prompt], pa.string())
    pq.write_table(pa.table(columns), path)
