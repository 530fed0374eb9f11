"""Decisions about dtype and parallelism for injected hardware."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from judge.engine.choose import how_weights_are_read, make_pool
from judge.engine.pool import WorkerPool
from judge.errors import JudgeError
from judge.hardware import machine
from judge.hardware.machine import GIB, Gpu, choose_dtype, choose_parallel, default_batch_tokens, select_visible
from judge.models.bundle import open_model
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.prompting.template import load_template
from judge.scoring.settings import ScoreSettings

T4 = Gpu("0", "Tesla T4", 15 * GIB, (7, 5))
A100 = Gpu("0", "A100", 80 * GIB, (8, 0))
TWO_T4 = [T4, Gpu("1", "Tesla T4", 15 * GIB, (7, 5))]


@pytest.mark.parametrize(
    ("model_dtype", "gpus", "expected"),
    [
        ("bfloat16", [T4], "float16"),
        ("float32", [T4], "float16"),
        ("bfloat16", [A100], "bfloat16"),
        ("float16", [A100], "float16"),
        ("float32", [A100], "bfloat16"),
        ("bfloat16", [A100, T4], "float16"),
        ("float16", [], "float32"),
    ],
)
def test_automatic_dtype_is_what_the_hardware_does_well(model_dtype: str, gpus: list[Gpu], expected: str) -> None:
    assert choose_dtype("auto", model_dtype, gpus) == expected


def test_bfloat16_on_a_t4_is_refused() -> None:
    with pytest.raises(JudgeError, match=r"Tesla T4 \(compute capability 7.5\) has no bfloat16; use --dtype=float16"):
        choose_dtype("bfloat16", "bfloat16", [T4])
    assert choose_dtype("float32", "bfloat16", [T4]) == "float32"


@pytest.mark.parametrize(
    ("requested", "weights_gib", "gpus", "heads", "expected"),
    [
        ("auto", 6, TWO_T4, 32, (2, 1)),  # a 4-bit 8B: a copy on each card
        ("auto", 19, TWO_T4, 56, (1, 2)),  # a 4-bit 34B: over both
        ("auto", 6, [T4] * 4, 32, (4, 1)),
        ("auto", 19, [T4] * 4, 56, (2, 2)),
        ("tensor", 6, TWO_T4, 32, (1, 2)),
        ("data", 12.5, TWO_T4, 32, (2, 1)),  # asked for, and not certain to fail
        ("tensor", 26, TWO_T4, 40, (1, 2)),
        ("auto", 6, [], 32, (1, 1)),
    ],
)
def test_tensor_parallel_only_when_one_card_does_not_hold_the_model(
    requested: str, weights_gib: float, gpus: list[Gpu], heads: int, expected: tuple[int, int]
) -> None:
    assert choose_parallel(requested, int(weights_gib * GIB), gpus, heads, 0.9) == expected


def test_a_model_that_fits_nowhere_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(
        JudgeError, match=r"the weights \(40.0 GiB\) and 1.5 GiB for each card's work do not fit on 2 x Tesla"
    ):
        choose_parallel("auto", 40 * GIB, TWO_T4, 56, 0.9)


def test_two_copies_are_not_started_where_one_card_cannot_hold_the_weights() -> None:
    with pytest.raises(JudgeError, match=r"19.0 GiB\) do not fit on 1 x Tesla T4 \(13.1 GiB .*; use --parallel=auto"):
        choose_parallel("data", 19 * GIB, TWO_T4, 56, 0.9)


def test_what_a_step_needs_decides_between_two_copies_and_one() -> None:
    def needs(gib: float) -> tuple[int, int]:
        return choose_parallel("auto", 10 * GIB, TWO_T4, 40, 0.9, lambda cards: gib * GIB / cards)

    assert needs(3.0) == (2, 1)  # 13.0 of 15 * 0.97 * 0.9 = 13.1 GiB
    assert needs(3.2) == (1, 2)


def test_steps_are_halved_on_cards_of_16_gb() -> None:
    assert default_batch_tokens([T4]) == default_batch_tokens([A100, T4]) == 4096
    assert default_batch_tokens([A100]) == 8192
    assert default_batch_tokens([]) == 4096


def test_heads_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(JudgeError, match="7 attention heads cannot be divided over 2 GPUs"):
        choose_parallel("tensor", GIB, TWO_T4, 7, 0.9)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1"]), ("1", ["1"]), ("1,0", ["1", "0"]), ("", []), ("GPU-bb", ["1"]), ("0,7,1", ["0"])],
)
def test_only_visible_gpus_are_used(visible: str | None, expected: list[str]) -> None:
    assert [g.device for g in select_visible(TWO_T4, ["GPU-aa11", "GPU-bb22"], visible)] == expected


def pool_on(gpus: list[Gpu], model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> WorkerPool:
    """The engines that `judge score` would start on these cards; none is started."""
    monkeypatch.setattr(machine, "usable_gpus", lambda _: gpus)
    settings, opened = ScoreSettings(**given), open_model(model)
    builder = PromptBuilder(TextEncoder(load_tokenizer(model)), load_template("minimal"), Budget(500))
    pool = make_pool(how_weights_are_read(opened, settings), settings, builder, folder, ["true"])
    assert isinstance(pool, WorkerPool)
    return pool


def test_on_two_t4s_a_small_model_runs_twice_in_float16(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_on(TWO_T4, tiny_model, tmp_path, monkeypatch)
    assert (pool.config.dtype, pool.config.device, pool.config.tensor_parallel) == ("float16", "cuda", 1)
    assert (pool.config.max_batch_tokens, pool.config.gpu_memory_utilization) == (4096, 0.9)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in pool.environments] == ["0", "1"]
    assert {e["VLLM_ENABLE_V1_MULTIPROCESSING"] for e in pool.environments} == {"0"}


def test_on_two_t4s_one_copy_over_both_sees_both(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_on(TWO_T4, tiny_model, tmp_path, monkeypatch, parallel="tensor", batch_tokens=1024)
    assert (pool.config.tensor_parallel, pool.config.max_batch_tokens) == (2, 1024)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in pool.environments] == ["0,1"]


def test_cards_that_cannot_run_a_model_are_refused_before_it_starts(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p100 = Gpu("0", "Tesla P100-PCIE-16GB", 16 * GIB, (6, 0))
    with pytest.raises(JudgeError, match=r"Tesla P100-PCIE-16GB \(compute capability 6.0\): vLLM's wheel holds code"):
        pool_on([p100], tiny_model, tmp_path, monkeypatch)
    assert pool_on([p100], tiny_model, tmp_path, monkeypatch, readout="transformers").config.dtype == "float16"
    gemma = shutil.copytree(tiny_model, tmp_path / "gemma")
    config = json.loads((gemma / "config.json").read_text()) | {"model_type": "gemma2"}
    (gemma / "config.json").write_text(json.dumps(config))
    with pytest.raises(JudgeError, match=r"does not run gemma2 in float16, and Tesla T4 .*; use --dtype=float32"):
        pool_on(TWO_T4, gemma, tmp_path, monkeypatch)
    assert pool_on(TWO_T4, gemma, tmp_path, monkeypatch, dtype="float32").config.dtype == "float32"
    (gemma / "config.json").write_text(json.dumps(config | {"head_dim": 256}))
    for dtype in ("auto", "float32"):
        with pytest.raises(JudgeError, match=r"80 KiB of shared memory"):
            pool_on(TWO_T4, gemma, tmp_path, monkeypatch, dtype=dtype)
    assert pool_on([A100], gemma, tmp_path, monkeypatch).config.dtype == "bfloat16"


def test_the_free_memory_of_this_machine_is_known() -> None:
    free = machine.available_memory()
    assert free is not None
    assert 0 < free < 2**50
