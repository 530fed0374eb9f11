"""A probe needs a config alone, costs seconds, and predicts by the arithmetic of layers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judge.errors import JudgeError
from judge.models.arithmetic import ModelShape
from judge.planning.probe import _extrapolated, _groups, _lengths, _more_layers, probe
from judge.planning.random_engine import Machine, runnable_config, with_layers

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "vocab_size": 500,
    "dtype": "float32",
}
CPU = Machine((), 2, 1, "float32", 0.9, 1000)


def test_the_time_of_the_full_depth_lies_on_the_line_through_two_depths() -> None:
    shape = ModelShape.from_config(LLAMA)
    lengths = [40, 300]
    flops = [float(ModelShape.from_config(with_layers(LLAMA, layers)).flops(lengths).sum()) for layers in (2, 5, 12)]
    assert flops[2] == float(shape.flops(lengths).sum())
    fixed, each = 0.7, 0.3  # seconds: of what does not depend on depth, and of a layer
    times = [[fixed + layers * each] * 2 for layers in (2, 5)]
    full = _extrapolated(flops[0], flops[1], flops[2], *times)
    assert full == pytest.approx([fixed + 12 * each] * 2)
    assert _extrapolated(flops[0], flops[2], flops[2], times[0], [4.0, 5.0]) == [4.0, 5.0]


def test_a_config_is_cut_to_layers_of_the_same_kinds() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 6
    config = {**LLAMA, "model_type": "gemma3_text", "layer_types": kinds, "sliding_window": 64, "max_window_layers": 9}
    cut = with_layers(config, 6)
    assert cut["num_hidden_layers"] == 6
    assert cut["layer_types"] == kinds[:6]
    assert cut["max_window_layers"] == 6
    assert ModelShape.from_config(cut).windows == (64,) * 5 + (0,)
    assert config["num_hidden_layers"] == 12


def test_the_language_part_of_a_config_becomes_a_config_of_its_own() -> None:
    packed = {"quant_method": "awq", "bits": 4, "group_size": 128}
    nested = {
        "architectures": ["Whole"],
        "text_config": {**LLAMA, "architectures": None},
        "quantization_config": packed,
    }
    for keep in (True, False):
        text = runnable_config(nested, packed=keep)
        assert text["architectures"] == ["LlamaForCausalLM"]
        assert text.get("quantization_config") == (packed if keep else None)
        assert "text_config" not in text
    assert runnable_config(LLAMA, packed=False) == LLAMA


def test_the_lengths_and_groups_are_those_of_the_table() -> None:
    shape = ModelShape.from_config(LLAMA)
    assert _lengths(np.arange(1, 102), shape) == [16, 51, 99]
    assert _lengths([9000.0, float("nan")], shape) == [511]  # one position is the verdict's
    with pytest.raises(JudgeError, match="lengths"):
        _lengths([], shape)
    for group, length in zip(_groups([16, 51, 400], CPU, 500), (16, 51, 400), strict=True):
        assert {len(prompt) for prompt in group} == {length}
        assert abs(len(group) * length - 2000) <= length
        assert max(prompt.max() for prompt in group) < 500


def test_the_depth_is_what_time_and_memory_leave() -> None:
    shape = ModelShape.from_config(LLAMA)
    assert _more_layers(shape, LLAMA, CPU, measured=2.0, few=2, seconds=9.0) == 6  # 9 s of 1.5 s for two layers
    assert _more_layers(shape, LLAMA, CPU, measured=0.1, few=2, seconds=9.0) == 12
    assert _more_layers(shape, LLAMA, CPU, measured=99.0, few=2, seconds=9.0) == 3
    large = {**LLAMA, "hidden_size": 1 << 17, "intermediate_size": 1 << 19, "vocab_size": 1 << 17}
    assert _more_layers(ModelShape.from_config(large), large, CPU, measured=0.1, few=2, seconds=99.0) == 3


@pytest.mark.engine
def test_a_probe_measures_a_config_alone_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said: list[str] = []
    config = json.loads(json.dumps({**LLAMA, "num_hidden_layers": 3}))
    model = probe(config, np.arange(20, 400), device="cpu", batch_tokens=800, say=said.append)
    assert said == ["probing with random weights: 3 of 3 layers, prompts of 39, 210, 391 tokens"]
    assert model.points == 6
    assert "random weights" in model.source
    shape = ModelShape.from_config(config)
    ten, twenty = (model.seconds(float(shape.flops([210] * n).sum()), n, 210 * n).value for n in (10, 20))
    assert 0 < ten < 60
    assert twenty == pytest.approx(2 * ten)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(JudgeError, match="lacks"):
        probe({"model_type": "llama"}, [100])
