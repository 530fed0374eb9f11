"""The group size that suits a model's layers."""

from __future__ import annotations

import pytest

from judge.errors import JudgeError
from quantize.layers import Linear, choose_group_size


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((4096, 14336), 128), ((576, 1536), 64), ((96, 128), 32), ((2048, 2080), 32), ((64,), 64), ((32,), 32)],
)
def test_the_group_size_is_the_largest_that_divides_all_inputs(sizes: tuple[int, ...], expected: int) -> None:
    layers = [Linear(f"layer{i}", size, 64) for i, size in enumerate(sizes)]
    assert choose_group_size(layers) == expected
    assert choose_group_size(layers, 32) == 32


def test_sizes_that_no_group_divides_are_refused_by_name() -> None:
    layers = [Linear("a.q_proj", 128, 64), Linear("a.down_proj", 144, 64)]
    with pytest.raises(JudgeError, match=r"layer a.down_proj has 144 inputs, which groups of 128 or 64 or 32"):
        choose_group_size(layers)
    with pytest.raises(JudgeError, match=r"layer a.down_proj has 144 inputs, which groups of 64"):
        choose_group_size(layers, 64)
    with pytest.raises(JudgeError, match=r"layer b has 100 outputs; both 4-bit layouts need a multiple of 8"):
        choose_group_size([Linear("b", 128, 100)])
