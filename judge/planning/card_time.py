"""What a run costs on a card whose rates its data sheet tells: the terms of docs/planning.md.

    seconds of an engine = FLOPs / (cards x peak x share)
                         + bytes moved / bandwidth
                         + steps x layers x launch + prompts x host
                         + bytes sent between its cards / link

Only the share of the peak is fitted to measured times (`bench/published.py`). The other terms are stated assumptions;
they are small for the prompts of a judge.
"""

from __future__ import annotations

from dataclasses import dataclass

from judge.hardware.cards import Card
from judge.models.arithmetic import ModelShape
from judge.planning.time_model import TimeModel

# One layer of one step in eager mode: about fifteen kernels of 10 us each.
LAUNCH_SECONDS = 150e-6
# What the host does for one prompt: scheduling, sampling and the three log-probabilities.
HOST_SECONDS = 2e-3
# Between cards: PCIe 3.0 x16 gives at most 15.75 GB/s, and the host is shared; NVLink 4 (SXM) gives 450 GB/s.
LINK_BYTES, NVLINK_BYTES = 10e9, 300e9
_WITH_NVLINK = ("H100 SXM", "H200")


@dataclass(frozen=True)
class Share:
    """The share of a card's dense peak that an engine reaches: low, likely, high; from so many measured runs."""

    low: float
    value: float
    high: float
    runs: int


# Fitted to the published runs of bench/published.py; a test fits them again and compares.
T4_SHARE = Share(0.16006164675962756, 0.3187651101108192, 0.5460826330466967, runs=4)
# Nobody has timed a judge on the other cards. A prefill that computes most of the time reaches about this much.
UNMEASURED_SHARE = Share(0.2, 0.4, 0.7, runs=0)


def share_of_peak(card: Card) -> Share:
    """Return the share of a card's peak that an engine reaches: measured for the T4, wide bounds for the others."""
    return T4_SHARE if card.name == "T4" else UNMEASURED_SHARE


@dataclass(frozen=True)
class Engine:
    """One engine of a plan.

    Attributes:
        shape: of the model that it runs.
        card, cards: which card it runs on, and how many of them.
        bytes_per_value: of activations and of weights that are not packed.
        batch_tokens: most tokens of a step.
    """

    shape: ModelShape
    card: Card
    cards: int
    bytes_per_value: int
    batch_tokens: int

    @property
    def peak(self) -> float:
        """Dense FLOP/s of one card in the engine's arithmetic."""
        return self.card.float32 if self.bytes_per_value == 4 else self.card.float16


def bytes_per_token(engine: Engine) -> float:
    """Return the bytes that one token moves between the card and its memory, without the weights.

    Every matrix product reads its input and writes its output; norms and residual sums read and write the hidden
    state twice; keys and values are written and read once.
    """
    shape, hidden = engine.shape, engine.shape.hidden
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = (hidden + queries + 2 * keys) + (queries + hidden)
    total = 0.0
    for mixed in shape.expert_layers:
        inner = shape.intermediate
        if mixed:
            inner = shape.experts_per_token * shape.expert_intermediate + shape.shared_intermediate
        feed_forward = (hidden + 2 * inner) + 3 * inner + (inner + hidden)
        total += attention + feed_forward + 8 * hidden
    return total * engine.bytes_per_value + 2 * shape.cache_bytes_per_token(engine.bytes_per_value)


def engine_model(engine: Engine, share: float) -> TimeModel:
    """Return the costs of one engine that reaches a share of its cards' peak."""
    cards, bandwidth = engine.cards, engine.card.bandwidth
    step = engine.shape.weight_bytes(engine.bytes_per_value) / cards / bandwidth + engine.shape.layers * LAUNCH_SECONDS
    per_token = step / engine.batch_tokens + bytes_per_token(engine) / cards / bandwidth
    # each card sends two sums over the cards in every layer (a ring)
    sums = 2 * engine.shape.layers * engine.shape.hidden * engine.bytes_per_value
    sent = sums * 2 * (cards - 1) / cards
    link = NVLINK_BYTES if engine.card.name in _WITH_NVLINK else LINK_BYTES
    return TimeModel(
        per_flop=1 / (engine.peak * share * cards),
        per_token=per_token + sent / link,
        per_prompt=HOST_SECONDS,
        spread=0.0,
        source="data sheet",
    )
