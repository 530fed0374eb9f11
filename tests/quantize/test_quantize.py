"""Quantising with both back ends, for real, on a tiny model: the codes are right, and nothing is half done."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from judge.errors import JudgeError, RunInterrupted
from judge.models.bundle import open_model
from judge.models.calibration import Calibration
from judge.models.judge_file import store_calibration
from quantize.awq import quantize_model
from quantize.layers import find_layers, size_report
from quantize.output import check_disk, check_memory, estimate_memory, output_bytes
from quantize.settings import QuantizeSettings
from tests.kit.four_bits import factors_within, read_packed, read_tensors
from tests.kit.judge_bundles import save_judge
from tests.kit.recorded_progress import RecordedProgress
from tests.kit.tiny_models import save_adapter, save_llama

pytestmark = pytest.mark.training

BACK_ENDS = ("llm-compressor", "autoawq")
GROUP = 64
# Of a step: float16 keeps 11 bits of the norms, the weights and the scales, which are up to 15 steps large.
SLACK = 0.03


class Watcher(RecordedProgress):
    """Keeps the progress, and presses Ctrl-C when so many blocks are done."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def step(
        self, what: str, done: float | None = None, total: float | None = None, text: str = "", rate: str = ""
    ) -> None:
        super().step(what, done, total, text, rate)
        if what == "quantising" and done == self.stop_at:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Quantised:
    source: Path
    output: Path
    ids: list[list[int]]
    figures: dict[str, Any]
    watcher: Watcher

    @property
    def before(self) -> dict[str, NDArray[np.float64]]:
        return {name: tensor.double().numpy() for name, tensor in read_tensors(self.source).items()}


def uneven_llama(folder: Path, **config: Any) -> Path:
    """Save a tiny Llama of which some channels are much more active than others, as in real models."""
    import torch
    from transformers import AutoModelForCausalLM

    save_llama(folder, initializer_range=0.1, **{"num_key_value_heads": 2, **config})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(torch.exp(torch.randn(weight.shape) * 0.7))
    model.save_pretrained(folder)
    return folder


def some_prompts(folder: Path, count: int = 6) -> list[list[int]]:
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    pick = np.random.default_rng(0)
    return [pick.integers(3, vocabulary, 20 + 3 * i).tolist() for i in range(count)]


