"""Adapters are read as they were trained, by each engine, or refused: never skipped in silence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from judge.engine.pool import Job, WorkerPool, cpu_environments
from judge.engine.protocol import EngineConfig, Readout
from judge.errors import JudgeError
from judge.models.adapter import VLLM_RANKS, misfit, refuse_adapter, refused_by_vllm, target_names, vllm_rank
from judge.models.bundle import ADAPTER_WEIGHTS, open_model
from tests.kit.tiny_models import edit_config, save_adapter, save_llama

if TYPE_CHECKING:
    import torch

Float = NDArray[np.float64]
PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "init_lora_weights": True}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
pytestmark = pytest.mark.usefixtures("one_thread")

VERDICTS = (100, 101, 102)


def make_prompts() -> list[NDArray[np.int32]]:
    """Prompts of 5 to 90 tokens; every other one begins with the same 40, which the prefix cache keeps."""
    random = np.random.default_rng(0)
    common = random.integers(20, 200, 40)
    texts = [random.integers(20, 200, n) for n in random.integers(5, 50, 24)]
    return [np.concatenate([common if i % 2 else [], t]).astype(np.int32) for i, t in enumerate(texts)]


PROMPTS = make_prompts()


def engine_config(model: Path, adapter: Path | None, readout: Readout, **values: Any) -> EngineConfig:
    rank = 0
    if adapter is not None:
        opened = open_model(adapter, base=model)
        assert opened.adapter is not None
        rank = opened.adapter.rank
    return EngineConfig(
        model=str(model),
        adapter=str(adapter) if adapter else None,
        adapter_rank=rank,
        readout=readout,
        verdict_ids=VERDICTS,
        max_prompt_tokens=128,
        # small, so that prompts are read in parts; the pooling model reads each in one
        max_batch_tokens=512 if readout == "vllm-classify" else 64,
        max_batch_rows=16,
        **values,
    )


def read_with_transformers(model: Path, adapter: Path | None = None) -> Float:
    from judge.engine.transformers import TransformersEngine

    engine = TransformersEngine(engine_config(model, adapter, "transformers"))
    return engine.read([prompt.tolist() for prompt in PROMPTS], lambda _: None)


def read_with_worker(config: EngineConfig, folder: Path, times: int = 1) -> list[Float]:
    """Read the prompts in a real worker process, as scoring does."""
    results: list[Float] = []
    pool = WorkerPool(config, cpu_environments(1, [0], 1), folder)
    jobs = [Job(n, len(PROMPTS), lambda: PROMPTS) for n in range(times)]
    try:
        pool.run(jobs, lambda _, logprobs: results.append(logprobs), lambda *_: None)
    finally:
        pool.close()
    return results


def merge(model: Path, adapter: Path, folder: Path) -> Path:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).merge_and_unload()
    merged.save_pretrained(folder)
    shutil.copy(model / "tokenizer.json", folder)
    return folder


def over_verdicts(logprobs: Float) -> Float:
    """Normalise over the three verdicts."""
    exponentials = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    result: Float = np.log(exponentials / exponentials.sum(axis=1, keepdims=True))
    return result


def change(adapter: Path, folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Copy an adapter with other tensors: what `edit` makes of them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    tensors = edit(load_file(folder / ADAPTER_WEIGHTS))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS)
    return folder


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with biases."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = save_llama(tmp_path_factory.mktemp("base") / "biased", attention_bias=True, mlp_bias=True)
    tensors = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(3)
    biases = {n: torch.randn(t.shape, generator=random) * 0.3 for n, t in tensors.items() if n.endswith(".bias")}
    assert len(biases) == 14
    save_file({**tensors, **biases}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 8 on all linear layers."""
    return save_adapter(tmp_path_factory.mktemp("adapters") / "plain", base)


# --- what is refused before an engine starts


