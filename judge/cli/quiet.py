"""Silencing what libraries say while they load: bars, advice and logs that are not about the user's run."""

from __future__ import annotations

import logging
import os

# Set before torch, transformers and their loggers are imported.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def quiet_libraries() -> None:
    """Silence the libraries of training and merging; call it before they are imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("accelerate", "trl", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("bitsandbytes", "peft"):  # what fails in them is raised, too
        logging.getLogger(name).setLevel(logging.CRITICAL)
