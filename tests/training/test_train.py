"""Training with the real TRL on tiny models: what reaches the model, what comes out, and what stops it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import judge.training.make_trainer
import judge.training.train
from judge.engine.protocol import EngineConfig
from judge.engine.transformers import TransformersEngine
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.judge_file import read_judge_file
from judge.models.prompting import choose_template
from judge.models.trained_rows import read_trained_rows
from judge.prompting.verdict import probabilities
from judge.scoring.settings import ScoreSettings
from judge.stats.metrics import log_loss
from judge.tables.table import Table
from judge.training.callbacks import read_metrics
from judge.training.heldout import heldout_figures
from judge.training.settings import TrainSettings, parse_train_settings
from judge.training.train import train
from tests.kit.labelled_tables import labelled_rows, write_table
from tests.kit.tiny_models import edit_config, save_llama

pytestmark = pytest.mark.training
LINEAR_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


class Recorded:
    """Events that are kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[int, int, float | None]] = []
        self.evaluations: list[tuple[int, dict[str, Any]]] = []
        self.batches: list[tuple[int, int | None]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    warn = note

    def reading(self, rows: int) -> None:
        del rows

    def trained(self, step: int, steps: int, loss: float | None) -> None:
        self.steps.append((step, steps, loss))

    def evaluating(self, batches: int, all_batches: int | None) -> None:
        self.batches.append((batches, all_batches))

    def evaluated(self, step: int, figures: dict[str, Any]) -> None:
        self.evaluations.append((step, figures))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Tiny matrices are not worth two threads that wait for each other."""
    torch.set_num_threads(1)


Run = Callable[..., tuple[Path, Recorded]]


@pytest.fixture
def run(base: Path, table: Path, tmp_path: Path) -> Run:
    """Train with few steps; keyword arguments are settings."""

    def runner(output: str = "bundle", resume: bool = False, **settings: Any) -> tuple[Path, Recorded]:
        values = {
            "model": str(base),
            "data": [str(table)],
            "template": "minimal",
            "holdout": 0.2,
            "learning_rate": 1e-3,
            "max_steps": 4,
            "evaluations": 2,
            "warmup": 0.0,
            "log_every": 1,
            "lora_rank": 4,
        }
        if settings.get("method") == "full" or settings.get("continue_from"):
            values.pop("lora_rank")
        if settings.get("eval_data") or settings.get("fold"):
            values.pop("holdout")
        events = Recorded()
        train(parse_train_settings({**values, **settings}), tmp_path / output, resume, False, events)
        return tmp_path / output, events

    return runner


def score_by_hand(bundle: Path, table: Path, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities and labels of rows, by the scorer's own builder and slow read-out."""
    from judge.models.prompting import choose_budget
    from judge.prompting.builder import PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    model, settings = open_model(bundle), ScoreSettings(readout="transformers")
    builder = PromptBuilder(
        TextEncoder(load_tokenizer(model.path)), choose_template(model, settings), choose_budget(model, settings)
    )
    comparisons = [row for chunk in Table.open(table).chunks() for row in chunk]
    prompts = [builder.build([comparisons[row]])[0].ids.tolist() for row in rows]
    engine = TransformersEngine(
        EngineConfig(
            model=str(model.path),
            adapter=str(model.adapter.path) if model.adapter else None,
            adapter_rank=model.adapter.rank if model.adapter else 0,
            readout="transformers",
            verdict_ids=builder.verdict_ids,
            max_prompt_tokens=builder.budget.max_tokens,
        )
    )
    return engine.read(prompts, lambda _: None), np.array([comparisons[row].label for row in rows])


def held_out_rows(bundle: Path) -> list[int]:
    return [i - 1 for i in pq.read_table(bundle / "held_out.parquet").column("id").to_pylist()]


def test_what_reaches_the_model_is_the_scorers_prompt_and_one_supervised_verdict(
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
    bundle, events = run(max_steps=6)
    content = read_judge_file(bundle)
    assert content is not None
    rows = held_out_rows(bundle)
    logprobs, labels = score_by_hand(bundle, table, rows)
    assert log_loss(probabilities(logprobs), labels) == pytest.approx(content.metrics["after"]["log_loss"], abs=1e-3)
    predictions = pq.read_table(bundle / "held_out.parquet")
    stored = np.column_stack([predictions.column(f"logprob_{name}").to_numpy() for name in ("a", "b", "tie")])
    np.testing.assert_allclose(stored, logprobs, atol=1e-4)
    assert heldout_figures(stored, labels) == pytest.approx(content.metrics["after"], abs=1e-4)
    best = min(figures["log_loss"] for step, figures in events.evaluations if step > 0)
    assert content.metrics["after"]["log_loss"] == pytest.approx(best, abs=1e-6), "the best checkpoint is kept"


@pytest.mark.parametrize("loss", ["vocabulary", "verdicts"])
def test_sixteen_rows_can_be_learnt_by_heart(run: Run, tmp_path: Path, loss: str) -> None:
    # larger weights: the head stays as it is, and a small one cannot put all mass on one token of the vocabulary
    base = save_llama(tmp_path / "base", initializer_range=0.4)
    small = write_table(tmp_path / "small.csv", labelled_rows(16))
    other = write_table(tmp_path / "other.csv", labelled_rows(40)[30:])
    _, events = run(
        model=str(base),
        data=[str(small)],
        eval_data=str(other),
        swap="off",
        loss=loss,
        max_steps=200,
        learning_rate=3e-3,
        lora_rank=16,
    )
    losses = [value for _, _, value in events.steps if value is not None]
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


def adapter_of(bundle: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(bundle / "adapter_model.safetensors"))


def assert_same_adapter(one: Path, two: Path, atol: float) -> None:
    a, b = adapter_of(one), adapter_of(two)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], atol=atol, err_msg=name)


