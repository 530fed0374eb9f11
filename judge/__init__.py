"""judge: turns a causal language model into a pairwise judge and runs it at scale.

>>> from judge import Judge                                             # doctest: +SKIP
>>> with Judge("path/to/model") as judge:                               # doctest: +SKIP
...     predictions = judge.score(frame)
"""

# This file imports nothing, not even from the standard library: `python -m judge` executes it while the user's working
# folder still stands first on the path (see `judge.__main__`), and `import judge` is to load neither pandas nor torch.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from judge.api import Judge
    from judge.errors import JudgeError, RunInterrupted
    from judge.version import __version__

__all__ = ["Judge", "JudgeError", "RunInterrupted", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Judge":
        from judge.api import Judge

        return Judge
    if name in ("JudgeError", "RunInterrupted"):
        from judge import errors

        return getattr(errors, name)
    if name == "__version__":
        from judge.version import __version__

        return __version__
    raise AttributeError(f"module 'judge' has no attribute {name!r}")
