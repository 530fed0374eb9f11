"""4-bit weights mean the same numbers everywhere: unpacked by judge, by the libraries that write them, by engines."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from judge.engine.expand import RECORD, Expansion, without_quantization
from judge.engine.weights import choose_weights, cpu_obstacle
from judge.errors import JudgeError
from judge.hardware import machine
from judge.hardware.machine import GIB, Gpu, choose_packed_dtype, vllm_cpu_library
from judge.models.bundle import ModelFolder, open_model
from judge.models.packed import awq_values, pack_quantized_values, read_quantization, unpack
from judge.prompting.verdict import probabilities
from judge.runs.folder import RunFolder, differences
from judge.scoring.reading import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows
from tests.kit.packed_models import AWQ_GROUP, save_awq, save_compressed
from tests.kit.tiny_models import save_adapter, save_llama

AVX2 = frozenset({"avx", "avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
T4 = Gpu("0", "Tesla T4", 15 * GIB, (7, 5))
V100 = Gpu("1", "Tesla V100", 16 * GIB, (7, 0))
LAYOUTS = ("compressed", "awq")
Way = Literal["auto", "stored", "expanded"]

needs_kernel = pytest.mark.skipif(
    not machine.vllm_has_cpu_kernel(), reason="vLLM has no 4-bit kernel for this CPU (its CPU build wants AVX-512)"
)


@pytest.fixture(scope="module", autouse=True)
def common_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing goes into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("common-cache")))
        yield


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "source"
    return save_llama(folder, initializer_range=0.15)


@pytest.fixture(scope="module")
def folders(source: Path) -> dict[str, Path]:
    return {
        "compressed": save_compressed(source.with_name("compressed"), source),
        "awq": save_awq(source.with_name("awq"), source),
    }


def expansion_of(folder: Path) -> Expansion:
    model = open_model(folder)
    quantization = read_quantization(model.quantization)
    assert quantization is not None
    return Expansion(model, quantization)


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


# the values


def test_codes_are_read_from_the_lowest_bits_up() -> None:
    words = np.array([[0x76543210, -0x01234568]], np.int32)  # the second is 0xFEDCBA98
    np.testing.assert_array_equal(unpack(words, 4), [range(16)])
    np.testing.assert_array_equal(unpack(words, 8), [[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]])


def test_compressed_tensors_values_are_code_minus_zero_times_scale() -> None:
    packed = np.array([[0x76543210], [0x0F0F0F0F]], np.int32)
    scale = np.array([[0.5, 2.0], [1.0, 0.25]], np.float32)
    zeros = np.array([[0x51, 0xF0]], np.int32)  # of outputs 0 and 1, for both groups: 1 and 5, 0 and 15
    expected = [[-0.5, 0, 0.5, 1, 8, 10, 12, 14], [10, -5, 10, -5, 0, -3.75, 0, -3.75]]
    np.testing.assert_array_equal(pack_quantized_values(packed, scale, (2, 8), zeros, (4,)), expected)
    symmetric = [[-4, -3.5, -3, -2.5, -8, -6, -4, -2], [7, -8, 7, -8, 1.75, -2, 1.75, -2]]
    np.testing.assert_array_equal(pack_quantized_values(packed, scale, (2, 8), None, (4,)), symmetric)


def test_awq_values_undo_the_order_of_outputs_in_a_word() -> None:
    # eight outputs, two inputs in one group; a word holds outputs 0 2 4 6 1 3 5 7 from its lowest bits up
    qweight = np.array([[0x75316420], [0x11111111]], np.int32)
    scales = np.array([[1, 2, 4, 8, 16, 32, 64, 128]], np.float32)
    qzeros = np.array([[0x22222222]], np.int32)
    expected = [[(output - 2) * 2.0**output, -(2.0**output)] for output in range(8)]
    np.testing.assert_array_equal(awq_values(qweight, scales, qzeros), expected)


@given(
    st.sampled_from([4, 8]), st.integers(1, 40), st.integers(1, 4), st.sampled_from([2, 8, 24, 32, 64]), st.booleans(),
    st.sampled_from(["float32", "float16", "bfloat16"]), st.integers(0, 2**16),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_compressed_tensors_own_decompressor(
    bits: int, outputs: int, groups: int, group: int, symmetric: bool, dtype: str, seed: int
) -> None:
    import torch
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    torch.manual_seed(seed)
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (outputs, groups * group), dtype=torch.int8)
    zeros = torch.randint(-half, half, (outputs, groups), dtype=torch.int8)
    # the library multiplies in the scale's dtype; float32 gives what it stands for
    scale = torch.rand(outputs, groups).to(getattr(torch, dtype)).float()
    state = {"weight_packed": pack_to_int32(codes, bits), "weight_scale": scale}
    state["weight_shape"] = torch.tensor(codes.shape)
    if not symmetric:
        state["weight_zero_point"] = pack_to_int32(zeros, bits, packed_dim=0).contiguous()
    args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=group)
    expected = PackedQuantizationCompressor.decompress(state, QuantizationScheme(targets=["Linear"], weights=args))
    zero_point = None if symmetric else state["weight_zero_point"].numpy()
    shape = (outputs, groups * group)
    found = pack_quantized_values(state["weight_packed"].numpy(), scale.numpy(), shape, zero_point, (bits,))
    np.testing.assert_array_equal(found, expected["weight"].numpy())


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 4, 32, 64]), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_autoawqs_own_unpacking(columns: int, groups: int, group: int, seed: int) -> None:
    import torch
    from awq.utils.packing_utils import dequantize_gemm

    generator = torch.Generator().manual_seed(seed)
    low, high = -(2**31), 2**31 - 1
    qweight = torch.randint(low, high, (groups * group, columns), generator=generator).int()
    qzeros = torch.randint(low, high, (groups, columns), generator=generator).int()
    scales = torch.rand(groups, columns * 8, generator=generator).half().float()
    expected = dequantize_gemm(qweight, qzeros, scales, 4, group).T
    found = awq_values(qweight.numpy(), scales.numpy(), qzeros.numpy())
    np.testing.assert_array_equal(found, expected.numpy())


# the copy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_copy_holds_the_libraries_values_and_all_other_tensors_as_they_were(
    folders: dict[str, Path], layout: str
) -> None:
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
    assert opened.loaded_bytes(4) == expansion.size == expansion.parameters * 4


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
def test_a_copy_is_used_again_unless_it_is_damaged_or_the_weights_are_others(
    folders: dict[str, Path], tmp_path: Path
) -> None:
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


# what is read how


def with_config(folder: Path, source: Path, quantization: dict[str, Any] | None) -> ModelFolder:
    shutil.copytree(source, folder)
    config = without_quantization(json.loads((folder / "config.json").read_text()))
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    return open_model(folder)


FORMATS: list[tuple[dict[str, Any], str]] = [
    ({"quant_method": "gptq", "bits": 4}, "gptq"),
    ({"quant_method": "fp8"}, "fp8"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemv"}, "awq gemv, 4 bits"),
    ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "compressed-tensors float-quantized"),
    ({}, "unknown"),
]


@pytest.mark.parametrize(("quantization", "name"), FORMATS)
def test_formats_that_cannot_be_expanded_are_named_on_a_cpu_and_left_to_the_engine_on_cuda(
    source: Path, tmp_path: Path, quantization: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: AVX2)
    model = with_config(tmp_path / "model", source, quantization or {"bits": 4})
    expected = f"model is quantised as {name}: this CPU has no 4-bit kernel, and judge expands"
    with pytest.raises(JudgeError, match=expected):
        choose_weights(model, "auto", "vllm", "auto", [])
    with pytest.raises(JudgeError, match=f"quantised as {name}: --readout=transformers reads no quantised weights"):
        choose_weights(model, "auto", "transformers", "auto", [])
    with pytest.raises(JudgeError, match=f"--weights=expanded: model is quantised as {name}; judge expands"):
        choose_weights(model, "expanded", "vllm", "auto", [T4])
    assert choose_weights(model, "auto", "vllm", "auto", [T4]).way == "stored"


def test_a_cpu_without_kernel_expands_and_says_why(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: AVX2)  # vLLM's library for it is there, and is looked into
    for folder in folders.values():
        weights = choose_weights(open_model(folder), "auto", "vllm", "auto", [])
        said: list[str] = []
        weights.make_ready(said.append)
        assert weights.way == "expanded"
        assert said == [
            f"4-bit weights expanded to 32 bits (0.00 GB in {weights.folder}), since this CPU has no 4-bit kernel: "
            "slower, same numbers"
        ]
        assert (Path(weights.folder) / RECORD).exists()
        with pytest.raises(JudgeError, match="this CPU has no 4-bit kernel; use --weights=expanded"):
            choose_weights(open_model(folder), "stored", "vllm", "auto", [])


@needs_kernel
def test_a_cpu_with_a_kernel_reads_4_bits_as_they_are_unless_float32_is_asked_for(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        model = open_model(folder)
        assert choose_weights(model, "auto", "vllm", "auto", []).way == "stored"
        assert choose_weights(model, "auto", "vllm", "float32", []).way == "expanded"
        assert choose_weights(model, "auto", "transformers", "auto", []).way == "expanded"
        with pytest.raises(JudgeError, match="does not compute in float32; use --weights=expanded"):
            choose_weights(model, "stored", "vllm", "float32", [])


def test_layers_that_the_cpu_kernel_does_not_take_are_expanded(tmp_path: Path) -> None:
    narrow = save_llama(tmp_path / "base", hidden_size=48, intermediate_size=112, num_attention_heads=3)
    model = open_model(save_compressed(tmp_path / "narrow", narrow, group=16))
    quantization = read_quantization(model.quantization)
    assert quantization is not None
    assert "takes multiples of 32, and model.layers.0.mlp.down_proj is" in cpu_obstacle(
        model, quantization, True, "auto"
    )
    eight = open_model(save_compressed(tmp_path / "eight", narrow, bits=8, group=16))
    quantization = read_quantization(eight.quantization)
    assert quantization is not None
    assert cpu_obstacle(eight, quantization, True, "auto") == "vLLM's kernel for CPUs reads 4 bits only"


@pytest.mark.parametrize(
    ("readout", "dtype", "gpus", "wanted", "outcome"),
    [
        ("vllm", "auto", [T4], "auto", "stored"),
        ("vllm", "float16", [T4], "stored", "stored"),
        ("vllm", "auto", [T4], "expanded", "expanded"),
        ("transformers", "auto", [T4], "auto", "expanded"),
        ("transformers", "auto", [T4], "stored", "--readout=transformers reads no packed weights; use"),
        ("vllm", "auto", [T4, V100], "auto", r"Tesla V100 \(compute capability 7.0\) has no kernels for 4-bit weights"),
        ("vllm", "auto", [V100], "expanded", "expanded"),
        ("vllm", "float32", [T4], "auto", "compute in float16 or bfloat16; leave out --dtype=float32"),
    ],
)
def test_the_choice_on_cards(
    folders: dict[str, Path], readout: str, dtype: str, gpus: list[Gpu], wanted: Way, outcome: str
) -> None:
    for folder in folders.values():
        model = open_model(folder)
        if outcome in ("stored", "expanded"):
            assert choose_weights(model, wanted, readout, dtype, gpus).way == outcome
        else:
            with pytest.raises(JudgeError, match=outcome):
                choose_weights(model, wanted, readout, dtype, gpus)


def test_a_model_in_floats_has_nothing_to_expand(source: Path) -> None:
    ways: tuple[Way, ...] = ("auto", "stored")
    for wanted in ways:
        weights = choose_weights(open_model(source), wanted, "vllm", "auto", [])
        assert (weights.way, weights.folder) == ("stored", str(source))
    with pytest.raises(JudgeError, match="--weights=expanded: source is not quantised; leave the flag out"):
        choose_weights(open_model(source), "expanded", "vllm", "auto", [])


def test_the_memory_on_a_card_is_that_of_the_way_that_is_chosen(folders: dict[str, Path]) -> None:
    model = open_model(folders["awq"])
    stored = choose_weights(model, "stored", "vllm", "auto", [T4])
    expanded = choose_weights(model, "expanded", "vllm", "auto", [T4])
    expanded.make_ready(lambda _: None)
    assert expanded.loaded_bytes(2) == 2 * open_model(expanded.folder).loaded_bytes(1)
    assert model.weights * 0.9 < stored.loaded_bytes(2) < model.weights
    assert stored.loaded_bytes(2) < expanded.loaded_bytes(2)


@pytest.mark.parametrize(
    ("model_dtype", "gpus", "float16", "expected"),
    [
        ("float32", [], True, "float16"),
        ("float16", [], False, "bfloat16"),
        ("bfloat16", [T4], True, "float16"),
    ],
)
def test_packed_weights_are_read_in_16_bits(model_dtype: str, gpus: list[Gpu], float16: bool, expected: str) -> None:
    assert choose_packed_dtype("auto", model_dtype, gpus, float16) == expected


@pytest.mark.parametrize(
    ("flags", "machine", "library"),
    [
        (AVX2, "x86_64", "_C_AVX2"),
        (AVX512, "x86_64", "_C_AVX512"),
        (AVX512 | {"avx512_bf16"}, "x86_64", "_C"),
        (AVX2 | {"avx512f"}, "x86_64", "_C_AVX2"),
        (frozenset(), "aarch64", "_C"),
    ],
)
def test_the_library_is_the_one_that_vllm_loads(flags: frozenset[str], machine: str, library: str) -> None:
    assert vllm_cpu_library(flags, machine) == library


def test_what_this_machine_is_taken_for_is_what_vllm_finds() -> None:
    import torch

    cpu = torch.cpu
    bf16 = cpu._is_avx512_supported() and cpu._is_avx512_bf16_supported()
    expected = "_C" if bf16 else "_C_AVX512" if cpu._is_avx512_supported() else "_C_AVX2"
    assert vllm_cpu_library(machine.cpu_flags(), os.uname().machine) == expected


# scoring


def read(model: ModelFolder, folder: Path, **values: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Return the log-probabilities of a small table, and what was said."""
    events = Notes()
    table = Table("table", frame=pd.DataFrame(labelled_rows(12)))
    chosen = ScoreSettings.model_validate({"max_tokens": 300, **values})
    with RunFolder(folder) as run, Scorer(model, chosen, folder) as scorer:
        return scorer.score(table, run, events).first, events.notes


