"""What an arm costs, beside how well it judges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from judge.experiment.arm_scores import ArmScores
from judge.experiment.result import Cost
from judge.prompting.verdict import unread
from judge.tables.comparison import Flag


def cost_of(scores: Sequence[ArmScores]) -> Cost:
    """Return the cost of an arm from its scores, one or one for each training seed, over the rows that it read."""
    read = [one.read for one in scores]
    tokens = np.concatenate([one.tokens[rows] for one, rows in zip(scores, read, strict=True)])
    cut = np.concatenate([one.cut[rows] for one, rows in zip(scores, read, strict=True)])
    flags = np.concatenate([one.flags[rows] for one, rows in zip(scores, read, strict=True)])
    mass = np.concatenate([one.mass for one in scores])
    first, second = (np.concatenate([getattr(one, name) for one in scores]) for name in ("first", "second"))
    both = ~unread(first) & ~unread(second)
    same = first[both].argmax(axis=1) == second[both].argmax(axis=1)
    per_row = float(tokens.mean()) if len(tokens) else 0.0
    known = mass[np.isfinite(mass)]
    return Cost(
        arm=scores[0].name,
        tokens_per_row=per_row,
        rows_per_second=_speed(scores, per_row),
        cut_share=float(cut.mean()) if len(cut) else 0.0,
        median_mass=float(np.median(known)) if len(known) else None,
        consistency=float(same.mean()) if len(same) else None,
        both_share=float(both.sum()) / max(len(tokens), 1),
        not_scored=int(((flags & np.uint32(Flag.NOT_SCORED)) != 0).sum()),
    )


def _speed(scores: Sequence[ArmScores], tokens_per_row: float) -> float | None:
    """Return rows a second: by tokens, since some prompts of a row may have come from the cache."""
    tokens, seconds = sum(one.tokens_read for one in scores), sum(one.seconds for one in scores)
    return tokens / seconds / tokens_per_row if tokens and seconds > 0 and tokens_per_row > 0 else None
