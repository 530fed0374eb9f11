"""Training with the real TRL on tiny models: what reaches the model, and what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from judge.engine.protocol import EngineConfig
from judge.engine.transformers import TransformersEngine
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.judge_file import read_judge_file
from judge.prompting.verdict import probabilities
from judge.runs.progress import Silent
from judge.stats.metrics import log_loss
from judge.tables.table import Table
from judge.training.callbacks import read_metrics
from judge.training.heldout import heldout_figures
from judge.training.settings import TrainSettings
from tests.kit.labelled_tables import labelled_rows, write_table
from tests.kit.tiny_models import save_llama
from tests.training.conftest import Run, adapter_of, assert_same_adapter, held_out_rows, score_by_hand

pytestmark = pytest.mark.training
LINEAR_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_model_gets_the_scorers_prompt_and_one_supervised_verdict(
    run: Run, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from judge.training.trainer import VerdictTrainer

    seen: list[tuple[list[int], list[int], int]] = []
    compute_loss = VerdictTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: dict[str, torch.Tensor], **rest: Any) -> Any:
        if model.training and rest.get("num_items_in_batch") is not None:
            for ids, mask, labels, row in zip(
                inputs["input_ids"], inputs["attention_mask"], inputs["labels"], inputs["row"], strict=True
            ):
                seen.append((ids[mask.bool()].tolist(), labels[mask.bool()].tolist(), int(row)))
        return compute_loss(self, model, inputs, **rest)

    monkeypatch.setattr(VerdictTrainer, "compute_loss", watched)
    bundle, events = run(max_steps=None, epochs=1.0, swap="off", batch_size=4)
    content = read_judge_file(bundle)
    assert content is not None
    train_rows = sorted(set(range(40)) - set(held_out_rows(bundle)))
    assert sorted(row for _, _, row in seen) == train_rows, "every training row once, none lost"

    from judge.prompting.builder import Budget, PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    budget = Budget(content.max_tokens, content.truncation, content.shares)
    builder = PromptBuilder(TextEncoder(load_tokenizer(bundle)), content.stored_template(), budget)
    comparisons = [row for chunk in Table.open(table).chunks() for row in chunk]
    for ids, labels, row in seen:
        verdict = builder.verdict_ids[comparisons[row].label]
        assert ids == [*builder.build([comparisons[row]])[0].ids.tolist(), verdict]
        assert labels == [-100] * (len(ids) - 1) + [verdict]
    samples = [note for note in events.notes if note.startswith("sample id")]
    assert len(samples) == 3
    assert all(">>>" in note for note in samples)


def test_the_held_out_log_loss_is_what_scoring_the_bundle_gives(run: Run, table: Path) -> None:
    bundle, _ = run(max_steps=6)
    content = read_judge_file(bundle)
    assert content is not None
    rows = held_out_rows(bundle)
    logprobs, labels = score_by_hand(bundle, table, rows)
    assert log_loss(probabilities(logprobs), labels) == pytest.approx(content.metrics["after"]["log_loss"], abs=1e-3)
    predictions = pq.read_table(bundle / "held_out.parquet")
    stored = np.column_stack([predictions.column(f"logprob_{name}").to_numpy() for name in ("a", "b", "tie")])
    np.testing.assert_allclose(stored, logprobs, atol=1e-4)
    assert heldout_figures(stored, labels) == pytest.approx(content.metrics["after"], abs=1e-4)
    lines = read_metrics(bundle / "metrics.jsonl")
    best = min(line["eval_log_loss"] for line in lines if "eval_log_loss" in line and line["step"] > 0)
    assert content.metrics["after"]["log_loss"] == pytest.approx(best, abs=1e-6), "the best checkpoint is kept"


@pytest.mark.parametrize("loss", ["vocabulary", "verdicts"])
def test_sixteen_rows_can_be_learnt_by_heart(run: Run, tmp_path: Path, loss: str) -> None:
    # larger weights: the head stays as it is, and a small one cannot put all mass on one token of the vocabulary
    base = save_llama(tmp_path / "base", initializer_range=0.4)
    small = write_table(tmp_path / "small.csv", labelled_rows(16))
    other = write_table(tmp_path / "other.csv", labelled_rows(40)[30:])
    bundle, _ = run(
        model=str(base),
        data=[str(small)],
        eval_data=str(other),
        swap="off",
        loss=loss,
        max_steps=200,
        learning_rate=3e-3,
        lora_rank=16,
    )
    losses = [line["loss"] for line in read_metrics(bundle / "metrics.jsonl") if "loss" in line]
    assert losses[0] > 0.8
    assert max(losses[-3:]) < 0.05


@pytest.mark.parametrize(
    "settings", [{"loss": "verdicts", "label_smoothing": 0.2}, {"loss": "vocabulary", "swap": "both"}]
)
def test_the_reported_loss_is_that_of_unpadded_prompts_one_by_one(
    run: Run, base: Path, table: Path, settings: dict[str, Any]
) -> None:
    # one step with a rate of practically 0, over all training rows: the loss of the untrained model
    rows_per_step = 32 * (2 if settings.get("swap") == "both" else 1)
    options = {"swap": "off", "max_steps": 1, "learning_rate": 1e-7, "batch_size": 8, "evaluations": 1, **settings}
    bundle, _ = run(accumulation=rows_per_step // 8, **options)
    rows = sorted(set(range(40)) - set(held_out_rows(bundle)))
    assert len(rows) == 32
    full, labels = _base_logprobs(base, table, rows)
    smoothing = settings.get("label_smoothing", 0.0)
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    values = full
    if settings.get("swap") == "both":
        exchanged, _ = _base_logprobs(base, table, rows, swapped=True)
        values, target = np.concatenate([full, exchanged]), np.concatenate([target, target[:, [1, 0, 2]]])
    if settings["loss"] == "verdicts":
        values = np.log(probabilities(values))
    expected = -(target * values).sum(axis=1).mean()
    (line,) = [line for line in read_metrics(bundle / "metrics.jsonl") if "loss" in line]
    assert line["loss"] == pytest.approx(expected, abs=1e-5)


def _base_logprobs(base: Path, table: Path, rows: list[int], swapped: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return full-vocabulary log-probabilities of the base model for unpadded prompts."""
    from judge.prompting.builder import PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer
    from judge.prompting.template import load_template

    builder = PromptBuilder(TextEncoder(load_tokenizer(base)), load_template("minimal"))
    comparisons = [row for chunk in Table.open(table).chunks() for row in chunk]
    chosen = [comparisons[row].swapped() if swapped else comparisons[row] for row in rows]
    engine = TransformersEngine(
        EngineConfig(model=str(base), readout="transformers", verdict_ids=builder.verdict_ids, max_prompt_tokens=1000)
    )
    prompts = [prompt.ids.tolist() for prompt in builder.build(chosen)]
    return engine.read(prompts, lambda _: None), np.array([comparisons[row].label for row in rows])


