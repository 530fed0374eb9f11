"""A simple text baseline: what the lengths of the two responses alone say about the verdict.

People prefer the longer response more often than not, and call a tie less often the more the lengths differ. On the
LMSYS contest's table this alone gives a log loss of about 1.06, where the class rates give 1.097.
"""

from __future__ import annotations

import numpy as np

from judge.evaluation.judged_rows import JudgedRows
from judge.prompting.verdict import probabilities
from judge.stats.metrics import log_losses
from judge.stats.resample import Float, Undefined
from judge.stats.softmax_fit import fit_softmax
from judge.tables.split import folds

FOLDS = 5


def length_baseline(rows: JudgedRows, seed: int = 0) -> Float | Undefined:
    """Return the log loss of each row by a model of the lengths that was fitted without its prompt group.

    A multinomial logistic regression on the log ratio of the lengths and its size, cross-validated over groups. One row
    of each verdict is added to what it was fitted on (the rule of succession): a verdict that no row of the other folds
    has would else cost 15 nats or more, which speaks for nobody's judge.

    Returns:
        Shape (rows,), nats; undefined with fewer groups than folds or a single class.
    """
    if len(np.unique(rows.labels)) < 2:
        return Undefined("the labels have one class only")
    groups = len(np.unique(rows.groups))
    if groups < FOLDS:
        return Undefined(f"fewer prompt groups ({groups}) than folds ({FOLDS})")
    design = _design(rows.facts.characters)
    fold = folds(rows.groups, rows.labels, FOLDS, seed)
    losses = np.empty(len(rows))
    for number in range(FOLDS):
        held = fold == number
        theta = fit_softmax(design[~held], rows.labels[~held])
        fitted = int((~held).sum())
        p = (fitted * probabilities(design[held] @ theta) + 1) / (fitted + 3)
        losses[held] = log_losses(p, rows.labels[held])
    return losses


def _design(characters: np.ndarray) -> Float:
    """Return what the verdicts' logits are made of, shape (rows, 3, 6)."""
    a, b = np.log1p(characters[:, 1].astype(np.float64)), np.log1p(characters[:, 2].astype(np.float64))
    ratio = a - b
    design = np.zeros((len(ratio), 3, 6))
    for verdict in (0, 2):  # B's logit is 0, which the softmax leaves free
        design[:, verdict, 3 * (verdict // 2) : 3 * (verdict // 2) + 3] = np.column_stack(
            [np.ones(len(ratio)), ratio, np.abs(ratio)]
        )
    return design
