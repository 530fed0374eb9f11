"""The loss of one prompt: cross-entropy at the verdict's position, over three tokens or the whole vocabulary."""

from __future__ import annotations

from typing import Literal

import torch


def verdict_logprobs(logits: torch.Tensor, verdict_ids: torch.Tensor) -> torch.Tensor:
    """Return the full-vocabulary log-probabilities of A, B and tie, float32, shape (rows, 3).

    Args:
        logits: of the position before the verdict, any float type, shape (rows, vocabulary).
        verdict_ids: int64, shape (3,).
    """
    values = logits.float()
    return values.index_select(1, verdict_ids) - values.logsumexp(dim=1, keepdim=True)


def row_losses(
    logits: torch.Tensor,
    verdict_ids: torch.Tensor,
    target: torch.Tensor,
    over: Literal["verdicts", "vocabulary"],
) -> torch.Tensor:
    """Return each row's cross-entropy with its target, in nats, shape (rows,).

    Args:
        logits: of the position before the verdict, shape (rows, vocabulary).
        target: probabilities of A, B and tie, float32, shape (rows, 3).
        over: `vocabulary` is the usual loss of a language model on the verdict token, which also teaches to give
            nothing else; `verdicts` normalises over the three first, which is what the read-out does (as the
            third and fourth of the WSDM contest trained: see docs/training.md).
    """
    logprobs = verdict_logprobs(logits, verdict_ids)
    if over == "verdicts":
        logprobs = logprobs.log_softmax(dim=1)
    # 0 x -inf would be NaN; a target of 0 asks for nothing
    return -torch.where(target > 0, target * logprobs, 0.0).sum(dim=1)