def test_accumulated_batches_are_the_same_as_one_large_batch(run: Run) -> None:
    options = {"swap": "off", "max_steps": 3, "evaluations": 1, "schedule": "constant"}
    one, _ = run("one", batch_size=8, **options)
    # the same rows in the same steps: a group of 8 in 4 batches of 2 is another order, so all 32 rows are one step
    two, _ = run("two", batch_size=32, **options)
    three, _ = run("three", batch_size=4, accumulation=8, **options)
    assert_same_adapter(two, three, atol=2e-5)
    with pytest.raises(AssertionError):
        assert_same_adapter(one, two, atol=2e-5)


def test_the_bundle_loads_as_it_is(run: Run, base: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    bundle, _ = run()
    model = AutoPeftModelForCausalLM.from_pretrained(bundle, local_files_only=True)
    assert any("lora_B" in name for name, _ in model.named_parameters())
    tokenizer = AutoTokenizer.from_pretrained(bundle, local_files_only=True)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base, local_files_only=True).get_vocab()
    names = {path.name for path in bundle.iterdir()}
    assert {"judge.json", "adapter_model.safetensors", "trained_rows.npy", "metrics.jsonl", "loss.png"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert (bundle / "loss.png").read_bytes().startswith(b"\x89PNG")
    content = read_judge_file(bundle)
    assert content is not None
    assert content.base.digest == open_model(base).digest()
    assert content.training["versions"]["trl"]
    assert content.training["settings"]["lora_rank"] == 4


def test_the_metrics_file_has_every_step_and_evaluation(run: Run) -> None:
    bundle, events = run(max_steps=5, evaluations=2)
    lines = [json.loads(line) for line in (bundle / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "eval_log_loss" in line] == [0, 3, 5]
    assert [step for step, _ in events.evaluations] == [0, 3, 5]
    wanted = {"eval_log_loss", "eval_accuracy", "eval_verdict_mass", "eval_p_a", "eval_p_b", "eval_p_tie"}
    assert wanted <= next(line.keys() for line in lines if "eval_log_loss" in line)


def test_full_fine_tuning_writes_a_whole_model(run: Run, table: Path) -> None:
    from transformers import AutoModelForCausalLM

    bundle, _ = run(method="full", learning_rate=1e-3)
    AutoModelForCausalLM.from_pretrained(bundle, local_files_only=True)
    content = read_judge_file(bundle)
    assert content is not None
    logprobs, labels = score_by_hand(bundle, table, held_out_rows(bundle))
    assert log_loss(probabilities(logprobs), labels) == pytest.approx(content.metrics["after"]["log_loss"], abs=1e-3)


def test_a_4_bit_base_gets_float32_adapters(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes as bnb

    seen: list[Any] = []
    make = judge.training.make_trainer.make_trainer

    def watched(*arguments: Any) -> Any:
        trainer, interrupt = make(*arguments)
        seen.append(trainer.model)
        return trainer, interrupt

    monkeypatch.setattr(judge.training.make_trainer, "make_trainer", watched)
    bundle, _ = run(method="qlora", learning_rate=1e-2)
    (model,) = seen
    assert any(isinstance(module, bnb.nn.Linear4bit) for module in model.modules())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    content = read_judge_file(bundle)
    assert content is not None
    assert content.method == "qlora"
    assert abs(content.metrics["after"]["log_loss"] - content.metrics["before"]["log_loss"]) > 1e-3


def test_rslora_and_dora_reach_the_adapter(run: Run) -> None:
    bundle, _ = run(rslora=True, dora=True, lora_dropout=0.1, target_modules="q_proj,v_proj", max_steps=2)
    config = json.loads((bundle / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["use_rslora"], config["use_dora"], config["lora_dropout"]) == (True, True, 0.1)
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]


def test_all_linear_layers_but_the_head_get_an_adapter_by_default(run: Run) -> None:
    bundle, _ = run(max_steps=1, evaluations=1)
    layers = {name.split(".")[-3] for name in adapter_of(bundle)}
    assert layers == LINEAR_LAYERS


def test_progress_is_told_while_evaluating(run: Run) -> None:
    _, events = run(max_steps=2, evaluations=1, batch_size=3)  # 8 held-out rows: 3 batches, before and after
    assert events.batches[:6] == [(1, 3), (2, 3), (3, 3)] * 2


def test_frozen_layers_get_no_adapter(run: Run) -> None:
    bundle, _ = run(max_steps=1, evaluations=1, freeze_layers=1)
    modules = {tuple(name.split(".")[4:7:2]) for name in adapter_of(bundle)}
    assert modules == {("1", name) for name in LINEAR_LAYERS}
    named, _ = run("named", max_steps=1, evaluations=1, freeze_layers=1, target_modules="q_proj")
    assert {tuple(name.split(".")[4:7:2]) for name in adapter_of(named)} == {("1", "q_proj")}


def test_freezing_every_layer_is_refused(run: Run) -> None:
    with pytest.raises(JudgeError, match="freeze_layers=2: the model has 2 layers"):
        run(freeze_layers=2)


def test_a_quantised_base_is_refused_before_its_weights_are_read(run: Run, base: Path, tmp_path: Path) -> None:
    packed = shutil.copytree(base, tmp_path / "packed")
    edit_config(packed, "config.json", quantization_config={"quant_method": "compressed-tensors"})
    with pytest.raises(JudgeError, match=r"quantised already \(compressed-tensors\)"):
        run(model=str(packed))


def test_continuing_starts_a_new_run_from_the_adapter(run: Run) -> None:
    first, started = run("first")
    assert "a new run" in started.notes
    second, continued = run("second", continue_from=str(first), max_steps=2)
    assert f"a new run that continues from {first}" in continued.notes
    before = read_judge_file(second).metrics["before"]  # type: ignore[union-attr]
    assert before == pytest.approx(read_judge_file(first).metrics["after"], abs=1e-5)  # type: ignore[union-attr]


def test_continuing_on_another_base_is_refused(run: Run, tmp_path: Path) -> None:
    first, _ = run("first", max_steps=1, evaluations=1)
    other = save_llama(tmp_path / "other", initializer_range=0.2)
    with pytest.raises(JudgeError, match="is not the base model that first was trained on"):
        run("second", model=str(other), continue_from=str(first))


def test_the_training_rows_are_known_afterwards(run: Run, table: Path) -> None:
    from judge.tables.comparison import Flag

    bundle, _ = run(max_steps=1, evaluations=1)
    trained = read_trained_rows(bundle)
    assert trained is not None
    held_out = held_out_rows(bundle)
    comparisons = [row for chunk in Table.open(table).chunks() for row in chunk]
    for i, row in enumerate(comparisons):
        expected = Flag(0) if i in held_out else Flag.TRAINED_ON
        assert trained.flags(row) == trained.flags(row.swapped()) == expected


def test_a_loss_that_is_not_a_number_stops_with_the_row_ids(run: Run, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"step \d+: the loss of \d+ rows? is not a number \(id \d+") as caught:
        run(learning_rate=1e30, max_grad_norm=1e30, schedule="constant", max_steps=8)
    assert "try a lower learning_rate" in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_weights_that_do_not_move_stop_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: None)
    with pytest.raises(JudgeError, match="after 3 steps no trained weight has changed"):
        run(max_steps=5)


def test_an_untrained_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(JudgeError, match="all B matrices of the adapter are zero"):
        open_model(tmp_path / "adapter")


def test_early_stopping_ends_the_run(run: Run) -> None:
    _, events = run(learning_rate=0.5, max_steps=12, evaluations=12, patience=2, schedule="constant", max_grad_norm=1e3)
    assert events.steps[-1][0] < 12


def test_tensorboard_gets_the_figures(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    run(report_to=["tensorboard"], max_steps=2)
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbord", "did you mean 'tensorboard'"), ("comet_ml", "is not installed")]
)
def test_a_logger_that_cannot_be_used_is_named(run: Run, name: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        run(report_to=[name])


def no_weights(*_: Any) -> None:
    raise AssertionError("weights were loaded before the mistake was found")


def broken_bases(base: Path, tmp_path: Path) -> dict[str, Path]:
    pointer, missing = tmp_path / "pointer", tmp_path / "missing"
    shutil.copytree(base, pointer)
    (pointer / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    shutil.copytree(base, missing)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (missing / "model.safetensors.index.json").write_text(json.dumps(index))
    return {"pointer": pointer, "missing": missing}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "pointer"}, "is a Git LFS pointer, not weights"),
        ({"model": "missing"}, "1 of 2 weight files are missing"),
        ({"model": "/nowhere"}, "no such model folder"),
        ({"max_tokens": 5}, "a budget of 5 tokens is too small for template minimal"),
        ({"max_tokens": 5000}, "--max-tokens=5000 is more than the model takes"),
        ({"batch_size": 33}, "32 training rows, but one optimizer step takes 33"),
        ({"fold": "6/5"}, "expected NUMBER/COUNT"),
        ({"template": "minmal"}, "did you mean 'minimal'?"),
        ({"dtype": "float16"}, "dtype=float16 trains on a GPU only"),
        ({"device": "cuda"}, "no GPU is visible"),
    ],
)
def test_a_mistake_is_found_before_weights_are_loaded(
    run: Run, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(judge.training.train, "load_model", no_weights)
    broken = broken_bases(base, tmp_path)
    settings = {**settings, "model": str(broken.get(settings.get("model", ""), settings.get("model", base)))}
    with pytest.raises(JudgeError) as caught:
        run(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"pointer", "missing"}, "something was left behind"


def test_a_table_without_labels_is_refused_before_weights_are_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge.training.train, "load_model", no_weights)
    table = write_table(
        tmp_path / "unlabelled.csv",
        [{k: v for k, v in row.items() if not k.startswith("winner")} for row in labelled_rows(20)],
    )
    with pytest.raises(JudgeError, match=r"unlabelled\.csv"):
        run(data=[str(table)])


