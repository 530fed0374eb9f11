"""Merging: the same model as PEFT's, written whole or not at all, and what cannot be merged is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from judge.errors import JudgeError, RunInterrupted
from judge.models.bundle import ADAPTER_WEIGHTS, open_model
from judge.models.tensor_files import Entry, read_entries, write_tensors
from quantize.merge import merge
from quantize.merge_plan import Dtype
from quantize.merge_weights import Update, check_merged, merged_weight
from tests.kit.tiny_models import edit_config, save, save_adapter, save_llama

pytestmark = pytest.mark.usefixtures("one_thread")

Tensors = dict[str, torch.Tensor]


class Recorder:
    """Events that are kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def working(self, what: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self.steps.append(what)


def merge_plainly(adapter: Path, base: Path, output: Path, dtype: Dtype = "auto", proof: bool = False) -> Tensors:
    merge(open_model(adapter, base), output, dtype, Recorder(), proof)
    assert not output.with_name(output.name + ".parts").exists()
    tensors: Tensors = {}
    for shard in sorted(output.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def loaded(folder: Path, adapter: Path | None = None) -> Any:
    """Load a model in float32; nothing may be missing from its files or left over in them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(10, 100, (2, 30), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        result: torch.Tensor = model(ids).logits
    return result


def edit_tensors(folder: Path, name: str, edit: Callable[[Tensors], Tensors]) -> None:
    tensors = edit(load_file(folder / name))
    save_file({n: t.clone() for n, t in tensors.items()}, folder / name, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("tied") / "tied", initializer_range=0.1, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers store their matrices turned; one of them is square."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.kit.tiny_tokenizers import STYLES

    tokenizer = STYLES["qwen"]()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2)
    return save(tmp_path_factory.mktemp("gpt2") / "gpt2", GPT2LMHeadModel(config), tokenizer)


@pytest.fixture
def plain(base: Path, tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", base)


# --- the arithmetic


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


WRONG: dict[str, Callable[[torch.Tensor, torch.Tensor, Update], torch.Tensor]] = {
    "not merged": lambda weight, _, __: weight,
    "another scale": lambda weight, _, u: weight + 1.001 * u.scale * u.b @ u.a,
    "one row": lambda weight, merged, _: torch.cat([weight[:1], merged[1:]]),
    "one value": lambda _, merged, __: merged + torch.eye(len(merged), merged.shape[1]) * 1e-3,
    "bfloat16 products": lambda weight, _, u: weight + u.scale * (u.b.bfloat16() @ u.a.bfloat16()).float(),
    "NaN": lambda _, merged, __: merged * float("nan"),
}


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


# --- the same model as PEFT's


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


# --- what is written


@pytest.mark.parametrize("dtype", ["auto", "float16", "bfloat16"])
def test_shards_and_index_are_as_the_base_has_them(tied: Path, tmp_path: Path, dtype: Dtype) -> None:
    sharded = tmp_path / "sharded"
    loaded(tied).save_pretrained(sharded, max_shard_size="80KB")
    for file in tied.glob("tokenizer*"):
        shutil.copy(file, sharded)
    old = json.loads((sharded / "model.safetensors.index.json").read_text())
    adapter = save_adapter(tmp_path / "adapter", tied, target_modules=["q_proj", "lm_head"])
    tensors = merge_plainly(adapter, sharded, tmp_path / "out", dtype)
    new = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(old["weight_map"].values())) > 3
    assert new["weight_map"] == {
        **old["weight_map"],
        "lm_head.weight": old["weight_map"]["model.embed_tokens.weight"],
    }
    for name, shard in new["weight_map"].items():
        assert name in {entry.name for entry in read_entries(tmp_path / "out" / shard)}
    assert new["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    in_float32 = merge_plainly(adapter, tied, tmp_path / "whole")
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.float32 if dtype == "auto" else getattr(torch, dtype))
        assert torch.equal(tensor, in_float32[name].to(tensor.dtype)), name
    opened = open_model(tmp_path / "out")
    assert opened.dtype == ("float32" if dtype == "auto" else dtype)
    assert {path.name for path in opened.shards} == {path.name for path in open_model(sharded).shards}
    loaded(tmp_path / "out")


def test_each_tensor_keeps_the_dtype_that_the_base_stores_it_in(base: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(base, mixed)
    edit_config(mixed, "config.json", dtype="bfloat16")
    edit_tensors(mixed, "model.safetensors", lambda t: {n: v if "norm" in n else v.bfloat16() for n, v in t.items()})
    adapter = save_adapter(tmp_path / "adapter", mixed)
    tensors = merge_plainly(adapter, mixed, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    in_float32 = merge_plainly(adapter, mixed, tmp_path / "float32", "float32")
    theirs = loaded(mixed, adapter).merge_and_unload().state_dict()
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.float32 if "norm" in name else torch.bfloat16)
        torch.testing.assert_close(in_float32[name], theirs[name], atol=1e-6, rtol=1e-6)
        assert torch.equal(tensor, in_float32[name].to(tensor.dtype))


@pytest.mark.training
def test_a_plain_adapter_with_its_proof(base: Path, plain: Path, tmp_path: Path) -> None:
    events = Recorder()
    figures = merge(open_model(plain, base), tmp_path / "out", "float16", events)
    proof = figures["proof"]
    assert proof["adapter_effect"] > 0.01
    assert proof["merge_error"] < 1e-4
    assert 1e-5 < proof["rounding"] < 0.1
    assert 0 < figures["largest_check_error"] < 16
    assert (figures["adapter"], figures["merged_matrices"], figures["rank"]) == ("LoRA", 14, 8)
    assert figures["dtypes"] == {"F16": figures["parameters"]}
    assert figures["bytes"] == 2 * figures["parameters"]
    assert events.warnings == []
    assert list(dict.fromkeys(events.steps)) == ["hashing the model", "comparing verdicts", "merging"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in base.iterdir()}
    for name in names - {"model.safetensors", "config.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    same = merge(open_model(plain, base), tmp_path / "same", "float16", events, proof=False)
    assert same["proof"] == "skipped: not wanted (--no-proof)"
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_a_model_too_large_for_memory_is_merged_without_the_proof_and_says_so(
    base: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantize.merge_proof.available_memory", lambda: 10**8)
    events = Recorder()
    figures = merge(open_model(plain, base), tmp_path / "out", "auto", events)
    assert figures["proof"] == "skipped: the model in float32 needs 1.1 GB of memory, 0.1 GB are free"
    assert len(events.warnings) == 1
    assert "the proof from end to end is skipped" in events.warnings[0]
    assert f"judge drift {plain} {tmp_path / 'out'} --data TABLE" in events.warnings[0]
    assert figures["largest_check_error"] > 0
    assert open_model(tmp_path / "out").shards


def test_free_memory_is_known_here() -> None:
    from judge.hardware.machine import available_memory

    free = available_memory()
    assert free is not None
    assert 0 < free < 2**50


# --- what is refused


def refused(adapter: Path, base: Path, output: Path, message: str, dtype: Dtype = "auto", proof: bool = False) -> None:
    with pytest.raises(JudgeError, match=message) as caught:
        merge(open_model(adapter, base), output, dtype, Recorder(), proof)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    assert not output.with_name(output.name + ".parts").exists()


def layer_tensor(tensors: Tensors, ending: str = "layers.0.self_attn.q_proj.lora_A.weight") -> str:
    return next(name for name in tensors if name.endswith(ending))


def without(ending: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(ending)}


def test_a_whole_model_and_an_output_that_exists(base: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"is a whole model already, .*; quantise it as it is"):
        merge(open_model(base), tmp_path / "out", "auto", Recorder())
    (tmp_path / "there").mkdir()
    with pytest.raises(JudgeError, match="there: exists already; choose another folder with -o, or remove it"):
        merge(open_model(plain, base), tmp_path / "there", "auto", Recorder())


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
    refused(plain, other, tmp_path / "out", "transformers does not know this architecture")


def test_too_little_disk_is_noticed_before_anything_is_written(
    base: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_000))
    refused(plain, base, tmp_path / "new" / "out", r"needs 0\.1 GB of disk, 0\.1 GB are free at")


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


# --- interrupted


def test_an_interrupted_merge_leaves_nothing(base: Path, plain: Path, tmp_path: Path) -> None:
    class Interrupting(Recorder):
        def working(self, what: str, done: int, total: int) -> None:
            if what == "merging" and done > total / 2:
                assert (tmp_path / "out.parts").exists()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(open_model(plain, base), tmp_path / "out", "auto", Interrupting(), False)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


KILLED = """
import os, sys
from pathlib import Path
from judge.models.bundle import open_model
from quantize.merge import merge
from tests.quantize.test_merge import Recorder

class Killed(Recorder):
    def working(self, what, done, total):
        if what == "merging" and done > total / 2:
            os.kill(os.getpid(), 9)

merge(open_model(sys.argv[1], sys.argv[2]), Path(sys.argv[3]), "auto", Killed(), False)
"""


@pytest.mark.training
def test_after_a_killed_merge_the_next_one_starts_over(base: Path, plain: Path, tmp_path: Path) -> None:
    output, parts = tmp_path / "out", tmp_path / "out.parts"
    killed = subprocess.run([sys.executable, "-c", KILLED, plain, base, output], check=False)
    assert killed.returncode == -9
    assert not output.exists()
    assert (parts / "model" / "model.safetensors").exists()
    merge_plainly(plain, base, output, "bfloat16")
    loaded(output)


def test_the_unfinished_work_of_another_command_is_not_dropped(base: Path, plain: Path, tmp_path: Path) -> None:
    parts = tmp_path / "out.parts"
    parts.mkdir()
    (parts / "manifest.json").write_text('{"version": "0", "settings": {"method": "lora"}}')
    (parts / "checkpoint").write_text("work of a day")
    with pytest.raises(JudgeError, match=r"holds an unfinished run with another .*or pass --restart to start over"):
        merge(open_model(plain, base), tmp_path / "out", "auto", Recorder(), False)
    assert (parts / "checkpoint").read_text() == "work of a day"
    merge(open_model(plain, base), tmp_path / "out", "auto", Recorder(), False, restart=True)
    assert not parts.exists()


# --- the chain


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A judge bundle, its base and its training table."""
    from judge.cli.train_progress import TrainingTerminal
    from judge.training.settings import parse_train_settings
    from judge.training.train import train
    from tests.kit.labelled_tables import labelled_rows, write_table

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    base = save_llama(folder / "base", initializer_range=0.1, tie_word_embeddings=True)
    table = write_table(folder / "table.csv", labelled_rows(30))
    values = {"model": str(base), "data": str(table), "template": "rubric", "max_tokens": 420}
    values |= {"learning_rate": 5e-3, "max_steps": 8, "holdout": 0.3, "evaluations": 1}
    train(parse_train_settings(values), folder / "bundle", False, False, TrainingTerminal(quiet=True))
    return {"base": base, "bundle": folder / "bundle", "table": table}


def scores(model: Path, table: Path, output: Path) -> pd.DataFrame:
    command = [Path(sys.executable).parent / "judge", "score", model, table, "-o", output, "--readout=transformers"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: prompts" not in done.stderr
    return pd.read_parquet(output)


@pytest.mark.engine
@pytest.mark.training
def test_a_merged_judge_scores_as_its_bundle_does(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from judge.cli.merge import run_merge

    run_merge(trained["bundle"], tmp_path / "merged", None, "auto", True)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "adapter       LoRA, rank 16"
    assert printed.out.splitlines()[-1].startswith("wrote ")
    assert "merged        14 matrices of 20 tensors" in printed.out
    assert printed.err == ""
    before, after = open_model(trained["bundle"]), open_model(tmp_path / "merged")
    assert before.judge is not None
    assert after.judge is not None
    assert after.adapter is None
    (stage,) = after.judge.stages
    assert after.judge.model_copy(update={"stages": ()}) == before.judge
    assert stage["stage"] == "merged"
    assert stage["trained_on_4bit_base"] is False
    assert stage["proof"]["merge_error"] < 1e-4 < stage["proof"]["adapter_effect"]
    assert "seconds" not in stage
    first = scores(trained["bundle"], trained["table"], tmp_path / "a.parquet")
    second = scores(tmp_path / "merged", trained["table"], tmp_path / "b.parquet")
    columns = ["logprob_a", "logprob_b", "logprob_tie"]
    np.testing.assert_allclose(second[columns], first[columns], atol=1e-4)
    assert second["flags"].tolist() == first["flags"].tolist()
    assert second["flags"].str.contains("trained_on").sum() > 10


@pytest.mark.training
def test_a_bundle_on_a_4_bit_base_says_so_and_another_base_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained["bundle"], bundle)
    edit_config(bundle, "judge.json", method="qlora")
    events = Recorder()
    figures = merge(open_model(bundle), tmp_path / "out", "auto", events, False)
    assert figures["trained_on_4bit_base"] is True
    assert len(events.notes) == 1
    assert "was trained on 4-bit weights" in events.notes[0]
    other = save_llama(tmp_path / "other", initializer_range=0.2, tie_word_embeddings=True)
    refused(bundle, other, tmp_path / "out2", "is not the base model that bundle was trained on")
    (bundle / "trained_rows.npy").unlink()
    refused(bundle, trained["base"], tmp_path / "out2", r"trained_rows\.npy: is missing")


@pytest.mark.training
def test_pressing_ctrl_c_is_said_in_one_line(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from judge.cli.merge import MergeTerminal, run_merge

    def interrupt(_: MergeTerminal, what: str, *__: int) -> None:
        if what == "merging":
            raise KeyboardInterrupt

    monkeypatch.setattr(MergeTerminal, "working", interrupt)
    with pytest.raises(RunInterrupted, match="stopped; nothing is written to"):
        run_merge(trained["bundle"], tmp_path / "out", None, "auto", False)
    assert list(tmp_path.iterdir()) == []