def test_accumulated_batches_are_the_same_as_one_large_batch(run: Run) -> None:
    options = {"swap": "off", "max_steps": 3, "evaluations": 1, "schedule": "constant"}
    one, _ = run("one", batch_size=8, **options)
    # the same rows in the same steps: a group of 8 in 4 batches of 2 is another order, so all 32 rows are one step
    two, _ = run("two", batch_size=32, **options)
    three, _ = run("three", batch_size=4, accumulation=8, **options)
    assert_same_adapter(two, three, atol=2e-5)
    with pytest.raises(AssertionError):
        assert_same_adapter(one, two, atol=2e-5)


def test_progress_is_told_while_evaluating(run: Run) -> None:
    _, progress = run(max_steps=2, evaluations=1, batch_size=3)  # 8 held-out rows: 3 batches, before and after
    assert progress.named("evaluating")[:6] == [(1, 3), (2, 3), (3, 3)] * 2
    assert progress.steps[-1][3] == "batch 3 of 3"


def test_early_stopping_ends_the_run(run: Run) -> None:
    _, events = run(learning_rate=0.5, max_steps=12, evaluations=12, patience=2, schedule="constant", max_grad_norm=1e3)
    assert (events.named("training")[-1][0] or 12) < 12


def test_tensorboard_gets_the_figures(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    run(report_to=["tensorboard"], max_steps=2)
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


def test_number_formats_follow_the_hardware() -> None:
    from judge.training.model import choose_training_dtype

    assert choose_training_dtype("auto", "cuda", native_bfloat16=False) == "float16"
    assert choose_training_dtype("auto", "cuda", native_bfloat16=True) == "bfloat16"
    assert choose_training_dtype("auto", "cpu", native_bfloat16=False) == "float32"
    with pytest.raises(JudgeError, match="has none; use float16"):
        choose_training_dtype("bfloat16", "cuda", native_bfloat16=False)


def test_settings_of_a_gpu_without_bfloat16_reach_trl(base: Path, table: Path, tmp_path: Path) -> None:
    """No GPU here: what TRL would be told for a T4 is looked at."""
    from judge.training.model import TrainingMachine
    from judge.training.run import make_run
    from judge.training.trainer import trainer_arguments

    settings = TrainSettings(model=str(base), data=(str(table),), template="minimal", method="qlora", batch_size=2)
    folder = open_model(base)
    from judge.prompting.builder import PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer
    from judge.prompting.template import load_template

    builder = PromptBuilder(TextEncoder(load_tokenizer(base)), load_template("minimal"))
    planned = make_run(settings, folder, None, builder, TrainingMachine("cuda", "float16"), tmp_path, Silent())
    arguments = trainer_arguments(planned, tmp_path)
    assert (arguments["fp16"], arguments["bf16"], arguments["gradient_checkpointing"]) == (True, False, True)
    assert (arguments["max_length"], arguments["packing"]) == (None, False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_checkpointing_and_autocast_train_the_same_judge(run: Run, dtype: str) -> None:
    options = {"swap": "off", "max_steps": 3, "evaluations": 1, "schedule": "constant"}
    plain, _ = run("plain", **options)
    other, events = run("other", gradient_checkpointing=True, dtype=dtype, **options)
    assert any(note.startswith("time: about") for note in events.notes)
    assert {str(value.dtype) for value in adapter_of(other).values()} == {"float32"}
    if dtype == "float32":
        assert_same_adapter(plain, other, atol=1e-5)
    else:
        one, two = (read_judge_file(bundle).metrics["after"]["log_loss"] for bundle in (plain, other))  # type: ignore[union-attr]
        assert one == pytest.approx(two, abs=0.05)
        assert one != two
