"""What every quantising back end is asked, and what it must answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from quantize.events import QuantizeEvents
from quantize.layers import Layers

BackEndName = Literal["llm-compressor", "autoawq"]
Device = Literal["cpu", "cuda"]


class QuantizeSettings(BaseModel):
    """How a model is quantised."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: BackEndName = Field(
        default="llm-compressor",
        description="Library: its output is compressed-tensors (pack-quantized), or the classic AWQ GEMM layout.",
    )
    group_size: Literal[128, 64, 32] | None = Field(
        default=None,
        description="Weights of a row that share a scale: 128, 64 or 32. [default: the largest that fits all layers]",
    )
    samples: int = Field(default=128, ge=1, description="Calibration prompts.")
    sample_tokens: int = Field(default=1024, ge=1, description="Longest calibration prompt, in tokens.")
    seed: int = Field(default=0, ge=0, description="Seed of the sample.")
    grid: int = Field(
        default=20, ge=4, description="Scales that are tried for each layer; the time goes up with their number."
    )
    clip: bool = Field(default=False, description="autoawq: also search where to clip each group (slow).")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where calibration runs.")


class Job(BaseModel):
    """What a back end is asked to do.

    Attributes:
        source: folder of the 16-bit model.
        target: an empty folder for config and weights.
        ids: token ids of the calibration prompts.
        group_size: weights that share a scale.
        blocks: decoder blocks, for the progress.
        head: name of the output head, which stays.
        device: where to run.
        dtype: number format of the source.
    """

    model_config = ConfigDict(frozen=True)

    source: Path
    target: Path
    ids: list[list[int]]
    group_size: int
    blocks: int
    head: str
    device: Device
    dtype: str


class BackEnd(Protocol):
    """A library that quantises.

    Attributes:
        name: as in the settings.
        packages: the distributions whose versions the record names, the one to install first.
        layout: what the written layout is called.
        copies: how often the inputs of a block's layers are held at once, for the memory estimate.
    """

    name: BackEndName
    packages: tuple[str, ...]
    layout: str
    copies: int

    def refusal(self, layers: Layers, model_type: str) -> str | None:
        """Return why the back end cannot quantise a model, or None."""

    def notes(self) -> list[str]:
        """Return what a user should know before."""

    def kept_tokens(self, lengths: Sequence[int]) -> int:
        """Return how many tokens calibration keeps for prompts of these lengths, padding included."""

    def run(self, job: Job, settings: QuantizeSettings, events: QuantizeEvents) -> dict[str, Any]:
        """Quantise and write config and weights; return what the record should say besides."""
