"""The figures of held-out rows while a judge is trained, and those of a judge that knows nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from judge.prompting.verdict import probabilities, verdict_mass
from judge.stats.metrics import MARGIN, accuracy, log_loss

Figures = dict[str, float]
FIGURES = ("log_loss", "accuracy", "verdict_mass", "p_a", "p_b", "p_tie")


def heldout_figures(logprobs: NDArray[np.floating], labels: NDArray[np.integer]) -> Figures:
    """Return log loss, accuracy, mean verdict mass and mean predicted rates; the labels are hard ones.

    Args:
        logprobs: full-vocabulary log-probabilities of A, B and tie, shape (rows, 3).
        labels: 0, 1 or 2, shape (rows,).
    """
    p = probabilities(logprobs)
    figures = log_loss(p, labels), accuracy(p, labels), float(verdict_mass(logprobs).mean()), *p.mean(axis=0).tolist()
    return dict(zip(FIGURES, figures, strict=True))


def prior_figures(labels: NDArray[np.integer], train_labels: NDArray[np.integer]) -> dict[str, Figures]:
    """Return the held-out figures of two constant answers: 1/3 for each verdict, and the class rates of training.

    One is added to the count of each class, so that a class that training never saw gets a small probability.
    """
    counts = np.bincount(train_labels, minlength=3) + 1.0
    result = {}
    for name, rates in (("uniform", np.full(3, 1 / 3)), ("class prior", counts / counts.sum())):
        figures = heldout_figures(np.log(np.tile(rates, (len(labels), 1))), labels)
        result[name] = {**figures, "verdict_mass": float("nan")}
    # `accuracy` would take the first of three equal probabilities and return the rate of A.
    result["uniform"]["accuracy"] = 1 / 3
    return result


def table_lines(figures: dict[str, Figures]) -> list[str]:
    """Return the held-out figures as an aligned table."""
    lines = [f"{'held-out rows':<14}{'log loss':>10}{'accuracy':>10}{'mass':>8}   mean p(A, B, tie)"]
    for name, values in figures.items():
        mass = values["verdict_mass"]
        rates = "  ".join(f"{values[key]:.3f}" for key in ("p_a", "p_b", "p_tie"))
        shown = f"{mass:>8.4f}" if np.isfinite(mass) else f"{'-':>8}"
        lines.append(f"{name:<14}{values['log_loss']:>10.4f}{values['accuracy']:>10.1%}{shown}   {rates}")
    return lines


def learnt_nothing(figures: dict[str, Figures]) -> bool:
    """Whether the trained judge is not clearly better than the class rates."""
    return figures["after"]["log_loss"] >= figures["class prior"]["log_loss"] - MARGIN
