"""Keeping quiet the libraries that quantise: they log, warn and draw bars of their own."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Logging through loguru, which knows no levels of Python's own logging.
_LOGURU = ("llmcompressor", "compressed_tensors")
_LOG_SWITCH = "LLM_COMPRESSOR_LOG_DISABLED"


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Import a library and silence warnings, progress bars and logs inside the block; all is restored after it."""
    import tqdm.std

    disabled, start = logging.root.manager.disable, tqdm.std.tqdm.__init__

    def without_bar(bar: Any, *args: Any, **kwargs: Any) -> None:
        start(bar, *args, **{**kwargs, "disable": True})

    with warnings.catch_warnings():
        # not a filter: AutoAWQ sets one of its own when it is imported
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
    """Import a library; llm-compressor sets up its log then, and writes to it at once."""
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
