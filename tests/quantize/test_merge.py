"""What `judge merge` writes, and what an interrupted merge leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.tensor_files import read_entries
from quantize.merge import merge
from quantize.merge_plan import Dtype
from tests.kit.recorded_progress import RecordedProgress
from tests.kit.tiny_models import edit_config, save_adapter
from tests.quantize.merging import edit_tensors, loaded, merge_plainly

pytestmark = pytest.mark.usefixtures("one_thread")


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
    events = RecordedProgress()
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
    steps = list(dict.fromkeys(name for name, *_ in events.steps))
    assert steps == [
        "hashing the model",
        "comparing verdicts",
        "merging",
    ]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in base.iterdir()}
    for name in names - {"model.safetensors", "config.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    same = merge(open_model(plain, base), tmp_path / "same", "float16", events, proof=False)
    assert same["proof"] == "skipped: not wanted (--no-proof)"
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_a_model_too_large_for_memory_is_merged_without_the_proof(
    base: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantize.merge_proof.available_memory", lambda: 10**8)
    events = RecordedProgress()
    figures = merge(open_model(plain, base), tmp_path / "out", "auto", events)
    assert figures["proof"] == "skipped: the model in float32 needs 1.1 GB of memory, 0.1 GB are free"
    assert len(events.warnings) == 1
    assert "the proof from end to end is skipped" in events.warnings[0]
    assert f"judge drift {plain} {tmp_path / 'out'} --data TABLE" in events.warnings[0]
    assert figures["largest_check_error"] > 0
    assert open_model(tmp_path / "out").shards


def test_an_interrupted_merge_leaves_nothing(base: Path, plain: Path, tmp_path: Path) -> None:
    class Interrupting(RecordedProgress):
        def step(self, what: str, done: Any = None, total: Any = None, text: str = "", rate: str = "") -> None:
            del text, rate
            if what == "merging" and done > total / 2:
                assert (tmp_path / "out.parts").exists()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(open_model(plain, base), tmp_path / "out", "auto", Interrupting(), False)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.training
def test_after_a_killed_merge_the_next_one_starts_over(base: Path, plain: Path, tmp_path: Path) -> None:
    output, parts = tmp_path / "out", tmp_path / "out.parts"
    program = Path(__file__).with_name("killed_merge.py")
    killed = subprocess.run([sys.executable, program, plain, base, output], check=False)
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
    with pytest.raises(JudgeError, match="holds something that judge merge did not leave there; move it away"):
        merge(open_model(plain, base), tmp_path / "out", "auto", RecordedProgress(), False)
    assert (parts / "checkpoint").read_text() == "work of a day"
    merge(open_model(plain, base), tmp_path / "out", "auto", RecordedProgress(), False, restart=True)
    assert not parts.exists()
