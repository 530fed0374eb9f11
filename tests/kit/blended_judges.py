"""Simulated judges, their files of predictions, and blends of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from judge.evaluation.settings import EnsembleSettings
from judge.prompting.verdict import Float

WINNERS = ("model_a", "model_b", "tie")
QUICK = EnsembleSettings(resamples=200)


def drawn(seed: int, members: int, rows: int, zeros: bool = False) -> tuple[Float, Any]:
    """Random predictions of several members, shape (members, rows, 3), and labels."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.3, 0.5, 0.2], (members, rows))
    if zeros:
        p[rng.random((members, rows)) < 0.3] = np.eye(3)[rng.integers(0, 3)]
    return p, rng.integers(0, 3, rows)


def simulated(rows: int, seed: int, noise: tuple[float, ...], prompts: int | None = None) -> tuple[pd.DataFrame, Float]:
    """A table whose labels follow known probabilities, and members that see their logits with noise of their own."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, (rows, 3))
    labels = [rng.choice(3, p=q) for q in softmax(logits, axis=1)]
    seen = [softmax((logits + rng.normal(0, s, logits.shape)) / np.sqrt(1 + s**2), axis=1) for s in noise]
    frame = pd.DataFrame(
        {
            "id": np.arange(rows) + 100,
            "prompt": [f"Question {i % (prompts or rows)}?" for i in range(rows)],
            "response_a": [f"first {i}" for i in range(rows)],
            "response_b": [f"second {i}" for i in range(rows)],
            "winner": [WINNERS[label] for label in labels],
        }
    )
    return frame, np.stack(seen)


def write(path: Path, ids: Any, p: Float, flags: list[str] | None = None) -> Path:
    frame = pd.DataFrame({"id": ids, "p_a": p[:, 0], "p_b": p[:, 1], "p_tie": p[:, 2]})
    frame["flags"] = flags or [""] * len(frame)
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def files(
    folder: Path, rows: int = 60, noise: tuple[float, ...] = (0.8, 0.8), seed: int = 0
) -> tuple[Path, list[Path]]:
    """A labelled table file and a file of predictions of each member."""
    frame, p = simulated(rows, seed, noise)
    frame.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv", [
        write(folder / f"{name}.parquet", frame["id"], q) for name, q in zip("xyz", p, strict=False)
    ]


def read_frame(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)