def test_an_adapter_is_no_base_model(run: Run) -> None:
    first, _ = run("first", max_steps=1, evaluations=1)
    with pytest.raises(JudgeError, match="is an adapter, not a base model"):
        run("second", model=str(first))


def test_an_output_that_exists_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(JudgeError, match="exists already"):
        run()


def test_number_formats_follow_the_hardware() -> None:
    from judge.training.model import choose_training_dtype

    assert choose_training_dtype("auto", "cuda", native_bfloat16=False) == "float16"
    assert choose_training_dtype("auto", "cuda", native_bfloat16=True) == "bfloat16"
    assert choose_training_dtype("auto", "cpu", native_bfloat16=False) == "float32"
    with pytest.raises(JudgeError, match="has none; use float16"):
        choose_training_dtype("bfloat16", "cuda", native_bfloat16=False)


def test_settings_of_a_gpu_without_bfloat16_reach_trl(base: Path, table: Path, tmp_path: Path) -> None:
    """No GPU here: what TRL would be told for a T4 is looked at."""
    from judge.training.make_trainer import trainer_arguments
    from judge.training.model import Machine
    from judge.training.plan import make_plan

    settings = TrainSettings(model=str(base), data=(str(table),), template="minimal", method="qlora", batch_size=2)
    folder = open_model(base)
    from judge.prompting.builder import PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer
    from judge.prompting.template import load_template

    builder = PromptBuilder(TextEncoder(load_tokenizer(base)), load_template("minimal"))
    plan = make_plan(settings, folder, None, builder, Machine("cuda", "float16"), tmp_path, Recorded())
    arguments = trainer_arguments(plan, tmp_path)
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


