"""Lengths of prompts in a plan, and the hours that follow from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from judge.hardware.cards import CARDS
from judge.models.arithmetic import ModelShape
from judge.planning.card_time import Engine, engine_model
from judge.planning.lengths import RANGE
from judge.planning.plan import find_machine, make_plan, open_plan_model
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.prompting.template import load_template
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from tests.models.test_plan_arithmetic import LLAMA_8B, SMOLLM2, YI_34B, config
from tests.planning.conftest import MakePlan

GIB = 1 << 30
AWQ = YI_34B["quantization_config"]
QWEN_14B = config("qwen2", 152064, 48, 5120, 13824, 40, 8, dtype="bfloat16", max_position_embeddings=32768)
GLM_9B = config("glm4", 151552, 40, 4096, 13696, 32, 2, head_dim=128, dtype="bfloat16")
MISTRAL_24B = config("mistral", 131072, 40, 5120, 32768, 32, 8, head_dim=128, dtype="bfloat16")


def test_with_a_tokenizer_the_lengths_are_the_real_builders(tiny_model: Path, rows: Path) -> None:
    settings = ScoreSettings(max_tokens=400, truncation="end", template="side-by-side")
    found = make_plan(open_plan_model(tiny_model), Table.open(rows), find_machine("T4"), settings).case.lengths
    builder = PromptBuilder(
        TextEncoder(load_tokenizer(tiny_model)), load_template("side-by-side"), Budget(400, "end", (0.2, 0.4))
    )
    prompts = [prompt for chunk in Table.open(rows).chunks() for prompt in builder.build(chunk)]
    assert found.tokens.tolist() == [len(prompt.ids) for prompt in prompts]
    assert not found.estimated
    assert found.cut_rows == sum(sum(prompt.cut) > 0 for prompt in prompts) > 0


def test_lengths_under_a_smaller_budget_are_nearly_the_builders(tiny_model: Path, rows: Path) -> None:
    model, table, machine = open_plan_model(tiny_model), Table.open(rows), find_machine("T4")
    large = make_plan(model, table, machine, ScoreSettings(max_tokens=1000)).case.lengths
    small = make_plan(model, table, machine, ScoreSettings(max_tokens=500)).case.lengths
    guessed = large.under(500)
    assert guessed.cut_rows > 0
    assert guessed.tokens.sum() == pytest.approx(small.tokens.sum(), rel=0.005)


def test_without_a_tokenizer_the_estimate_holds_the_real_lengths(demo_model: Path, tmp_path: Path, rows: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    machine, settings = find_machine("T4"), ScoreSettings()
    guessed = make_plan(open_plan_model(tmp_path), Table.open(rows), machine, settings).case.lengths
    real = make_plan(open_plan_model(tmp_path, demo_model), Table.open(rows), machine, settings).case.lengths
    assert guessed.estimated
    assert not real.estimated
    assert guessed.factors == RANGE
    assert guessed.at(RANGE[0]).sum() <= real.tokens.sum() <= guessed.at(RANGE[2]).sum()


def test_second_orders_are_counted(plan: MakePlan) -> None:
    one, both, quarter = (plan(LLAMA_8B, "L4", swap=swap).outcome.read.value for swap in ("off", "all", "25%"))
    assert both == pytest.approx(2 * one)
    assert quarter == pytest.approx(1.25 * one)
    auto = plan(LLAMA_8B, "L4", swap="auto").outcome.read
    assert auto.low < plan(LLAMA_8B, "L4", swap="all").outcome.read.low
    assert auto.high == pytest.approx(plan(LLAMA_8B, "L4", swap="all").outcome.read.high)


def test_a_copy_on_each_card_halves_the_time(plan: MakePlan) -> None:
    packed = {**LLAMA_8B, "quantization_config": AWQ}
    assert plan(packed, "2xT4").outcome.read.value == pytest.approx(plan(packed, "T4").outcome.read.value / 2)


def test_the_terms_of_a_card_add_up_by_hand() -> None:
    shape, card = ModelShape.from_config(config("llama", 10, 2, 4, 6, 2, 1)), CARDS["T4"]
    model = engine_model(Engine(shape, card, 1, 2, 100), share=0.5)
    assert 1 / model.per_flop == 65e12 * 0.5
    # a layer reads and writes: q, k, v 4 and 8; o 4 and 4; gate and up 4 and 12; their product 12 and 6; down 6 and 4;
    # norms and residual sums eight times the hidden state; keys and values of one head of 2 once each
    values = 2 * ((4 + 8) + (4 + 4) + (4 + 12) + (12 + 6) + (6 + 4) + 8 * 4 + (4 + 4))
    weights = shape.weight_bytes(2)
    moved = (weights / 100 + 2 * values) / card.bandwidth
    assert model.per_token == pytest.approx(moved + 2 * 150e-6 / 100)
    spread = engine_model(Engine(shape, card, 2, 2, 100), share=0.5)
    assert spread.per_flop == model.per_flop / 2
    sent = 2 * 2 * 4 * 2 * 1  # two sums in each of two layers, of 4 values of 2 bytes, over two cards
    assert spread.per_token == pytest.approx(moved / 2 + 2 * 150e-6 / 100 + sent / 10e9)
