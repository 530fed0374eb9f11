"""judge: turns a causal language model into a pairwise judge and runs it at scale.

>>> from judge import Judge                                             # doctest: +SKIP
>>> with Judge("path/to/model") as judge:                               # doctest: +SKIP
...     predictions = judge.score(frame)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from judge.errors import JudgeError, RunInterrupted
from judge.version import __version__

if TYPE_CHECKING:
    from judge.api import Judge

__all__ = ["Judge", "JudgeError", "RunInterrupted", "__version__"]


def __getattr__(name: str) -> object:
    # Nothing heavy is imported before it is needed: `import judge` loads neither pandas nor torch.
    if name == "Judge":
        from judge.api import Judge

        return Judge
    raise AttributeError(f"module 'judge' has no attribute {name!r}")