def run(source: Path, output: Path, backend: Any, watcher: Watcher | None = None, **settings: Any) -> Quantised:
    ids = some_prompts(source)
    watcher = watcher or Watcher()
    wanted = QuantizeSettings(backend=backend, **{"grid": 8, **settings})
    _, figures = quantize_model(open_model(source), output, ids, wanted, watcher, memory=lambda: 64 << 30)
    return Quantised(source, output, ids, figures, watcher)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge with a calibration."""
    folder = tmp_path_factory.mktemp("source")
    judge = save_judge(uneven_llama(folder / "tiny"), folder / "judge")
    store_calibration(judge, Calibration(method="temperature", scale=(0.5, 0.5, 0.5), bias=(0, 0, 0)))
    return judge


@pytest.fixture(scope="module", params=BACK_ENDS)
def done(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    """The tiny model in 4 bits, by each back end."""
    return run(source, tmp_path_factory.mktemp("out") / "four", request.param)


def blocks_of(done: Quantised) -> list[str]:
    return [f"model.layers.{i}" for i in range(open_model(done.source).text_config["num_hidden_layers"])]


def input_scales(done: Quantised, norm: str) -> NDArray[np.float64]:
    """Return AWQ's scale of each input channel behind a norm: what the norm's weight was divided by."""
    after = read_tensors(done.output)[f"{norm}.weight"].double().numpy()
    scales: NDArray[np.float64] = done.before[f"{norm}.weight"] / after
    return scales


def test_golden_layers_behind_a_norm_are_within_half_a_step(done: Quantised) -> None:
    tensors, checked = read_tensors(done.output), 0
    for block in blocks_of(done):
        for norm, layers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj",)),
        ):
            scales = input_scales(done, f"{block}.{norm}")
            assert scales.max() / scales.min() > 1.2, "AWQ scaled nothing: this test would show nothing"
            for layer in layers:
                packed = read_packed(tensors, f"{block}.{layer}")
                scaled = done.before[f"{block}.{layer}.weight"] * scales
                assert packed.group_size == GROUP
                error = np.abs(packed.weight - scaled) / packed.steps
                assert error.max() <= 0.5 + SLACK, layer
                # and no code is wasted: the zero point is where zero lies in the group, the scale its range over 15
                groups = scaled.reshape(scaled.shape[0], -1, GROUP)
                low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
                assert np.abs(packed.zeros + low / packed.scales).max() <= 0.5 + SLACK
                np.testing.assert_allclose(packed.scales, (high - low) / 15, rtol=4e-3)
                checked += 1
    assert checked == 6


def test_golden_layers_behind_a_layer_are_within_half_a_step(done: Quantised) -> None:
    """Their scales stand in the rows of the layer before, which are rounded: bounds on both must meet."""
    tensors, checked = read_tensors(done.output), 0
    for block in blocks_of(done):
        for norm, before, layer in (
            ("input_layernorm", "self_attn.v_proj", "self_attn.o_proj"),
            ("post_attention_layernorm", "mlp.up_proj", "mlp.down_proj"),
        ):
            first, second = (read_packed(tensors, f"{block}.{name}") for name in (before, layer))
            scaled = done.before[f"{block}.{before}.weight"] * input_scales(done, f"{block}.{norm}")
            row_low, row_high = factors_within(scaled, first, SLACK, axis=1)  # of 1/s, (outputs,)
            column_low, column_high = factors_within(done.before[f"{block}.{layer}.weight"], second, SLACK, axis=0)
            assert (row_low > 0).all()
            assert (column_low > 0).all()
            low, high = np.maximum(1 / row_high, column_low), np.minimum(1 / row_low, column_high)
            assert (low <= high).all(), layer
            assert np.median(high / low) < 1.1, "the bounds are too wide to show anything"
            checked += 1
    assert checked == 4


def test_the_head_embeddings_and_norms_stay_in_16_bits(done: Quantised) -> None:
    import torch

    tensors = read_tensors(done.output)
    floats = {name for name, tensor in tensors.items() if name.endswith(".weight")}
    norms = {name for name in done.before if "norm" in name}
    assert floats == {"lm_head.weight", "model.embed_tokens.weight", *norms}
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values() if tensor.is_floating_point())
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        np.testing.assert_array_equal(tensors[name].numpy(), done.before[name].astype(np.float16))


def test_the_libraries_read_the_same_numbers(done: Quantised) -> None:
    import torch

    tensors = read_tensors(done.output)
    names = [layer.name for layer in find_layers(open_model(done.source)).linear]
    assert len(names) == 14
    for name in names:
        ours = read_packed(tensors, name)
        if f"{name}.qweight" in tensors:
            from awq.utils.packing_utils import dequantize_gemm

            parts = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
            theirs = dequantize_gemm(*parts, 4, GROUP).T
        else:
            from compressed_tensors.compressors import BaseCompressor
            from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

            config = json.loads((done.output / "config.json").read_text())["quantization_config"]
            weights = QuantizationArgs.model_validate(config["config_groups"]["group_0"]["weights"])
            parts_of = {key.rsplit(".", 1)[1]: t for key, t in tensors.items() if key.startswith(f"{name}.")}
            compressor = BaseCompressor.get_value_from_registry("pack-quantized")
            scheme = QuantizationScheme(targets=["Linear"], weights=weights)
            theirs = compressor.decompress(parts_of, scheme)["weight"]
        torch.testing.assert_close(theirs.double(), torch.from_numpy(ours.weight), rtol=1e-3, atol=1e-6)


def logprobs(model: Any, ids: list[list[int]]) -> NDArray[np.float64]:
    """Return the log-probabilities of the whole vocabulary behind each prompt."""
    import torch

    with torch.no_grad():
        rows = [model(torch.tensor([row])).logits[0, -1].double().log_softmax(-1) for row in ids]
    result: NDArray[np.float64] = torch.stack(rows).numpy()
    return result


def test_the_4_bit_model_says_nearly_what_the_original_says(done: Quantised) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(done.source, dtype=torch.float32)
    before = logprobs(model, done.ids)
    tensors = read_tensors(done.output)
    state = {name: tensor.float() for name, tensor in tensors.items() if name.endswith(".weight")}
    for layer in find_layers(open_model(done.source)).linear:
        state[f"{layer.name}.weight"] = torch.from_numpy(read_packed(tensors, layer.name).weight).float()
    model.load_state_dict(state)
    after = logprobs(model, done.ids)
    model.load_state_dict({name: torch.from_numpy(w).float() for name, w in done.before.items()})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("proj.weight"):
                weight.copy_(weight[torch.randperm(len(weight))])  # the same numbers in the wrong place
    wrong = logprobs(model, done.ids)
    change = float((np.exp(before) * (before - after)).sum(axis=1).mean())
    wrong_change = float((np.exp(before) * (before - wrong)).sum(axis=1).mean())
    assert 0 < change < wrong_change / 10


def test_the_folder_is_a_whole_model_with_what_the_source_had(done: Quantised) -> None:
    opened = open_model(done.output)
    method = {"llm-compressor": "compressed-tensors", "autoawq": "awq"}[done.figures["backend"]]
    assert opened.config["quantization_config"]["quant_method"] == method
    assert opened.config["dtype"] == "float16"
    names = {path.name for path in done.output.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} <= names
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (done.output / name).read_bytes() == (done.source / name).read_bytes()
    assert not [name for name in names if name.endswith((".bin", ".pt", ".tmp", "yaml"))]
    assert sorted(path.name for path in done.output.parent.iterdir()) == ["four"]


def test_a_calibration_of_the_16_bit_judge_is_left_out_and_that_is_said(done: Quantised) -> None:
    before, after = (open_model(folder).judge for folder in (done.source, done.output))
    assert before is not None
    assert after is not None
    assert before.calibration is not None
    assert after == before.uncalibrated().with_stage("quantized", **done.figures)
    said = "the judge's calibration was fitted to its 16-bit verdicts and is left out"
    assert sum(said in note for note in done.watcher.notes) == 1


def test_progress_goes_by_layers(done: Quantised) -> None:
    names = [name for name, *_ in done.watcher.steps]
    assert list(dict.fromkeys(names)) == ["loading the model", "quantising", "writing the 4-bit model"]
    steps = done.watcher.named("quantising")
    assert len(steps) == 2
    assert [total for _, total in steps] == [2, 2]
    assert steps[0][0] == steps[1][0] - 1  # type: ignore[operator]


def test_the_record_has_what_was_done_with_what(done: Quantised) -> None:
    figures = done.figures
    assert figures["group_size"] == GROUP
    assert figures["bits"] == 4
    assert figures["calibration"] == {"samples": 6, "tokens": sum(map(len, done.ids))}
    assert figures["versions"][{"llm-compressor": "llmcompressor"}.get(figures["backend"], "autoawq")]
    assert json.loads(json.dumps(figures)) == figures


def test_the_size_report_counts_parameters_as_the_model_does(done: Quantised) -> None:
    report = size_report(done.output)
    layers = find_layers(open_model(done.source))
    assert (report.parameters, report.quantised) == (layers.parameters, layers.quantised)
    assert report.parameters == sum(weight.size for weight in done.before.values())
    assert report.bytes == sum(path.stat().st_size for path in done.output.glob("*.safetensors"))
    assert report.share == layers.quantised / layers.parameters
    assert 0 < report.bytes - output_bytes(layers, GROUP) < 8192  # the header, and shapes
    assert "above it, because" in dict(report.lines())["bytes/param"]
    assert size_report(done.source).quantised == 0
    assert size_report(done.source).bytes_per_parameter == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("backend", BACK_ENDS)
def test_the_same_input_gives_the_same_bytes(source: Path, tmp_path: Path, backend: str) -> None:
    files = [run(source, tmp_path / name, backend, grid=4).output / "model.safetensors" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("backend", BACK_ENDS)
def test_a_tied_head_is_written_once_and_stays_the_embeddings(tmp_path: Path, backend: str) -> None:
    tied = uneven_llama(tmp_path / "tied", tie_word_embeddings=True, num_hidden_layers=1)
    out = run(tied, tmp_path / "out", backend, grid=4).output
    tensors = read_tensors(out)
    assert "lm_head.weight" not in tensors
    assert open_model(out).config["tie_word_embeddings"] is True
    embeddings = read_tensors(tied)["model.embed_tokens.weight"]
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"].numpy(), embeddings.half().numpy())


@pytest.mark.parametrize("backend", BACK_ENDS)
def test_an_interrupted_run_leaves_nothing_and_the_next_one_works(source: Path, tmp_path: Path, backend: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunInterrupted, match="nothing is kept, as quantising cannot go on"):
        run(source, out, backend, Watcher(stop_at=1))
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / "out.parts"  # of a process that was killed
    (left / "model").mkdir(parents=True)
    (left / "model" / "config.json").write_text("{}")
    (left / "manifest.json").write_text(json.dumps({"command": "judge quantize"}, indent=1))
    run(source, out, backend, grid=4)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert open_model(out).config["quantization_config"]


def test_clipping_keeps_the_layout_and_narrows_ranges(tmp_path: Path) -> None:
    wide = uneven_llama(tmp_path / "wide", num_hidden_layers=1)
    plain, clipped = (run(wide, tmp_path / str(clip), "autoawq", grid=4, clip=clip) for clip in (False, True))
    name = "model.layers.0.mlp.down_proj"
    a, b = (read_packed(read_tensors(done.output), name) for done in (plain, clipped))
    assert (b.scales <= a.scales * 1.001).all()  # a clipped range is never wider
    assert (b.scales < a.scales * 0.99).any()


def test_float32_values_beyond_float16_become_bfloat16_or_are_refused(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    large = save_llama(tmp_path / "large", initializer_range=0.1, num_hidden_layers=1)
    model = AutoModelForCausalLM.from_pretrained(large, dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[2, 0] = 1e5  # a token that no prompt has
    model.save_pretrained(large)
    out = run(large, tmp_path / "out", "llm-compressor", grid=4).output
    assert open_model(out).dtype == "bfloat16"
    assert float(read_tensors(out)["model.embed_tokens.weight"][2, 0]) == pytest.approx(1e5, rel=1e-2)
    with pytest.raises(JudgeError, match=r"embed_tokens.weight holds values beyond float16.*--backend=llm-compressor"):
        run(large, tmp_path / "other", "autoawq", grid=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "out"]


def refused(source: Path, output: Path, text: str, **settings: Any) -> None:
    ids = [[5, 6, 7]]
    there = sorted(output.parent.iterdir())
    with pytest.raises(JudgeError, match=text) as error:
        quantize_model(open_model(source), output, ids, QuantizeSettings(**settings), Watcher())
    assert "\n" not in str(error.value)
    assert sorted(output.parent.iterdir()) == there


def test_what_cannot_be_quantised_is_refused_in_one_line(source: Path, done: Quantised, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(done.output, out, "is quantised already")
    refused(
        save_adapter(tmp_path / "adapter", source), out, "is an adapter on a base model; merge it first: judge merge"
    )
    refused(source, done.output, "exists already")
    with pytest.raises(JudgeError, match="there is no folder"):
        run(source, tmp_path / "no" / "such", "autoawq")
    refused(source, out, r"layer model.layers.0.self_attn.q_proj has 64 inputs, which groups of 128", group_size=128)
    (tmp_path / "other.parts").mkdir()
    (tmp_path / "other.parts" / "manifest.json").write_text('{"model": "a training run"}')
    refused(source, tmp_path / "other", "holds something that judge quantize did not leave there")


def test_architectures_that_a_back_end_does_not_know_are_refused(source: Path, tmp_path: Path) -> None:
    new = shutil.copytree(source, tmp_path / "new")
    config = json.loads((new / "config.json").read_text())
    (new / "config.json").write_text(
        json.dumps({**config, "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"]})
    )
    refused(new, tmp_path / "out", "llm-compressor's AWQ does not know the architecture SmolLM3ForCausalLM")
    refused(new, tmp_path / "out", "AutoAWQ.*does not know the model type smollm3", backend="autoawq")
    (new / "config.json").write_text(json.dumps({**config, "model_type": "nothing-such"}))
    refused(new, tmp_path / "out", "transformers cannot build this model")
    mixture = {**config, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 2}
    (new / "config.json").write_text(json.dumps(mixture))
    refused(new, tmp_path / "out", "is a mixture of experts")


def test_disk_and_memory_are_checked_before_the_work(source: Path, tmp_path: Path) -> None:
    model, watcher = open_model(source), Watcher()
    ids = some_prompts(source)
    with pytest.raises(JudgeError, match=r"the 4-bit model needs .* GiB of disk and 0.00 GiB are free at"):
        quantize_model(model, tmp_path / "out", ids, QuantizeSettings(), watcher, disk=lambda _: 1000)
    with pytest.raises(JudgeError, match=r"needs 1.\d\d GiB of memory and 0.50 GiB are free; use fewer"):
        quantize_model(model, tmp_path / "out", ids, QuantizeSettings(), watcher, memory=lambda: 1 << 29)
    assert watcher.steps == []
    assert list(tmp_path.iterdir()) == []


def test_needs_follow_the_model_and_the_prompts(source: Path, tmp_path: Path) -> None:
    layers = find_layers(open_model(source))
    few, many = (estimate_memory(layers, 64, tokens, 4, 1) for tokens in (100, 1100))
    # by hand: inputs of q, k, v, o, gate, up (64 each) and down (128), and four hidden states, in float32
    assert many - few == 1000 * 4 * (6 * 64 + 128 + 4 * 64)
    check_memory(few, lambda: few)
    size = output_bytes(layers, 64)
    check_disk(tmp_path / "out", size, "it", lambda _: size + (64 << 20))