def test_an_adapter_on_all_linear_layers_is_read_by_all(base: Path, plain: Path) -> None:
    model = open_model(plain, base=base)
    assert model.adapter is not None
    assert refused_by_vllm(model.adapter.config) is None
    for readout in ("vllm", "vllm-processor", "vllm-classify", "transformers"):
        refuse_adapter(model, readout, "float32", "cpu")
        refuse_adapter(open_model(base), readout, "float32", "cpu")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"peft_type": "LOHA"}, "peft_type=LOHA"),
        ({"use_dora": True}, "use_dora=True (DoRA)"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head'] (whole trained modules)"),
        ({"bias": "lora_only"}, "bias=lora_only (trained biases)"),
        ({"lora_bias": True}, "lora_bias=True (biases of the adapter)"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices=[3] (trained tokens)"),
        ({"target_parameters": ["x.y"]}, "target_parameters=['x.y'] (trained parameters outside linear layers)"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa (it changes the base model's weights)"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying=True"),
        ({"an_idea_of_2031\x1b": 1}, r"an_idea_of_2031\x1b=1"),
        ({"r": None}, "in its config, r and the values of rank_pattern must be whole numbers"),
        ({"r": 513}, "rank 513 is more than vLLM's 512"),
        ({"rank_pattern": {"q_proj": 600}}, "rank 600 is more than vLLM's 512"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)).strip("\x1b"),
)
def test_settings_that_vllm_refuses_or_would_skip_are_named(setting: dict[str, Any], reason: str) -> None:
    assert refused_by_vllm({**PLAIN, **setting}) == reason


@pytest.mark.parametrize(
    "setting",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 64}},
        {"init_lora_weights": "gaussian"},
        {"lora_dropout": 0.1, "layers_to_transform": [0], "an_idea_of_2031": None},
    ],
)
def test_settings_that_vllm_applies_or_need_not_pass(setting: dict[str, Any]) -> None:
    assert refused_by_vllm({**PLAIN, **setting}) is None


def test_every_setting_of_a_new_adapter_passes_and_no_name_is_misspelt() -> None:
    from dataclasses import fields

    from peft import LoraConfig

    from judge.models.adapter import _NAMES, _READ_BY_VLLM

    assert refused_by_vllm({**LoraConfig(target_modules=["q_proj"]).to_dict(), "peft_type": "LORA"}) is None
    known = {field.name for field in fields(LoraConfig)}
    assert (_READ_BY_VLLM | set(_NAMES)) - {"peft_version"} <= known


def test_vllm_makes_room_for_the_smallest_rank_that_holds_the_adapter() -> None:
    assert [vllm_rank(r) for r in (1, 2, 8, 9, 16, 65, 512)] == [1, 8, 8, 16, 16, 128, 512]
    assert list(VLLM_RANKS) == sorted(VLLM_RANKS)


