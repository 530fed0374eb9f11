"""What every quantising back end is asked and must answer, and what both share: the loaded model, and silence."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from judge.models.bundle import ModelFolder
from judge.models.load import load_weights
from judge.runs.progress import Progress
from quantize.layers import Layers
from quantize.settings import BackEndName, QuantizeSettings

Device = Literal["cpu", "cuda"]
# These libraries log through loguru, which does not follow the levels of Python's own logging.
_LOGURU = ("llmcompressor", "compressed_tensors")
# llm-compressor sets a log up when it is imported, and writes to it at once, unless the environment says this.
_LOG_SWITCH = "LLM_COMPRESSOR_LOG_DISABLED"


@dataclass(frozen=True)
class Job:
    """What a back end is asked to do.

    Attributes:
        model: the 16-bit model.
        target: an empty folder for config and weights.
        ids: token ids of the calibration prompts.
        group_size: weights that share a scale.
    """

    model: ModelFolder
    layers: Layers
    settings: QuantizeSettings
    target: Path
    ids: list[list[int]]
    group_size: int
    device: Device

    def tell(self, progress: Progress, done: int) -> None:
        """Tell how many of the decoder blocks are quantised."""
        blocks = int(self.model.text_config.get("num_hidden_layers", 0))
        done = min(done, blocks)
        progress.step("quantising", done, blocks, f"{done} of {blocks} layers")


class BackEnd(Protocol):
    """A library that quantises.

    Attributes:
        name: as in the settings.
        packages: the distributions whose versions the record names, the one to install first.
        layout: what the written layout is called.
        copies: how often the inputs of a block's layers are held at once, for the memory estimate.
        padded: whether calibration pads all prompts to the longest; otherwise they run one by one.
        note: what a user should know before, or None.
    """

    name: BackEndName
    packages: tuple[str, ...]
    layout: str
    copies: int
    padded: bool
    note: str | None = None

    def refusal(self, layers: Layers, model_type: str) -> str | None:
        """Return why the back end cannot quantise a model, or None."""

    def run(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Quantise and write config and weights; return what the record should say besides."""


def load_for_calibration(job: Job) -> Any:
    """Load the 16-bit model: in float32 on a CPU, where 16 bits are slow, and as stored on a GPU.

    Raises:
        JudgeError: tensors are missing.
    """
    import torch

    dtype = torch.float32 if job.device == "cpu" else getattr(torch, sixteen_bits(job.model.dtype))
    model = load_weights(job.model.path, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    return model.eval()


def sixteen_bits(dtype: str) -> str:
    """Return the 16-bit format for a source's number format: the same, or float16 for float32."""
    return dtype if dtype in ("float16", "bfloat16") else "float16"


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
        os.environ[_LOG_SWITCH] = "true"
        try:
            importlib.import_module(library)
            _let_log(False)
            yield
        finally:
            _let_log(True)
            tqdm.std.tqdm.__init__ = start
            logging.disable(disabled)


def _let_log(on: bool) -> None:
    try:
        from loguru import logger
    except ImportError:  # it comes with llm-compressor
        return
    for name in _LOGURU:
        (logger.enable if on else logger.disable)(name)
