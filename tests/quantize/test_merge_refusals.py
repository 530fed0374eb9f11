"""What `judge merge` refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from judge.errors import JudgeError
from judge.models.bundle import ADAPTER_WEIGHTS, open_model
from quantize.merge import merge
from tests.kit.recorded_progress import RecordedProgress
from tests.kit.tiny_models import edit_config, save_adapter
from tests.quantize.merging import Tensors, edit_tensors, refused

pytestmark = pytest.mark.usefixtures("one_thread")


def layer_tensor(tensors: Tensors, ending: str = "layers.0.self_attn.q_proj.lora_A.weight") -> str:
    return next(name for name in tensors if name.endswith(ending))


def without(ending: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(ending)}


NORM = "base_model.model.model.norm.weight"

WRONG_TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "whole weight": (lambda t: {**t, NORM: torch.ones(64)}, f"holds {NORM}, which is no LoRA matrix"),
    "no B": (without("layers.0.mlp.up_proj.lora_B.weight"), "layers.0.mlp.up_proj has no matrix B"),
    "unknown layer": (
        lambda t: {n.replace("layers.1.mlp.up_proj", "layers.7.mlp.up_proj"): v for n, v in t.items()},
        "changes model.layers.7.mlp.up_proj, which the model has nowhere",
    ),
    "a norm": (
        lambda t: {n.replace("layers.1.mlp.up_proj", "norm"): v for n, v in t.items()},
        "changes model.norm, which the model has as LlamaRMSNorm, which judge does not merge",
    ),
    "another size": (
        lambda t: {n: v[:, :-1] if "0.mlp.up_proj.lora_A" in n else v for n, v in t.items()},
        "up_proj is for a layer of 128x63, the model's has 128x64",
    ),
    "NaN": (lambda t: {n: v * float("nan") if "0.mlp.up_proj.lora_A" in n else v for n, v in t.items()}, "fails its"),
    "too large": (lambda t: {n: v * 1e8 if "0.mlp.up_proj.lora_A" in n else v for n, v in t.items()}, "cannot hold"),
}


def test_a_whole_model_and_an_output_that_exists(base: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"is a whole model already, .*; quantise it as it is"):
        merge(open_model(base), tmp_path / "out", "auto", RecordedProgress())
    (tmp_path / "there").mkdir()
    with pytest.raises(JudgeError, match="there: exists already; choose another folder with -o, or remove it"):
        merge(open_model(plain, base), tmp_path / "there", "auto", RecordedProgress())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"init_lora_weights": "pissa"}, r"init_lora_weights=pissa \(it changes the base model's weights\)"),
        ({"init_lora_weights": "olora"}, "init_lora_weights=olora"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\] \(whole trained modules\)"),
        ({"bias": "lora_only"}, "bias=lora_only"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"an_idea_of_2031": 1}, "an_idea_of_2031=1"),
        ({"lora_alpha": "16"}, "lora_alpha and the values of alpha_pattern must be numbers"),
        ({"alpha_pattern": [1]}, "lora_alpha and the values of alpha_pattern must be numbers"),
        ({"alpha_pattern": {"(": 1}}, "a key of alpha_pattern is no regular expression"),
        ({"r": 4}, "has rank 8 and 8, its config says 4"),
        ({"use_dora": True}, "q_proj has no DoRA magnitude|_proj has no DoRA magnitude"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_settings_that_cannot_be_merged_are_named(
    base: Path, plain: Path, tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    edit_config(plain, **setting)
    refused(plain, base, tmp_path / "out", message)


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_tensors_that_cannot_be_merged_are_named(base: Path, plain: Path, tmp_path: Path, case: str) -> None:
    edit, message = WRONG_TENSORS[case]
    edit_tensors(plain, ADAPTER_WEIGHTS, edit)
    refused(plain, base, tmp_path / "out", message, "float16")


def test_a_base_that_is_quantised_or_lacks_a_tensor(base: Path, plain: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    edit_tensors(other, "model.safetensors", without("layers.1.mlp.down_proj.weight"))
    refused(plain, other, tmp_path / "out", r"no tensor model\.layers\.1\.mlp\.down_proj\.weight in its files")
    edit_config(other, "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    refused(plain, other, tmp_path / "out", r"the base model is quantised already \(awq\)")
    edit_config(other, "config.json", quantization_config=None, model_type="an-idea-of-2031")
    refused(plain, other, tmp_path / "out", "transformers cannot build this model")


def test_too_little_disk_is_noticed_before_anything_is_written(
    base: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_000))
    refused(
        plain,
        base,
        tmp_path / "new" / "out",
        r"merged model needs 0\.\d\d GiB of disk and 0\.05 GiB are free at",
    )


@pytest.mark.training
def test_an_adapter_that_changes_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base, size=1e-8)
    refused(adapter, base, tmp_path / "out", "the adapter changes nothing: no verdict", proof=True)


@pytest.mark.training
def test_a_merge_that_is_not_what_the_adapter_does_is_refused(
    base: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantize.merge_plan import MergePlan

    right = MergePlan.merged

    def wrong(self: MergePlan, written: Any) -> tuple[torch.Tensor, float]:
        merged, error = right(self, written)
        return merged + 0.02 * (written.entry.name == "model.layers.1.mlp.down_proj.weight"), error

    monkeypatch.setattr(MergePlan, "merged", wrong)
    refused(plain, base, tmp_path / "out", "merging changes the verdicts: a log-probability moves by", proof=True)
