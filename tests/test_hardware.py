"""Decisions about dtype and parallelism for injected hardware."""

from __future__ import annotations

import pytest

from judge.errors import JudgeError
from judge.hardware import GIB, Gpu, choose_dtype, choose_parallel, select_visible

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
        ("data", 19, TWO_T4, 56, (2, 1)),
        ("auto", 6, [], 32, (1, 1)),
    ],
)
def test_tensor_parallel_only_when_one_card_does_not_hold_the_model(
    requested: str, weights_gib: float, gpus: list[Gpu], heads: int, expected: tuple[int, int]
) -> None:
    assert choose_parallel(requested, int(weights_gib * GIB), gpus, heads, 0.9) == expected


def test_a_model_that_fits_nowhere_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(JudgeError, match=r"the weights \(40.0 GiB\) do not fit on 2 x Tesla T4 \(15 GiB each\)"):
        choose_parallel("auto", 40 * GIB, TWO_T4, 56, 0.9)


def test_heads_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(JudgeError, match="7 attention heads cannot be divided over 2 GPUs"):
        choose_parallel("tensor", GIB, TWO_T4, 7, 0.9)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1"]), ("1", ["1"]), ("1,0", ["1", "0"]), ("", []), ("GPU-bb", ["1"]), ("0,7,1", ["0"])],
)
def test_only_visible_gpus_are_used(visible: str | None, expected: list[str]) -> None:
    assert [g.device for g in select_visible(TWO_T4, ["GPU-aa11", "GPU-bb22"], visible)] == expected
