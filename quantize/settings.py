"""The settings of quantising: every field is a flag of `judge quantize`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BackEndName = Literal["llm-compressor", "autoawq"]


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
