"""The arithmetic of merging, and the same model as PEFT's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from judge.errors import JudgeError
from judge.models.bundle import ADAPTER_WEIGHTS
from judge.models.tensor_files import Entry, read_entries, write_tensors
from quantize.merge_weights import Update, check_merged, merged_weight
from tests.kit.tiny_models import edit_config, save_adapter
from tests.quantize.merging import edit_tensors, loaded, logits, merge_plainly

pytestmark = pytest.mark.usefixtures("one_thread")

WRONG: dict[str, Callable[[torch.Tensor, torch.Tensor, Update], torch.Tensor]] = {
    "not merged": lambda weight, _, __: weight,
    "another scale": lambda weight, _, u: weight + 1.001 * u.scale * u.b @ u.a,
    "one row": lambda weight, merged, _: torch.cat([weight[:1], merged[1:]]),
    "one value": lambda _, merged, __: merged + torch.eye(len(merged), merged.shape[1]) * 1e-3,
    "bfloat16 products": lambda weight, _, u: weight + u.scale * (u.b.bfloat16() @ u.a.bfloat16()).float(),
    "NaN": lambda _, merged, __: merged * float("nan"),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 5},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 16, "layers.0.mlp.up_proj": 2},
        "alpha_pattern": {"down_proj": 64, "k_proj": 4, "layers.1.self_attn.o_proj": 1},
    },
    "some layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1], "init_lora_weights": "eva"},
    "ends": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    "ends with dora": {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
}


@given(
    seed=st.integers(0, 1000),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rank=st.integers(1, 8),
    scale=st.sampled_from([0.125, 1.0, 2.0, 64.0]),
    dora=st.booleans(),
    turned=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_merged_matrices_are_right_and_pass_their_check(
    seed: int, shape: tuple[int, int], rank: int, scale: float, dora: bool, turned: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    outputs, inputs = shape
    weight, a, b = (torch.randn(s, generator=random) for s in ((outputs, inputs), (rank, inputs), (outputs, rank)))
    magnitude = torch.rand(outputs, generator=random) + 0.5 if dora else None
    update = Update(a, b, scale, magnitude, turned)
    merged = merged_weight(weight.T if turned else weight, update)
    exact = weight.double() + scale * b.double() @ a.double()
    if magnitude is not None:
        exact *= (magnitude / exact.norm(dim=1))[:, None]
    torch.testing.assert_close((merged.T if turned else merged).double(), exact, rtol=1e-4, atol=1e-4 * scale)
    assert check_merged(merged, weight.T if turned else weight, update, "w") < 16


@pytest.mark.parametrize("way", WRONG)
def test_a_matrix_that_was_merged_wrongly_fails_its_check(way: str) -> None:
    random = torch.Generator().manual_seed(1)
    weight, a, b = (torch.randn(s, generator=random) * 0.1 for s in ((96, 64), (8, 64), (96, 8)))
    update = Update(a, b, 2.0)
    right = merged_weight(weight, update)
    assert check_merged(right, weight, update, "w") < 4
    with pytest.raises(JudgeError, match="w: the merged matrix fails its check"):
        check_merged(WRONG[way](weight, right, update), weight, update, "w")


def test_files_are_written_as_the_safetensors_library_writes_them(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(7).bfloat16(),
        "float": torch.randn(2, 2, 3),
        "whole": torch.arange(4),
        "flags": torch.tensor([True, False, True]),
        "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "turned": torch.randn(4, 6).T,
    }
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "theirs", metadata={"format": "pt"})
    entries = read_entries(tmp_path / "theirs")
    assert Entry("half", "F16", (3, 5)) in entries
    write_tensors(tmp_path / "ours", entries, lambda entry: tensors[entry.name], {"format": "pt"})
    ours = load_file(tmp_path / "ours")
    assert ours.keys() == tensors.keys()
    assert all(torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size


@pytest.mark.parametrize("kind", SETTINGS)
def test_merging_gives_what_peft_merges(base: Path, tmp_path: Path, kind: str) -> None:
    adapter = save_adapter(tmp_path / "adapter", base, **SETTINGS[kind])
    if "dora" in kind:  # as after training: other magnitudes than the base's rows have
        edit_tensors(adapter, ADAPTER_WEIGHTS, lambda t: {n: v * 1.3 if "magnitude" in n else v for n, v in t.items()})
    tensors = merge_plainly(adapter, base, tmp_path / "out")
    theirs = loaded(base, adapter).merge_and_unload().state_dict()
    assert tensors.keys() == theirs.keys()
    unmerged = load_file(base / "model.safetensors")
    assert any(not torch.equal(tensors[name], unmerged[name]) for name in tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), logits(loaded(base, adapter)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "both", "neither"])
def test_tied_embeddings_stay_tied_unless_the_adapter_parts_them(tied: Path, tmp_path: Path, target: str) -> None:
    ends = {"lm_head": ["lm_head"], "embed_tokens": ["embed_tokens"], "both": ["lm_head", "embed_tokens"]}
    adapter = save_adapter(tmp_path / "adapter", tied, target_modules=["q_proj", *ends.get(target, [])])
    tensors = merge_plainly(adapter, tied, tmp_path / "out", proof=True)
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    shared = load_file(tied / "model.safetensors")[embedding]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] == (target == "neither")
    assert (head in tensors) == (target != "neither")
    assert torch.equal(tensors[embedding], shared) == (target in ("lm_head", "neither"))
    if head in tensors:
        assert torch.equal(tensors[head], shared) == (target == "embed_tokens")
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), logits(loaded(tied, adapter)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_layers_that_store_their_matrix_turned(gpt2: Path, tmp_path: Path, says: bool) -> None:
    targets = ["c_attn", "c_proj"]
    adapter = save_adapter(tmp_path / "adapter", gpt2, target_modules=targets, fan_in_fan_out=True, use_dora=True)
    edit_config(adapter, fan_in_fan_out=says)  # PEFT goes by the layer's kind
    tensors = merge_plainly(adapter, gpt2, tmp_path / "out")
    theirs = loaded(gpt2, adapter).merge_and_unload().state_dict()
    assert tensors["transformer.h.0.attn.c_proj.weight"].shape == (32, 32)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-6)


def test_files_that_leave_out_the_first_part_of_names(gpt2: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(gpt2, old)
    edit_tensors(old, "model.safetensors", lambda t: {n.removeprefix("transformer."): v for n, v in t.items()})
    adapter = save_adapter(tmp_path / "adapter", gpt2, target_modules=["c_attn", "wte"], fan_in_fan_out=True)
    tensors = merge_plainly(adapter, old, tmp_path / "out")
    assert {"h.0.attn.c_attn.weight", "wte.weight", "lm_head.weight"} <= tensors.keys()
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), logits(loaded(gpt2, adapter)), atol=1e-4, rtol=0)
