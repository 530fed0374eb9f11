"""The table of cards, and how a card is named."""

from __future__ import annotations

import pytest

from judge.errors import JudgeError
from judge.hardware.cards import CARDS, CPU, GIB, MIB, find_card, parse_gpus


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("T4", 1, "T4"),
        ("2xT4", 2, "T4"),
        (" 2 x t4 ", 2, "T4"),
        ("T4 x2", 2, "T4"),  # as Kaggle writes it
        ("4090", 1, "RTX 4090"),
        ("2x3090", 2, "RTX 3090"),
        ("rtx-4090", 1, "RTX 4090"),
        ("a10g", 1, "A10G"),
        ("8xA100-80GB", 8, "A100 80GB"),
        ("A100", 1, "A100 40GB"),
        ("h100", 1, "H100 SXM"),
        ("CPU", 1, "CPU"),
    ],
)
def test_cards_are_named_as_people_write_them(text: str, count: int, name: str) -> None:
    assert parse_gpus(text) == (count, CARDS[name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("Tesla V100-SXM2-16GB", "V100 16GB"),
    ],
)
def test_a_card_is_found_by_the_name_that_its_driver_gives(name: str, expected: str) -> None:
    found = find_card(name)
    assert found is not None
    assert found.name == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("T5", r"--gpu=T5: did you mean T4\? known: T4, L4, .*, CPU; write 2xT4 for two"),
        ("2xRTX 4080", r"did you mean RTX 4090\?"),
        ("nothing", r"--gpu=nothing: unknown card; known: T4, "),
        ("", r"--gpu=: unknown card"),
        ("\x1b[2Jx", r"unknown card"),
        ("0xT4", r"--gpu=0xT4: expected 1 to 64 cards"),
        ("65xT4", r"expected 1 to 64 cards"),
        ("2xcpu", r"use --gpu=cpu"),
    ],
)
def test_an_unknown_card_is_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(JudgeError, match=message) as caught:
        parse_gpus(text)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rates_follow_from_the_cards_own_geometry() -> None:
    """Dense peaks are 2 x multiprocessors x their tensor units x multiply-adds in a cycle x the boost clock."""
    t4 = 2 * 40 * 8 * 64 * 1.59e9  # 40 multiprocessors of 8 tensor units, 64 multiply-adds each in a cycle
    assert CARDS["T4"].float16 == pytest.approx(t4, rel=0.01)
    a100 = 2 * 108 * 4 * 256 * 1.41e9
    assert CARDS["A100 80GB"].float16 == pytest.approx(a100, rel=0.01)
    h100 = 2 * 132 * 4 * 512 * 1.83e9
    assert CARDS["H100 SXM"].float16 == pytest.approx(h100, rel=0.01)
    rtx_4090 = 2 * 128 * 4 * 128 * 2.52e9 / 2  # half, with sums in float32
    assert CARDS["RTX 4090"].float16 == pytest.approx(rtx_4090, rel=0.01)
    rtx_3090 = 2 * 82 * 4 * 128 * 1.695e9 / 2
    assert CARDS["RTX 3090"].float16 == pytest.approx(rtx_3090, rel=0.01)


def test_every_card_is_plausible_and_has_a_source() -> None:
    cards = [card for card in CARDS.values() if not card.is_cpu]
    assert len(cards) >= 13
    for card in cards:
        assert card.source.startswith("https://"), card
        assert 14 * GIB < card.usable < card.memory < 141e9 + GIB * 10, card
        assert 0.96 < card.usable / card.memory < 1, card
        assert card.float32 < card.float16, card
        assert card.bfloat16 == (card.float16 if card.capability >= (8, 0) else 0), card
    assert CARDS["T4"].memory == 15_360 * MIB
    assert CARDS["T4"].usable == 15_636_037_632
    assert CPU.is_cpu
    assert CPU.memory == 0
