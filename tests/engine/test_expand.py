"""The 32-bit copy of 4-bit weights: a plain model with the libraries' values, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from judge.errors import JudgeError
from judge.models.bundle import open_model
from tests.kit.packed_models import AWQ_GROUP, expansion_of, save_compressed, tensors_of
from tests.kit.tiny_models import save_llama

LAYOUTS = ("compressed", "awq")
pytestmark = pytest.mark.usefixtures("common_cache")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_copy_holds_the_libraries_values_and_all_other_tensors(folders: dict[str, Path], layout: str) -> None:
    import torch
    from awq.utils.packing_utils import dequantize_gemm
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    stored = tensors_of(folders[layout])
    copy = tensors_of(expansion_of(folders[layout]).make())
    first = {"compressed": ".weight_packed", "awq": ".qweight"}[layout]
    layers = [name.removesuffix(first) for name in stored if name.endswith(first)]
    assert len(layers) == 14
    scheme = json.loads((folders[layout] / "config.json").read_text())["quantization_config"]
    for layer in layers:
        parts = {name.rpartition(".")[2]: stored.pop(name) for name in list(stored) if name.startswith(f"{layer}.")}
        if layout == "awq":
            scales = parts["scales"].float()
            expected = dequantize_gemm(parts["qweight"], parts["qzeros"], scales, 4, AWQ_GROUP).T
        else:
            group = QuantizationScheme.model_validate(scheme["config_groups"]["group_0"])
            expected = PackedQuantizationCompressor.decompress(parts, group)["weight"]
        assert torch.equal(copy.pop(f"{layer}.weight"), expected)
    assert copy.keys() == stored.keys()
    for name, tensor in stored.items():
        assert copy[name].dtype == torch.float32
        assert torch.equal(copy[name], tensor.float())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_copy_is_a_plain_float32_model_for_transformers(folders: dict[str, Path], layout: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    expansion = expansion_of(folders[layout])
    assert expansion.folder.name == f"{layout}-{expansion.model.weights_digest[:12]}-float32"
    folder = expansion.make()
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], "quantization_config" in config) == ("float32", False)
    assert (folder / "tokenizer.json").read_bytes() == (folders[layout] / "tokenizer.json").read_bytes()
    _, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values())
    opened = open_model(folder)
    assert opened.loaded_bytes(4) == expansion.size


def test_bfloat16_and_tied_embeddings_are_kept(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = save_llama(tmp_path / "base", tie_word_embeddings=True)
    folder = save_compressed(tmp_path / "tied", base, dtype="bfloat16")
    copy = expansion_of(folder).make()
    stored, expanded = tensors_of(folder), tensors_of(copy)
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert torch.equal(expanded["model.embed_tokens.weight"], stored["model.embed_tokens.weight"].float())
    assert "lm_head.weight" not in expanded
    model = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_layer_whose_parts_lie_in_two_files_is_put_together(folders: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    whole = tensors_of(expansion_of(folders["compressed"]).make())
    folder = tmp_path / "sharded"
    shutil.copytree(folders["compressed"], folder)
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    copy = expansion_of(folder).make()
    found = tensors_of(copy)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert len(open_model(copy).shards) == 2


@pytest.mark.usefixtures("cache")
def test_a_copy_is_used_again_unless_damaged_or_of_other_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["awq"], folder)
    expansion = expansion_of(folder)
    assert not expansion.is_made()
    weights = expansion.make() / "model.safetensors"
    content, inode = weights.read_bytes(), weights.stat().st_ino
    assert expansion_of(folder).make() / "model.safetensors" == weights
    assert weights.stat().st_ino == inode
    weights.write_bytes(b"half")
    assert not expansion.is_made()
    expansion.make()
    assert weights.read_bytes() == content
    assert not list(weights.parent.parent.glob("*.parts"))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert expansion_of(folder).folder != expansion.folder


def test_a_write_that_fails_leaves_no_copy(folders: dict[str, Path], tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["compressed"], folder)
    expansion = expansion_of(folder)
    target = expansion.folder
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()  # cannot be copied, which comes after the weights
    with pytest.raises(IsADirectoryError, match=r"tokenizer\.json"):
        expansion.make()
    assert not target.exists()
    assert [p.name for p in (cache / "judge" / "expanded").iterdir() if p.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(JudgeError, match=r"cannot be written \(Not a directory\).*; set XDG_CACHE_HOME to a folder"):
        expansion_of(folders["awq"]).make()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    folders: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**9, 10**9, 3 * 10**7))
    with pytest.raises(JudgeError, match=r"need 0\.0 GB, and 0\.0 GB are free; set XDG_CACHE_HOME"):
        expansion_of(folders["awq"]).make()
    assert [p for p in (cache / "judge" / "expanded").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model.layers.0.mlp.up_proj.weight_zero_point": None}, "up_proj: its weight_zero_point is missing"),
        ({"model.layers.0.mlp.up_proj.weight_g_idx": (4, "int32")}, "up_proj.weight_g_idx: judge cannot expand"),
        ({"model.layers.0.mlp.up_proj.weight_packed": ((3, 3), "int32")}, "weight_packed (3, 3) for a weight of"),
        ({"model.layers.0.mlp.up_proj.weight_scale": ((128, 2), "int32")}, "weight_scale: judge cannot expand I32"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    shutil.copytree(folders["compressed"], folder)
    tensors = tensors_of(folder)
    for name, value in change.items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = torch.zeros(value[0], dtype=getattr(torch, value[1]))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(JudgeError) as error:
        expansion_of(folder)
    assert text in str(error.value)
    assert str(folder) in str(error.value)
