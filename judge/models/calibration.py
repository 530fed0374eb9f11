"""A calibration: a few numbers that turn a judge's probabilities into better ones, and how they are applied.

Everything a calibration does happens in `Calibration.apply`, which both `judge calibrate` and `judge score` call.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from judge.prompting.verdict import SWAPPED, Float, mean_of_read, probabilities

Method = Literal["temperature", "temperature+bias", "vector", "position", "contextual"]
METHODS: tuple[Method, ...] = get_args(Method)
# These methods act on each order, as the prompt shows the responses. The others act on the averaged probabilities.
IN_PROMPT: tuple[Method, ...] = ("position", "contextual")
Orders = Literal["one", "some", "both"]
ORDERS: dict[Orders, str] = {"one": "one order", "some": "both orders of some rows", "both": "both orders"}

Three = tuple[float, float, float]
# Smaller probabilities count as this, as in `judge.stats.metrics.log_losses`.
SMALLEST = float(np.finfo(np.float64).eps)
# A smaller bias is not worth mentioning.
_SMALL_BIAS = 0.02
# A scale below this ignores the log-probability that it multiplies.
_NO_SCALE = 1e-3

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Fitted(BaseModel):
    """What a calibration was fitted on, and its gain on rows that it had not seen.

    Attributes:
        predictions: SHA-256 of the predictions file.
        prompt: `judge.prompting.builder.PromptBuilder.fingerprint` of the run that wrote it, where that is known.
        orders: in which orders its rows were read.
        rows, groups: labelled rows, and prompt groups among them.
        log_loss: before and after, out of fold, in nats.
        ece: expected calibration error before and after, out of fold.
        gain: how much lower the log loss is, and the ends of its interval, in nats.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    predictions: str
    prompt: str | None
    orders: Orders
    rows: int
    groups: int
    log_loss: tuple[float, float]
    ece: tuple[float, float]
    gain: tuple[float, float | None, float | None]


class Calibration(BaseModel):
    """`softmax(scale * log p + bias)`.

    Attributes:
        method: `temperature` (C. Guo et al., On Calibration of Modern Neural Networks, 2017): one scale, the inverse
            of the temperature. `temperature+bias`: one scale, and a bias for each verdict. `vector` (the same paper):
            a scale and a bias for each verdict. `position`: temperature and bias, where A is the response that the
            prompt shows first. `contextual` (T. Z. Zhao et al., Calibrate Before Use, 2021): the log-probabilities of
            prompts without content are subtracted; it needs no label.
        scale: for A, B and tie, 0 or more.
        bias: for A, B and tie; they sum to 0.
        fitted: what it was fitted on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method
    scale: tuple[_Scale, _Scale, _Scale]
    bias: tuple[_Finite, _Finite, _Finite]
    fitted: Fitted | None = None

    def apply(self, first: NDArray[np.floating], second: NDArray[np.floating]) -> Float:
        """Return calibrated probabilities, averaged over the orders that were read, shape (rows, 3).

        Args:
            first: probabilities with A shown first, shape (rows, 3); NaN where not read.
            second: probabilities with B shown first, mapped back to the table's A and B; NaN where not read.

        Returns:
            float64; NaN for a row that was not read at all.
        """
        if self.method not in IN_PROMPT:
            return self._transformed(mean_of_read(first, second))
        exchanged = np.asarray(second, dtype=np.float64)[:, SWAPPED]
        return mean_of_read(self._transformed(first), self._transformed(exchanged)[:, SWAPPED])

    def _transformed(self, p: NDArray[np.floating]) -> Float:
        return probabilities(log_of(p) * np.array(self.scale) + np.array(self.bias))

    def numbers(self) -> str:
        """Return all numbers that decide its results, in full precision: equal texts mean equal calibrations."""
        scale, bias = (",".join(map(repr, three)) for three in (self.scale, self.bias))
        return f"{self.method} scale={scale} bias={bias}"

    def in_words(self) -> str:
        """Return its parameters as a person reads them."""
        names = ("first", "second", "tie") if self.method in IN_PROMPT else ("A", "B", "tie")
        bias = ", ".join(f"{name} {round(value, 2) + 0.0:+.2f}" for name, value in zip(names, self.bias, strict=True))
        if self.method == "contextual":
            return f"log-probabilities without content subtracted: {bias}"
        if self.method == "vector":
            scale = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, self.scale, strict=True))
            return f"scale {scale}; bias {bias}{_used_alone(names, self.scale)}"
        text = _temperature(self.scale[0])
        if self.method == "temperature":
            return text
        lowest = int(np.argmin(self.bias))
        too_often = f" (the judge said {names[lowest]} too often)" if self.bias[lowest] < -_SMALL_BIAS else ""
        return f"{text}; bias {bias}{too_often}"


def _temperature(scale: float) -> str:
    if scale < _NO_SCALE:
        return "temperature without end: the judge's probabilities say nothing about the labels"
    value = f"temperature {1 / scale:.2f}"
    if abs(np.log(scale)) < np.log(1.02):
        return f"{value}: the judge was about as confident as it should be"
    return f"{value}: the judge was {'over' if scale < 1 else 'under'}-confident"


def _used_alone(names: tuple[str, str, str], scale: tuple[float, float, float]) -> str:
    """Say which of the judge's probabilities still count if the scale of another one is 0."""
    used = [name for name, value in zip(names, scale, strict=True) if value >= _NO_SCALE]
    if not used:
        return "; the judge's probabilities say nothing about the labels"
    return f"; only the judge's probability of {' and '.join(used)} is used" if len(used) < len(names) else ""


def log_of(p: NDArray[np.floating]) -> Float:
    """Return log-probabilities, float64, shape (rows, 3): none below that of `SMALLEST`. NaN stays."""
    values = np.asarray(p, dtype=np.float64)
    return np.asarray(np.log(np.maximum(values / values.sum(axis=1, keepdims=True), SMALLEST)))


def orders_read(first: NDArray[np.floating], second: NDArray[np.floating]) -> Orders:
    """Return in which orders rows were read; each row was read in one order at least.

    If all but 1% of the rows were read in both orders, the answer is `both`: the others failed in one order.
    """
    both = ~(np.isnan(first).any(axis=1) | np.isnan(second).any(axis=1))
    return "both" if both.mean() > 0.99 else "some" if both.any() else "one"
