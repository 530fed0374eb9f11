"""What training refuses, and what stops a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import judge.training.train
import judge.training.trainer
from judge.errors import JudgeError
from judge.models.bundle import open_model
from tests.kit.labelled_tables import labelled_rows, write_table
from tests.kit.tiny_models import edit_config, save_llama
from tests.training.conftest import Run, no_weights

pytestmark = pytest.mark.training
LINEAR_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_freezing_every_layer_is_refused(run: Run) -> None:
    with pytest.raises(JudgeError, match="freeze_layers=2: the model has 2 layers"):
        run(freeze_layers=2)


def test_a_quantised_base_is_refused_before_its_weights_are_read(run: Run, base: Path, tmp_path: Path) -> None:
    packed = shutil.copytree(base, tmp_path / "packed")
    edit_config(packed, "config.json", quantization_config={"quant_method": "compressed-tensors"})
    with pytest.raises(JudgeError, match=r"quantised already \(compressed-tensors\)"):
        run(model=str(packed))


def test_continuing_on_another_base_is_refused(run: Run, tmp_path: Path) -> None:
    first, _ = run("first", max_steps=1, evaluations=1)
    other = save_llama(tmp_path / "other", initializer_range=0.2)
    with pytest.raises(JudgeError, match="is not the base model that first was trained on"):
        run("second", model=str(other), continue_from=str(first))


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


@pytest.mark.parametrize(
    ("name", "message"), [("tensorbord", "did you mean 'tensorboard'"), ("comet_ml", "is not installed")]
)
def test_a_logger_that_cannot_be_used_is_named(run: Run, name: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        run(report_to=[name])


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
