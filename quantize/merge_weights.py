"""The arithmetic of merging: one base matrix and one adapter's matrices give one matrix, checked independently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from judge.errors import JudgeError

if TYPE_CHECKING:
    from torch import Tensor

# Rounding errors that a merged row may show, in units of float32's epsilon times the row's length. Float32 arithmetic
# stays below 1, products in reduced precision (TF32, bfloat16) or a wrong matrix are far above.
TOLERANCE = 16.0
_CHUNK = 2**24  # values that the check holds in float64 at a time, 128 MiB


@dataclass(frozen=True)
class Update:
    """What an adapter does to one matrix.

    Attributes:
        a: float32, shape (rank, inputs).
        b: float32, shape (outputs, rank).
        scale: alpha over rank, or over its square root (rsLoRA).
        magnitude: lengths of the merged matrix's rows, float32, shape (outputs,), for DoRA; otherwise None.
        turned: whether the base stores (inputs, outputs), as embeddings and GPT-2's `Conv1D` do.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None
    turned: bool = False


def merged_weight(weight: Tensor, update: Update) -> Tensor:
    """Return W + s B A in float32, shape as `weight`; with DoRA, each output's row scaled to its magnitude.

    LoRA: Hu et al. 2021; rsLoRA: Kalajdzievski 2023; DoRA: Liu et al. 2024, with the norm over a row's inputs as in
    PEFT (`peft.tuners.lora.dora.DoraLinearLayer.get_weight_norm`).

    Args:
        weight: the base's matrix, any float dtype, (outputs, inputs), or (inputs, outputs) where turned.
    """
    import torch

    left, right = (update.a.T, update.b.T) if update.turned else (update.b, update.a)
    merged: Tensor = torch.addmm(weight.float(), left, right, alpha=update.scale)
    if update.magnitude is not None:
        norm = torch.linalg.norm(merged, dim=0 if update.turned else 1)
        factor = update.magnitude / norm
        merged *= factor if update.turned else factor[:, None]
    return merged


def check_merged(merged: Tensor, weight: Tensor, update: Update, name: str) -> float:
    """Check a merged matrix with a random vector x: W'x = Wx + s B(Ax), after Freivalds 1977.

    The right side never forms B A, nor, for DoRA, the norm of a merged row; both sides are summed in float64.

    Returns:
        The largest error of a row, relative to float32's epsilon and the length of the rows it was made from.

    Raises:
        JudgeError: it is more than float32 arithmetic explains.
    """
    import torch

    outputs, inputs = len(update.b), update.a.shape[1]
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (inputs,), generator=generator).double() * 2 - 1
    a, b = update.a.double(), update.b.double()
    shift = update.scale * (b @ (a @ x))
    # how long the rows of s B A can be: what the errors of their products grow with
    reach = abs(update.scale) * b.norm(dim=1) * a.norm()
    worst = 0.0
    step = max(_CHUNK // inputs, 1)
    for rows in (slice(i, i + step) for i in range(0, outputs, step)):
        w, found = ((t[:, rows].T if update.turned else t[rows]).double() for t in (weight, merged))
        expected, size = w @ x + shift[rows], w.norm(dim=1) + reach[rows]
        if update.magnitude is not None:
            factor = update.magnitude[rows].double() / _norms(w, a, b[rows], update.scale)
            expected, size = expected * factor, size * factor.abs()
        error = (found @ x - expected).abs() / (size * torch.finfo(torch.float32).eps + 1e-30)
        largest = float(error.max())
        if not largest <= TOLERANCE:  # also where it is no number
            raise JudgeError(
                f"{name}: the merged matrix fails its check (W'x differs from Wx + sB(Ax) by {largest:.0f} units of "
                "rounding): damaged weights, or a processor that does not multiply in float32"
            )
        worst = max(worst, largest)
    return worst


def _norms(w: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return the norms of the rows of W + s B A, from inner products: |w|² + 2s b·(A w) + s² b·(A Aᵀ b)."""
    cross = (b * (w @ a.T)).sum(dim=1)
    squares = (b @ (a @ a.T) * b).sum(dim=1)
    norms: Tensor = ((w * w).sum(dim=1) + 2 * scale * cross + scale**2 * squares).sqrt()
    return norms
