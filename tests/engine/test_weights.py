"""How 4-bit weights are read: as they are stored where an engine has a kernel for them, else expanded, or refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest

from judge.engine.expand import RECORD, without_quantization
from judge.engine.weights import choose_weights, cpu_obstacle
from judge.errors import JudgeError
from judge.hardware import machine
from judge.hardware.kernels import obstacles
from judge.hardware.machine import GIB, Gpu, choose_dtype, vllm_cpu_library
from judge.models.bundle import ModelFolder, open_model
from judge.models.packed import read_quantization
from tests.kit.packed_models import save_compressed
from tests.kit.tiny_models import save_llama

AVX2 = frozenset({"avx", "avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
T4 = Gpu("0", "Tesla T4", 15 * GIB, (7, 5))
V100 = Gpu("1", "Tesla V100", 16 * GIB, (7, 0))
Way = Literal["auto", "stored", "expanded"]
pytestmark = pytest.mark.usefixtures("common_cache")


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
def test_unknown_formats_are_named_on_a_cpu_and_left_to_cuda_engines(
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


def test_a_cpu_with_a_kernel_reads_4_bits_unless_float32_is_asked_for(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "vllm_has_cpu_kernel", lambda: True)
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


def test_packed_weights_on_a_card_before_turing_are_refused(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        (reason,) = obstacles(open_model(folder).config, V100, "float16")
        assert reason.startswith("Tesla V100 (compute capability 7.0): vLLM's wheel holds code for 7.5 and up")


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
    ("model_dtype", "gpus", "model_type", "expected"),
    [
        ("float32", [], "llama", "float16"),
        ("float16", [], "gemma2", "bfloat16"),
        ("bfloat16", [T4], "llama", "float16"),
    ],
)
def test_packed_weights_are_read_in_16_bits(model_dtype: str, gpus: list[Gpu], model_type: str, expected: str) -> None:
    assert choose_dtype("auto", model_dtype, gpus, model_type, packed=True) == expected


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
