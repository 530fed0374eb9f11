"""The figures of held-out rows while a judge is trained, beside what a judge that knows nothing gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    mean = p.mean(axis=0)
    return {
        "log_loss": log_loss(p, labels),
        "accuracy": accuracy(p, labels),
        "verdict_mass": float(verdict_mass(logprobs).mean()),
        "p_a": float(mean[0]),
        "p_b": float(mean[1]),
        "p_tie": float(mean[2]),
    }


def prior_figures(labels: NDArray[np.integer], train_labels: NDArray[np.integer]) -> dict[str, Figures]:
    """Return the figures on the held-out labels of saying 1/3 each, and of saying the training rows' class rates.

    One is added to each class's count, so that a class that training never saw has a small probability.
    """
    counts = np.bincount(train_labels, minlength=3) + 1.0
    result = {}
    for name, rates in (("uniform", np.full(3, 1 / 3)), ("class prior", counts / counts.sum())):
        figures = heldout_figures(np.log(np.tile(rates, (len(labels), 1))), labels)
        result[name] = {**figures, "verdict_mass": float("nan")}
    # argmax of equal numbers would be A's rate
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


def draw_curve(path: Path, lines: list[dict[str, Any]], figures: dict[str, Figures]) -> None:
    """Draw the training loss and the held-out log loss over the steps, with the two baselines, as a PNG.

    Args:
        lines: the lines of the metrics file (`judge.training.callbacks.read_metrics`).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loss = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    held_out = [(line["step"], line["eval_log_loss"]) for line in lines if "eval_log_loss" in line]
    held_out = [(0, figures["before"]["log_loss"]), *held_out]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="nats", title="Loss while training")
    axes.plot(*zip(*loss, strict=True), color="#9db4c0", linewidth=1, label="training loss") if loss else None
    axes.plot(*zip(*held_out, strict=True), color="#1d3557", marker="o", label="held-out log loss")
    for name, style in (("uniform", ":"), ("class prior", "--")):
        axes.axhline(figures[name]["log_loss"], color="#777777", linestyle=style, linewidth=1, label=name)
    axes.set_ylim(0, min(max(value for _, value in held_out), 3 * figures["uniform"]["log_loss"]) * 1.1)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120, format="png")