def test_targets_are_the_last_names_of_the_layers(plain: Path) -> None:
    from safetensors import safe_open

    with safe_open(plain / ADAPTER_WEIGHTS, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a dict
    assert target_names(shapes) == sorted(LINEAR)
    assert target_names({"base_model.model.model.embed_tokens.lora_embedding_A": (8, 5)}) == ["embed_tokens"]


def pair(layer: str, a: Sequence[int], b: Sequence[int]) -> dict[str, Sequence[int]]:
    prefix = f"base_model.model.{layer}.lora_"
    return {f"{prefix}A.weight": a, f"{prefix}B.weight": b}


MODEL_SHAPES = {"m.q_proj.weight": (6, 4), "m.packed.weight": (12, 1), "m.embed_tokens.weight": (50, 4)}


@pytest.mark.parametrize(
    ("shapes", "settings", "reason"),
    [
        (pair("m.q_proj", (8, 4), (6, 8)), {}, None),
        (pair("m.q_proj", (8, 6), (4, 8)), {"fan_in_fan_out": True}, None),
        (pair("m.q_proj", (2, 4), (6, 2)), {"rank_pattern": {"q_proj": 2}}, None),
        (pair("m.q_proj", (2, 4), (6, 2)), {"rank_pattern": {"proj": 2}}, "rank 2 and 2, its config says 8"),
        (pair("m.q_proj", (2, 4), (6, 2)), {"rank_pattern": {"(": 2}}, "a key of rank_pattern is no regular"),
        (pair("m.q_proj", (8, 4), (6, 8)), {"rank_pattern": [8]}, "must be whole numbers"),
        (pair("m.q_proj", (8, 4), (6, 8)), {"r": "8"}, "must be whole numbers"),
        (pair("m.q_proj", (16, 4), (6, 16)), {}, "m.q_proj has rank 16 and 16, its config says 8"),
        (pair("m.q_proj", (8, 4), (6, 4)), {}, "m.q_proj has rank 8 and 4, its config says 8"),
        (pair("m.q_proj", (8,), (6, 8)), {}, "matrices of 1 and 2 dimensions"),
        (pair("m.q_proj", (8, 5), (6, 8)), {}, "m.q_proj is for a layer of 6x5, the model's has 6x4"),
        (pair("m.q_proj", (8, 4), (7, 8)), {}, "m.q_proj is for a layer of 7x4, the model's has 6x4"),
        (pair("m.packed", (8, 4), (6, 8)), {}, None),
        (pair("named.otherwise", (8, 4), (6, 8)), {}, None),
        ({"base_model.model.m.q_proj.lora_A.weight": (8, 4)}, {}, "m.q_proj has no matrix B"),
        ({"base_model.model.m.norm.weight": (4,)}, {}, "its file holds no LoRA matrices"),
        (
            {f"base_model.model.m.embed_tokens.lora_embedding_{p}": s for p, s in (("A", (8, 50)), ("B", (4, 8)))},
            {},
            None,
        ),
        (
            {f"base_model.model.m.embed_tokens.lora_embedding_{p}": s for p, s in (("A", (8, 51)), ("B", (4, 8)))},
            {},
            "m.embed_tokens is for a layer of 4x51, the model's has 4x50",
        ),
    ],
)
def test_matrices_must_fit_the_config_and_the_base_model(
    shapes: dict[str, Sequence[int]], settings: dict[str, Any], reason: str | None
) -> None:
    found = misfit({**PLAIN, **settings}, shapes, MODEL_SHAPES)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_an_adapter_of_a_model_of_another_size_is_refused_for_every_engine(plain: Path, tmp_path: Path) -> None:
    larger = save_llama(tmp_path / "larger", hidden_size=96, attention_bias=True, mlp_bias=True)
    for readout in ("vllm", "transformers"):
        with pytest.raises(JudgeError, match=r"does not fit .*larger: .* is for a layer of \d+x\d+, the model's has"):
            refuse_adapter(open_model(plain, base=larger), readout, "float32", "cpu")


def test_the_classify_readout_refuses_an_adapted_output_head(base: Path, tmp_path: Path) -> None:
    model = open_model(save_adapter(tmp_path / "head", base, target_modules=["q_proj", "lm_head"]), base=base)
    refuse_adapter(model, "vllm", "float32", "cpu")
    with pytest.raises(JudgeError, match=r"it changes lm_head, .* \(--readout=vllm reads it\)"):
        refuse_adapter(model, "vllm-classify", "float32", "cpu")


def test_vllm_refuses_what_it_cannot_read_and_transformers_reads_it(base: Path, plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "dora")
    edit_config(tmp_path / "dora", use_dora=True)
    norm = "base_model.model.model.norm.weight"
    whole = change(plain, tmp_path / "whole", lambda tensors: {**tensors, norm: tensors[min(tensors)][0]})
    cases = {
        tmp_path / "dora": "use_dora=True (DoRA)",
        whole: f"would skip the weight {norm}",
    }
    for folder, reason in cases.items():
        refuse_adapter(open_model(folder, base=base), "transformers", "float32", "cpu")
        with pytest.raises(JudgeError, match=re.escape(reason)) as caught:
            refuse_adapter(open_model(folder, base=base), "vllm", "float32", "cpu")
        assert "use --readout=transformers, or merge the adapter into its base model" in str(caught.value)


def test_vllm_refuses_adapters_in_float32_on_a_gpu(base: Path, plain: Path) -> None:
    model = open_model(plain, base=base)
    refuse_adapter(model, "vllm", "bfloat16", "cuda")
    refuse_adapter(model, "transformers", "float32", "cuda")
    with pytest.raises(JudgeError, match="float16 or bfloat16 only"):
        refuse_adapter(model, "vllm", "float32", "cuda")


# --- what the engines read


CASES: dict[Readout, dict[str, Any]] = {
    "vllm": {
        "target_modules": [*LINEAR, "embed_tokens", "lm_head"],
        "rank_pattern": {"q_proj": 16, "layers.0.mlp.up_proj": 2},
        "alpha_pattern": {"down_proj": 64, "k_proj": 4},
    },
    "vllm-processor": {"r": 20, "use_rslora": True, "target_modules": ["q_proj", "down_proj"], "size": 0.3},
    "vllm-classify": {"r": 3, "lora_dropout": 0.5},
}


@pytest.mark.engine
@pytest.mark.parametrize("readout", CASES)
def test_vllm_reads_an_adapter_as_peft_does_and_as_if_it_were_merged(
    base: Path, tmp_path: Path, readout: Readout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")  # importing TRL sets it to ERROR
    adapter = save_adapter(tmp_path / "adapter", base, **CASES[readout])
    results = read_with_worker(engine_config(base, adapter, readout), tmp_path, times=2)
    without = read_with_transformers(base)
    with_adapter = read_with_transformers(base, adapter)
    merged = read_with_transformers(merge(base, adapter, tmp_path / "merged"))
    assert np.abs(over_verdicts(with_adapter) - over_verdicts(without)).max() > 1
    assert (with_adapter.argmax(axis=1) != without.argmax(axis=1)).sum() >= 2
    np.testing.assert_allclose(with_adapter, merged, atol=1e-4)
    normalised = over_verdicts if readout != "vllm" else np.asarray
    np.testing.assert_allclose(results[0], normalised(with_adapter), atol=1e-4)
    assert results[1].tobytes() == results[0].tobytes()
    assert "Using OneAdapter" in (tmp_path / "worker-0.log").read_text()


@pytest.mark.engine
def test_layers_that_the_model_has_not_end_the_start_of_every_engine(base: Path, plain: Path, tmp_path: Path) -> None:
    strange = change(plain, tmp_path / "strange", renamed("layers.1.", "layers.9."))
    with pytest.raises(JudgeError, match=r"no place in .* for 7 layers .*, first model\.layers\.9\.mlp\.down_proj"):
        read_with_worker(engine_config(base, strange, "vllm"), tmp_path)
    with pytest.raises(JudgeError, match="14 of its tensors are missing, for the model"):
        read_with_transformers(base, strange)


def test_transformers_refuses_tensors_that_belong_to_no_layer(base: Path, plain: Path, tmp_path: Path) -> None:
    more = renamed("layers.1.", "layers.9.")
    strange = change(plain, tmp_path / "strange", lambda tensors: {**tensors, **more(tensors)})
    with pytest.raises(JudgeError, match=r"14 of its tensors belong to no layer of the model .*layers\.9\."):
        read_with_transformers(base, strange)


def test_transformers_refuses_a_setting_that_its_peft_does_not_know(base: Path, plain: Path, tmp_path: Path) -> None:
    newer = Path(shutil.copytree(plain, tmp_path / "newer"))
    edit_config(newer, an_idea_of_2031=True, peft_version="9.0")
    with pytest.raises(JudgeError, match=r"an_idea_of_2031 is unknown to this version of PEFT.* written by PEFT 9\.0"):
        read_with_transformers(base, newer)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}])
def test_transformers_reads_what_vllm_cannot(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = save_adapter(tmp_path / "adapter", base, **settings)
    read = read_with_transformers(base, adapter)
    np.testing.assert_allclose(read, read_with_transformers(merge(base, adapter, tmp_path / "merged")), atol=1e-4)
    assert np.abs(read - read_with_transformers(base)).max() > 1


def test_peft_keeps_the_adapter_in_float32_under_a_model_in_bfloat16(base: Path, plain: Path) -> None:
    import torch

    from judge.engine.transformers import TransformersEngine

    engine = TransformersEngine(engine_config(base, plain, "transformers", dtype="bfloat16"))
    dtypes = {("lora" in name, p.dtype) for name, p in engine._model.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