def test_a_run_killed_after_its_last_step_is_only_written_up(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import judge.training.bundle

    whole, _ = run("whole", max_steps=5)
    with monkeypatch.context() as patched:
        patched.setattr(judge.training.bundle, "write_bundle", no_weights)
        with pytest.raises(AssertionError):
            run("late", max_steps=5)
    assert (tmp_path / "late.parts" / "trained").exists()
    late, events = run("late", resume=True, max_steps=5)
    assert events.steps == []
    assert_same_adapter(whole, late, atol=1e-7)
    assert read_judge_file(whole).metrics == read_judge_file(late).metrics  # type: ignore[union-attr]


def test_what_trained_an_earlier_judge_is_known_of_the_one_that_goes_on_from_it(
    run: Run, table: Path, tmp_path: Path
) -> None:
    from judge.tables.comparison import Flag

    options = {"max_steps": 1, "evaluations": 1}
    first, _ = run("first", **options)
    more = write_table(tmp_path / "more.csv", [{**row, "prompt": f"Now: {row['prompt']}"} for row in labelled_rows(30)])
    second, _ = run("second", continue_from=str(first), data=[str(more)], **options)
    trained = read_trained_rows(second)
    assert trained is not None
    held_out = held_out_rows(first)
    for i, row in enumerate(row for chunk in Table.open(table).chunks() for row in chunk):
        assert (Flag.TRAINED_ON in trained.flags(row)) == (i not in held_out)
    # other rows held out of the same table would have trained the first judge: they are not evaluated on
    third, events = run("third", continue_from=str(first), seed=1, **options)
    assert any("held-out rows left out: they trained the judge" in note for note in events.notes)
    assert set(held_out_rows(third)) <= set(held_out)


def test_a_list_of_training_rows_that_was_taken_away_is_missed(run: Run) -> None:
    from judge.models.trained_rows import trained_rows_of

    bundle, _ = run(max_steps=1, evaluations=1)
    assert len(trained_rows_of(open_model(bundle))) == 1
    (bundle / "trained_rows.npy").unlink()
    with pytest.raises(JudgeError, match="is missing or not the file that this judge was written with"):
        trained_rows_of(open_model(bundle))


def test_a_base_whose_files_lack_tensors_is_refused(run: Run, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    tensors = load_file(broken / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("up_proj.weight"))
    del tensors[lost]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JudgeError, match="1 tensors of the model are not in its files"):
        run(model=str(broken))
    assert not (tmp_path / "bundle.parts").exists()
