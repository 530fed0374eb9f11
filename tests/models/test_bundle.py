"""Model folders are checked before anything heavy starts, and named by their content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from judge.errors import JudgeError
from judge.models.bundle import open_model


def make(folder: Path, config: dict[str, object] | None = None) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config or {"hidden_size": 8}))
    (folder / "model.safetensors").write_bytes(b"\x08" * 100)
    return folder


def test_a_folder_that_is_not_a_model_is_one_clear_line(tmp_path: Path) -> None:
    cases: list[tuple[str, str]] = []

    def case(name: str, text: str) -> Path:
        cases.append((name, text))
        return tmp_path / name

    case("nowhere", "no such model folder; judge reads models from disk only")
    case("empty", "no config.json; is this a Hugging Face model folder?").mkdir()
    (make(case("broken", "is not valid JSON")) / "config.json").write_text("{")
    (make(case("list", "expected a JSON object")) / "config.json").write_text("[]")
    (make(case("weightless", "no weights; expected *.safetensors")) / "model.safetensors").unlink()
    pickled = make(case("pickled", "only pickle files, which judge does not load"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    lfs = make(case("lfs", "is a Git LFS pointer, not weights; run: git lfs pull"))
    (lfs / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    sharded = make(case("sharded", "1 of 2 weight files are missing, first b.safetensors"))
    index = {"weight_map": {"x": "model.safetensors", "y": "b.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    adapter = case("adapter", "holds a None adapter; judge reads LoRA adapters")
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert len(cases) == 9
    for name, text in cases:
        with pytest.raises(JudgeError) as error:
            open_model(tmp_path / name)
        assert text in str(error.value), name
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_the_memory_of_the_weights_is_that_of_the_dtype_they_are_loaded_in(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    folder = make(tmp_path / "model")
    save_file({"x": np.zeros((3, 5), np.float32), "y": np.zeros(4, np.float32)}, folder / "model.safetensors")
    save_file({"x": np.zeros((3, 5), np.float32)}, folder / "consolidated.safetensors")  # a second copy
    assert open_model(folder).loaded_bytes(2) == 2 * 19
    assert open_model(folder).loaded_bytes(4) == 4 * 19
    packed = {"x": np.zeros((3, 5), np.int32), "scale": np.zeros(4, np.float16), "flag": np.zeros(3, np.bool_)}
    save_file(packed, folder / "model.safetensors")
    assert open_model(folder).loaded_bytes(2) == 4 * 15 + 2 * 4 + 3  # packed words stay as they are
    assert open_model(folder).loaded_bytes(4) == 4 * 15 + 4 * 4 + 3
    (folder / "model.safetensors").write_bytes(b"no such thing")
    (folder / "config.json").write_text("{}")
    with pytest.raises(JudgeError, match="is not a safetensors file"):
        open_model(folder).loaded_bytes(2)


def test_the_digest_follows_weights_config_and_tokenizer_and_nothing_else(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    digest = open_model(folder).digest()
    (folder / "README.md").write_text("hello")
    (folder / "trainer_state.json").write_text("{}")
    assert open_model(folder).digest() == digest
    seen = {digest}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        path = folder / name
        path.write_bytes((path.read_bytes() if path.exists() else b"{}") + b" ")
        seen.add(open_model(folder).digest())
    assert len(seen) == 5


def test_the_config_is_read_for_what_planning_needs(tmp_path: Path) -> None:
    text = {
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "max_position_embeddings": 8192,
        "dtype": "bfloat16",
    }
    configs: list[dict[str, object]] = [dict(text), {"model_type": "multimodal", "text_config": text}]
    for config in configs:
        model = open_model(make(tmp_path / str(len(config)), config))
        assert (model.heads, model.max_positions, model.dtype, model.weights) == (32, 8192, "bfloat16", 100)
        assert model.cache_bytes_per_token(2) == 131_072  # Llama-3-8B: 128 KiB a token in 16 bits
    capped = open_model(make(tmp_path / "capped", {**text, "final_logit_softcapping": 30.0}))
    assert capped.changes_logits_after_head() == "final_logit_softcapping=30.0"
