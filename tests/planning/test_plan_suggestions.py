"""What a plan says against a deadline, and what it suggests to change."""

from __future__ import annotations

import pytest

from judge.cli.plan_text import duration
from judge.models.arithmetic import ModelShape
from judge.planning.time_model import TimeRange
from tests.models.test_plan_arithmetic import LLAMA_8B, SMOLLM2, YI_34B, config
from tests.planning.conftest import MakePlan

GIB = 1 << 30
AWQ = YI_34B["quantization_config"]
QWEN_14B = config("qwen2", 152064, 48, 5120, 13824, 40, 8, dtype="bfloat16", max_position_embeddings=32768)
GLM_9B = config("glm4", 151552, 40, 4096, 13696, 32, 2, head_dim=128, dtype="bfloat16")
MISTRAL_24B = config("mistral", 131072, 40, 5120, 32768, 32, 8, head_dim=128, dtype="bfloat16")


def test_the_verdict_follows_the_range(plan: MakePlan) -> None:
    total = plan(MISTRAL_24B, "A100 80GB").outcome.total
    for hours, expected in (
        (total.high * 1.01, "fits"),
        (total.high * 0.99, "may not fit"),
        (total.value * 0.99, "does not fit"),
    ):
        assert plan(MISTRAL_24B, "A100 80GB", hours / 3600).forecast == expected


def test_a_suggested_budget_is_what_a_plan_with_it_says(plan: MakePlan) -> None:
    packed = {**YI_34B, "max_position_embeddings": 4096}
    hours = plan(packed, "2xT4", max_tokens=1024).outcome.total.high / 3600
    late = plan(packed, "2xT4", hours * 1.02)
    change = next(s for s in late.suggestions if s.change.startswith("--max-tokens"))
    assert change.change.startswith("--max-tokens=1024 (cuts ")
    assert change.outcome.total == plan(packed, "2xT4", max_tokens=1024).outcome.total


def test_every_suggestion_says_what_a_plan_with_it_says(plan: MakePlan) -> None:
    late = plan(QWEN_14B, "T4", 0.05, swap="all")
    changes = {s.change: s.outcome.total for s in late.suggestions}
    packed = "quantise the weights to 4 bits (judge quantize)"
    assert packed in changes
    assert changes[packed] == plan({**QWEN_14B, "quantization_config": AWQ}, "T4", swap="all").outcome.total
    cards = [change for change in changes if change.startswith("--gpu=")]
    assert len(cards) == 2
    for change in cards:
        gpu = change.removeprefix("--gpu=").strip("'")
        assert changes[change] == plan(QWEN_14B, gpu, swap="all").outcome.total


def test_the_memory_of_a_cpu_holds_every_workers_program_weights_and_cache(plan: MakePlan) -> None:
    for workers in (1, 3):
        layout = plan(SMOLLM2, "cpu", workers=workers, max_tokens=512).outcome.layout
        memory = layout.memory
        assert memory.other == workers * 2 * GIB
        assert memory.weights == workers * ModelShape.from_config(SMOLLM2).weight_bytes(4)
        assert memory.prompt_cache == workers * GIB  # 0.4 GiB would do, and a run sets 1 aside at least
        assert memory.weights + memory.activations + memory.other + memory.cache == pytest.approx(memory.usable)


def test_a_setting_that_stands_in_the_way_is_the_first_to_be_taken_back(plan: MakePlan) -> None:
    for wrong, right in (({"dtype": "bfloat16"}, "--dtype=auto"), ({"parallel": "data"}, "--parallel=auto")):
        refused = plan({**LLAMA_8B, "dtype": "bfloat16"}, "2xT4", **wrong)
        assert refused.forecast == "cannot work"
        change = next(s for s in refused.suggestions if not s.change.startswith("quantise"))
        assert change.change == right
        assert change.outcome.total == plan({**LLAMA_8B, "dtype": "bfloat16"}, "2xT4").outcome.total


def test_what_is_shown_of_a_plan_that_cannot_work_is_what_was_asked_for(plan: MakePlan) -> None:
    layout = plan({**LLAMA_8B, "dtype": "bfloat16"}, "2xT4", parallel="data").outcome.layout
    assert (layout.workers, layout.cards_each) == (2, 1)
    assert layout.memory.weights == 2 * 8_030_261_248


def test_times_are_shown_in_a_unit_that_is_fine_enough() -> None:
    assert duration(TimeRange(840.0, 1548.0, 3558.0)) == "14.0 to 59.3 min"
    assert duration(TimeRange(1500.0, 3000.0, 7100.0)) == "25.0 to 118.3 min"
    assert duration(TimeRange(2520.0, 4320.0, 9720.0)) == "0.7 to 2.7 h"
    assert duration(TimeRange(2.9, 13.8, 66.0)) == "2.9 to 66.0 s"


def test_as_many_rows_are_suggested_as_fit(plan: MakePlan) -> None:
    total = plan(LLAMA_8B, "L4").outcome.total
    late = plan(LLAMA_8B, "L4", total.high * 0.8 / 3600)
    change = next(s for s in late.suggestions if "rows instead of 200" in s.change)
    assert change.outcome.total.high <= total.high * 0.8
    rows = int(change.change.split()[0])
    assert 1 < rows < 200
    assert change.outcome.read.high == pytest.approx(late.outcome.read.high * rows / 200, rel=0.05)


def test_nothing_is_suggested_to_what_fits(plan: MakePlan) -> None:
    assert plan(LLAMA_8B, "L4", 100.0).suggestions == ()
    assert plan(LLAMA_8B, "L4").suggestions == ()