class Notes(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def furthest(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the largest difference of the three probabilities."""
    return float(np.abs(probabilities(a) - probabilities(b)).max())


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """What transformers reads in each model, in float32."""
    found = {}
    for layout, folder in folders.items():
        found[layout], notes = read(open_model(folder), tmp_path_factory.mktemp("reference"), readout="transformers")
        assert len(notes) == 1
        assert "since --readout=transformers reads no packed weights" in notes[0]
        assert found[layout].std(axis=0).min() > 0.05  # rows differ, so that agreement means something
    return found


@pytest.mark.engine
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vllm_reads_the_copy_as_transformers_does(
    folders: dict[str, Path], reference: dict[str, NDArray[np.float64]], tmp_path: Path, layout: str
) -> None:
    expanded, notes = read(open_model(folders[layout]), tmp_path, weights="expanded")
    assert len(notes) == 1
    assert "since --weights=expanded asks for it" in notes[0]
    assert furthest(expanded, reference[layout]) <= 1e-4


@pytest.mark.engine
@needs_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vllms_own_kernel_is_within_16_bits_of_the_copy(
    folders: dict[str, Path], reference: dict[str, NDArray[np.float64]], tmp_path: Path, layout: str
) -> None:
    stored, notes = read(open_model(folders[layout]), tmp_path, weights="stored")
    assert notes == []
    assert 0 < furthest(stored, reference[layout]) <= 5e-3


@pytest.mark.engine
def test_an_adapter_on_a_4_bit_base_is_read_by_either_engine(
    folders: dict[str, Path], reference: dict[str, NDArray[np.float64]], tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path / "adapter", expansion_of(folders["compressed"]).make())
    model = open_model(adapter, base=folders["compressed"])
    adapted, _ = read(model, tmp_path / "transformers", readout="transformers")
    assert furthest(adapted, reference["compressed"]) > 0.05
    expanded, _ = read(model, tmp_path / "expanded", weights="expanded")
    assert furthest(expanded, adapted) <= 1e-4
    if machine.vllm_has_cpu_kernel():
        stored, _ = read(model, tmp_path / "stored", weights="stored")
        assert furthest(stored, adapted) <= 5e-3


def test_an_adapter_for_another_size_is_refused_before_the_base_is_expanded(
    folders: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    other = save_llama(tmp_path / "other", hidden_size=32, intermediate_size=96)
    model = open_model(save_adapter(tmp_path / "adapter", other), base=folders["awq"])
    with pytest.raises(JudgeError, match=r"does not fit .*: .* is for a layer of"):
        Scorer(model, ScoreSettings(readout="transformers", max_tokens=300), tmp_path)
    assert not (cache / "judge").exists()


def test_a_run_is_not_continued_in_the_other_way(folders: dict[str, Path], tmp_path: Path) -> None:
    model = open_model(folders["awq"])
    table = Table("table", frame=pd.DataFrame(labelled_rows(2)))
    scorer = Scorer(model, ScoreSettings(readout="transformers", max_tokens=300), tmp_path)
    manifest = scorer.manifest(table)
    assert manifest["settings"]["weights"] == "expanded"
    assert manifest["model"] == model.digest()
    other = {**manifest, "settings": {**manifest["settings"], "weights": "stored"}}
    assert differences(other, manifest) == ["weights (stored before, expanded now)"]
