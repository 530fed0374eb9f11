"""Published times of judges on two T4s, the share of the card's peak that they come to, and how well it predicts.

Of a published run the model, the budget, the rows and the minutes are known, the lengths of the rows are not. What is
assumed for them is stated here and decides the result more than anything else:

* `LENGTHS` are the prompt tokens of 100 rows of the LMSYS contest (means of twentieths, side-by-side template). Its
  rows are these; the 8B run read 25,000 of them.
* The vLLM runs read rows of the WSDM Cup. Three of them are public; they are `WSDM_FACTOR` times as long. The range
  takes them as long as LMSYS's, and three times as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judge.hardware.cards import CARDS
from judge.models.arithmetic import ModelShape
from judge.planning.card_time import Engine, Share, engine_model

LENGTHS = (185, 214, 254, 306, 368, 408, 464, 506, 620, 719, 787, 843, 915, 958, 1043, 1192, 1272, 1708, 2341, 4684)
WSDM_FACTOR = (1.0, 2.0, 3.0)
_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Run:
    """A published run on two T4s.

    Attributes:
        name: of the model.
        config: its geometry, as in its config.json.
        rows, max_tokens, minutes: as published.
        factor: lengths of the rows, in those of `LENGTHS`: low, assumed, high.
        padded: by transformers, in padded batches.
        source: who published it.
    """

    name: str
    config: dict[str, Any]
    rows: int
    max_tokens: int
    minutes: float
    factor: tuple[float, float, float]
    padded: bool
    source: str

    def lengths(self, factor: float) -> NDArray[np.float64]:
        """Return the tokens of the rows, in twentieths, shape (20,)."""
        return np.minimum(np.array(LENGTHS) * factor, self.max_tokens)

    @property
    def engine(self) -> Engine:
        """The engine: over both cards (none of these models fits one card's memory)."""
        return Engine(ModelShape.from_config(self.config), CARDS["T4"], 1 if self.padded else 2, 2, _BATCH_TOKENS)

    def minutes_at(self, share: float, factor: float, padded_whole: bool = False) -> float:
        """Return the predicted minutes at a share of the peak."""
        lengths = np.full(1, float(self.max_tokens)) if padded_whole else self.lengths(factor)
        engine = self.engine
        flops = float(engine.shape.flops(lengths, causal=not self.padded).mean()) * self.rows
        model = engine_model(engine, share)
        return model.seconds(flops, self.rows, float(lengths.mean()) * self.rows).value / (2 // engine.cards) / 60


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
_NAMES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


def _config(model_type: str, vocabulary: int, *sizes: int, **more: Any) -> dict[str, Any]:
    """Return a geometry; `sizes` are layers, hidden and intermediate size, heads and key-value heads."""
    return {"model_type": model_type, "vocab_size": vocabulary, **dict(zip(_NAMES, sizes, strict=True)), **more}


_QWEN_14B = _config("qwen2", 152064, 48, 5120, 13824, 40, 8)
_QWEN_32B = _config("qwen2", 152064, 64, 5120, 27648, 40, 8, quantization_config=_GPTQ)
_MISTRAL_24B = _config("mistral", 131072, 40, 5120, 32768, 32, 8, head_dim=128, quantization_config=_GPTQ)
_LLAMA_8B = _config("llama", 128256, 32, 4096, 14336, 32, 8)
_GEMMA_9B = _config("gemma2", 256000, 42, 3584, 14336, 16, 8, head_dim=256, sliding_window=4096)
_WSDM = "WSDM Cup 2025, 7th place (write-up)"
RUNS: tuple[Run, ...] = (
    Run("Qwen2.5-14B, float16", _QWEN_14B, 512, 3072, 10.5, WSDM_FACTOR, False, _WSDM),
    Run("Qwen2.5-32B, GPTQ", _QWEN_32B, 512, 2048, 20.0, WSDM_FACTOR, False, _WSDM),
    Run("Mistral-24B, GPTQ", _MISTRAL_24B, 512, 2048, 16.4, WSDM_FACTOR, False, _WSDM),
    Run("Gemma-2-9B, float16", _GEMMA_9B, 512, 4096, 6.5, WSDM_FACTOR, False, _WSDM),
)
_LMSYS = "LMSYS contest, R. Biswas (forum)"
PADDED = Run("Llama-3-8B, padded transformers", _LLAMA_8B, 25_000, 1800, 240.0, (1.0, 1.0, 1.0), True, _LMSYS)


def share_of(run: Run, factor: float) -> float:
    """Return the share of the peak at which the model of `judge.planning.card_time` takes the published time."""
    fast = run.minutes_at(1e9, factor)  # all terms but the FLOPs
    return (run.minutes_at(1.0, factor) - fast) / (run.minutes - fast)


def fit_share(runs: Sequence[Run], at: int = 1) -> float:
    """Return the share that fits runs best on a logarithmic scale; `at` picks the assumption on their lengths."""
    return math.exp(sum(math.log(share_of(run, run.factor[at])) for run in runs) / len(runs))


def t4_share() -> Share:
    """Return the share of a T4's peak that fits the published runs, which `judge.planning.card_time` states."""
    low = min(share_of(run, run.factor[0]) for run in RUNS)
    high = max(share_of(run, run.factor[2]) for run in RUNS)
    return Share(low, fit_share(RUNS), high, len(RUNS))


def leave_one_out(at: int = 1) -> dict[str, float]:
    """Return for each vLLM run the minutes predicted with the share fitted to the others."""
    others = {run.name: [other for other in RUNS if other is not run] for run in RUNS}
    return {run.name: run.minutes_at(fit_share(others[run.name], at), run.factor[at]) for run in RUNS}


def padded_range(share: float) -> tuple[float, float, float]:
    """Return the padded run's predicted minutes: no padding at all, the geometric middle, all rows at the budget."""
    low, high = PADDED.minutes_at(share, 1.0), PADDED.minutes_at(share, 1.0, padded_whole=True)
    return low, math.sqrt(low * high), high


def table_lines() -> Iterator[str]:
    """Yield the table of docs/planning.md: published and predicted times, each predicted from the others."""
    yield "| two T4s | published | predicted from the others | error | with rows as LMSYS's | three times as long |"
    yield "|---|---|---|---|---|---|"
    columns = [leave_one_out(at) for at in (1, 0, 2)]
    for run in RUNS:
        values = [f"{column[run.name]:.1f} min" for column in columns]
        error = columns[0][run.name] / run.minutes - 1
        name = f"{run.name}, {run.rows} rows, {run.max_tokens:,} tokens"
        yield f"| {name} | {run.minutes:.1f} min | {values[0]} | {error:+.0%} | {values[1]} | {values[2]} |"
    low, middle, high = padded_range(t4_share().value)
    error = middle / PADDED.minutes - 1
    name = f"{PADDED.name}, {PADDED.rows:,} rows, {PADDED.max_tokens:,} tokens"
    hours = f"{middle / 60:.1f} h ({low / 60:.1f} without padding, {high / 60:.1f} all padded)"
    yield f"| {name} | {PADDED.minutes / 60:.1f} h | {hours} | {error:+.0%} | | |"
