"""What every quantising back end is asked and must answer, and what both share: the loaded model, and silence."""

from __future__ import annotations

import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from judge.models.load import load_weights
from judge.runs.progress import Progress
from quantize.layers import Layers
from quantize.settings import BackEndName, QuantizeSettings

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]
# These libraries log through loguru, which does not follow the levels of Python's own logging.
_LOGURU = ("llmcompressor", "compressed_tensors")
_LOG_SWITCH = "LLM_COMPRESSOR_LOG_DISABLED"


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
        return []

    def kept_tokens(self, lengths: Sequence[int]) -> int:
        """Return how many tokens calibration keeps for prompts of these lengths, padding included."""

    def run(self, job: Job, settings: QuantizeSettings, progress: Progress) -> dict[str, Any]:
        """Quantise and write config and weights; return what the record should say besides."""


def load_for_calibration(job: Job) -> Any:
    """Load the 16-bit model: in float32 on a CPU, where 16 bits are slow, and as stored on a GPU.

    Raises:
        JudgeError: tensors are missing.
    """
    import torch

    dtype = torch.float32 if job.device == "cpu" else getattr(torch, sixteen_bits(job.dtype))
    model = load_weights(job.source, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    return model.eval()


def sixteen_bits(dtype: str) -> str:
    """Return the 16-bit format for a source's number format: the same, or float16 for float32."""
    return dtype if dtype in ("float16", "bfloat16") else "float16"


def stored_dtype(source: str, tensors: Iterable[torch.Tensor]) -> str:
    """Return the format of what stays in 16 bits: the source's, or bfloat16 if a value is too large for float16."""
    import torch

    wanted = sixteen_bits(source)
    largest = max((float(t.abs().max()) for t in tensors if t.is_floating_point() and t.numel()), default=0.0)
    return "bfloat16" if wanted == "float16" and largest > torch.finfo(torch.float16).max else wanted


def source_use_cache(job: Job) -> Any:
    """Return what the source's config says of the cache; calibration switches it off."""
    return json.loads((job.source / "config.json").read_text(encoding="utf-8")).get("use_cache", True)


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Import a library, and silence warnings, progress bars and logs inside the block."""
    import tqdm.std

    disabled, start = logging.root.manager.disable, tqdm.std.tqdm.__init__

    def without_bar(bar: Any, *args: Any, **kwargs: Any) -> None:
        start(bar, *args, **{**kwargs, "disable": True})

    with warnings.catch_warnings():
        # AutoAWQ sets its own filter when it is imported, so a filter of ours would not last
        warnings.showwarning = lambda *_, **__: None
        logging.disable(logging.ERROR)
        tqdm.std.tqdm.__init__ = without_bar
        _let_log(False)
        try:
            _import(library)
            _let_log(False)
            yield
        finally:
            _let_log(True)
            tqdm.std.tqdm.__init__ = start
            logging.disable(disabled)


def _import(library: str) -> None:
    """Import a library without a log: llm-compressor sets one up when it is imported, and writes to it at once."""
    before = os.environ.get(_LOG_SWITCH)
    os.environ[_LOG_SWITCH] = "true"
    try:
        importlib.import_module(library)
    finally:
        if before is None:
            del os.environ[_LOG_SWITCH]
        else:
            os.environ[_LOG_SWITCH] = before


def _let_log(on: bool) -> None:
    try:
        from loguru import logger
    except ImportError:  # it comes with llm-compressor
        return
    for name in _LOGURU:
        (logger.enable if on else logger.disable)(name)
