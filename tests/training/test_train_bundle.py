"""What training writes: adapters and weights, metrics, and the rows that trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import judge.training.train
import judge.training.trainer
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.judge_file import read_judge_file
from judge.models.trained_rows import read_trained_rows
from judge.prompting.verdict import probabilities
from judge.stats.metrics import log_loss
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows, write_table
from tests.training.conftest import Run, adapter_of, assert_same_adapter, held_out_rows, no_weights, score_by_hand

pytestmark = pytest.mark.training
LINEAR_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_bundle_loads_as_it_is(run: Run, base: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    bundle, _ = run()
    model = AutoPeftModelForCausalLM.from_pretrained(bundle, local_files_only=True)
    assert any("lora_B" in name for name, _ in model.named_parameters())
    tokenizer = AutoTokenizer.from_pretrained(bundle, local_files_only=True)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base, local_files_only=True).get_vocab()
    names = {path.name for path in bundle.iterdir()}
    assert {"judge.json", "adapter_model.safetensors", "trained_rows.npy", "metrics.jsonl"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    content = read_judge_file(bundle)
    assert content is not None
    assert content.base.digest == open_model(base).digest()
    assert content.training["versions"]["trl"]
    assert content.training["settings"]["lora_rank"] == 4


def test_the_metrics_file_has_every_step_and_evaluation(run: Run) -> None:
    bundle, progress = run(max_steps=5, evaluations=2)
    lines = [json.loads(line) for line in (bundle / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "eval_log_loss" in line] == [0, 3, 5]
    told = [note.partition(": held-out")[0] for note in progress.notes if ": held-out log loss " in note]
    assert told == ["before training", "step 3", "step 5"]
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
    make = judge.training.trainer.make_trainer

    def watched(*arguments: Any) -> Any:
        trainer, interrupt = make(*arguments)
        seen.append(trainer.model)
        return trainer, interrupt

    monkeypatch.setattr(judge.training.trainer, "make_trainer", watched)
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


def test_frozen_layers_get_no_adapter(run: Run) -> None:
    bundle, _ = run(max_steps=1, evaluations=1, freeze_layers=1)
    modules = {tuple(name.split(".")[4:7:2]) for name in adapter_of(bundle)}
    assert modules == {("1", name) for name in LINEAR_LAYERS}
    named, _ = run("named", max_steps=1, evaluations=1, freeze_layers=1, target_modules="q_proj")
    assert {tuple(name.split(".")[4:7:2]) for name in adapter_of(named)} == {("1", "q_proj")}


def test_continuing_starts_a_new_run_from_the_adapter(run: Run) -> None:
    first, started = run("first")
    assert "a new run" in started.notes
    second, continued = run("second", continue_from=str(first), max_steps=2)
    assert f"a new run that continues from {first}" in continued.notes
    before = read_judge_file(second).metrics["before"]  # type: ignore[union-attr]
    assert before == pytest.approx(read_judge_file(first).metrics["after"], abs=1e-5)  # type: ignore[union-attr]


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
    assert events.named("training") == []
    assert_same_adapter(whole, late, atol=1e-7)
    assert read_judge_file(whole).metrics == read_judge_file(late).metrics  # type: ignore[union-attr]


def test_a_judge_that_goes_on_knows_what_trained_the_earlier_one(run: Run, table: Path, tmp_path: Path) -> None:
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
    listed, written = trained_rows_of(open_model(bundle)), read_trained_rows(bundle)
    assert listed is not None
    assert written is not None
    assert listed.rows.tolist() == written.rows.tolist()
    assert listed.groups.tolist() == written.groups.tolist()
    (bundle / "trained_rows.npy").unlink()
    with pytest.raises(JudgeError, match="is missing or not the file that this judge was written with"):
        trained_rows_of(open_model(bundle))
