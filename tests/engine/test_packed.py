"""4-bit weights mean the numbers that the libraries which write them unpack."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.models.packed import awq_values, pack_quantized_values, unpack


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
