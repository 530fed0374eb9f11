"""The settings of a scoring run, and what the swap policy and the calibration come to."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from judge.engine.choose import PoolSettings
from judge.errors import JudgeError
from judge.models.bundle import ModelFolder
from judge.models.calibration import ORDERS, Calibration, Orders
from judge.models.prompting import PromptSettings
from judge.prompting.builder import PromptBuilder


class ScoreSettings(PromptSettings, PoolSettings):
    """How a table is scored."""

    swap: str = Field(
        default="off",
        description="Read rows with A and B exchanged too: off, all, auto, or the least certain N%.",
    )
    calibration: Literal["auto", "off"] = Field(
        default="auto", description="Apply the calibration that is stored in the bundle, or not."
    )


def swap_share(swap: str) -> float | None:
    """Return the share of rows to read in both orders, between 0 and 1, or None for `auto`.

    Raises:
        JudgeError: not `off`, `all`, `auto` or a percentage.
    """
    if swap in ("off", "all", "auto"):
        return {"off": 0.0, "all": 1.0, "auto": None}[swap]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", swap.strip())
    if not match or float(match[1]) > 100:
        raise JudgeError(f"--swap={swap}: expected off, all, auto or a percentage such as 25%")
    return float(match[1]) / 100


def choose_calibration(model: ModelFolder, settings: ScoreSettings) -> Calibration | None:
    """Return the calibration that the bundle holds, or None where there is none or it is not wanted."""
    return model.judge.calibration if model.judge and settings.calibration == "auto" else None


def differs_from_calibrating(
    calibration: Calibration | None, settings: ScoreSettings, builder: PromptBuilder
) -> str | None:
    """Return how a run differs from the one that the calibration was fitted on, or None."""
    if calibration is None or calibration.fitted is None:
        return None
    share = swap_share(settings.swap)
    orders: Orders = "both" if share == 1 else "one" if share == 0 else "some"
    fitted, differences = calibration.fitted, []
    if orders != fitted.orders:
        differences.append(f"it was fitted on {ORDERS[fitted.orders]}, and this run reads {ORDERS[orders]} (--swap)")
    if fitted.prompt not in (None, builder.fingerprint()):
        differences.append("it was fitted on prompts of another template or budget")
    advice = "; calibrate on predictions made like these, or pass --calibration=off"
    return f"the calibration may not fit: {' and '.join(differences)}{advice}" if differences else None
