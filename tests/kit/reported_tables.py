"""Evaluations for reports, and sections as XML."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from judge.evaluation.settings import EvaluateSettings
from judge.prompting.verdict import Float
from judge.report.page import Section

QUICK = EvaluateSettings(resamples=200)
WINNERS = np.array(["model_a", "model_b", "tie"])


def frame_of(count: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"row-{i}" for i in range(count)],
            "prompt": [f"Question {i}?" for i in range(count)],
            "response_a": ["word " * int(n) for n in rng.integers(1, 400, count)],
            "response_b": ["word " * int(n) for n in rng.integers(1, 400, count)],
            "winner": WINNERS[rng.integers(0, 3, count)],
        }
    )
    return frame.assign(**columns)


def probabilities_for(frame: pd.DataFrame, knowledge: float, seed: int = 1) -> Float:
    """Probabilities that lean towards the label by `knowledge` logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(frame), 3)) * 0.5
    logits += knowledge * (frame["winner"].to_numpy()[:, np.newaxis] == WINNERS)
    p: Float = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p


def parsed(section: Section) -> ElementTree.Element:
    root = ElementTree.fromstring(f"<root>{section.html}</root>")  # noqa: S314 - our own
    for element in root.iter():
        assert element.tag not in ("script", "style", "img", "iframe", "a")
        assert [k for k in element.attrib if k.startswith("on") or k in ("style", "href", "src")] == []
    return root


def text_of(section: Section) -> str:
    pieces = [" ".join(e.itertext()) for e in parsed(section)]
    return " ".join(" ".join(pieces).split())
