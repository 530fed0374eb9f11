"""Which rows belong together, and splits that keep them together.

Rows with the same first prompt are a prompt group. A split never divides a group: a judge that was trained on a
question has an advantage on every other pair of answers to it, so figures from a split by rows would be too good.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, counted, printable
from judge.tables.comparison import NO_LABEL, Comparison, Turns


def normalise(text: str) -> str:
    """Return a text for comparisons: NFKC, case-folded, each run of white space one space, none at the ends."""
    if text.isascii():
        return " ".join(text.lower().split())
    # Twice, because a folded letter can compose anew (Unicode's toNFKC_Casefold has the same order).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(unicodedata.normalize("NFKC", folded.casefold()).split())


def first_prompt(row: Comparison) -> str:
    """Return the normalised text of the first prompt turn that is not blank; empty if all are blank."""
    return next((text for turn in row.prompt if turn and (text := normalise(turn))), "")


def group_key(row: Comparison) -> int:
    """Return the key of a row's group, an unsigned 64-bit number: the SHA-256 of its first prompt.

    The first prompt is `first_prompt`'s: normalised, without blank first turns. A row whose prompts are all blank has a
    group by its content, which it shares only with its copies, also exchanged ones: nothing says that two such rows ask
    the same, and one group of all of them could be too large to balance.
    """
    prompt = first_prompt(row)
    return _key("prompt", prompt) if prompt else _key("row", *_contents(row))


def row_key(row: Comparison) -> int:
    """Return a key of a row's content, an unsigned 64-bit number, which is equal for a copy with A and B exchanged.

    The content is all turns of the prompt and of both responses, normalised.
    """
    return _key("row", *_contents(row))


def responses_key(row: Comparison) -> int:
    """Return a key of the unordered pair of responses, whatever the prompt."""
    return _key("responses", *_contents(row)[1:])


def in_order(row: Comparison) -> bool:
    """Return whether A comes before B by content; for a copy with A and B exchanged the answer is the opposite.

    If both responses are the same, it is True for both.
    """
    return _conversation(row.response_a) <= _conversation(row.response_b)


def stratum(row: Comparison) -> int:
    """Return the verdict that a split balances: the hard label, or the most probable by the soft one, or -1."""
    if row.label != NO_LABEL or row.target is None:
        return row.label
    return row.target.index(max(row.target))


def _contents(row: Comparison) -> tuple[str, str, str]:
    first, second = sorted((_conversation(row.response_a), _conversation(row.response_b)))
    return _conversation(row.prompt), first, second


def _conversation(turns: Turns) -> str:
    return json.dumps([None if turn is None else normalise(turn) for turn in turns])


def _key(*parts: str) -> int:
    # JSON, so that no two lists of parts give the same bytes
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")


def parse_fold(text: str) -> tuple[int, int]:
    """Return the number, counted from 1, and the count of a fold such as `2/5`: the second of five parts of a table.

    Raises:
        JudgeError: not two whole numbers, fewer than two folds, or a number that is not one of them.
    """
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text.strip())
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if count < 2 or not 1 <= number <= count:
        raise JudgeError(
            f"fold {printable(text)!r}: expected NUMBER/COUNT such as 2/5, counted from 1, at least 2 folds"
        )
    return number, count


def hold_out(groups: NDArray[np.uint64], labels: NDArray[np.integer], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose the rows that are held out: whole groups, about `share` of the rows of every label.

    Args:
        groups: the group key of each row, shape (rows,).
        labels: the label of each row (`stratum`), shape (rows,); any integers.
        share: how much to hold out, over 0 and under 1.
        seed: another seed holds out other groups; the order of the rows makes no difference.

    Returns:
        True for the rows that are held out, shape (rows,).

    Raises:
        JudgeError: an impossible share, or fewer than two groups.
    """
    if not 0 < share < 1:
        raise JudgeError(f"hold-out share {share}: expected a number between 0 and 1, such as 0.1")
    return np.asarray(_deal(groups, labels, np.array([1 - share, share]), seed) == 1, np.bool_)


def folds(groups: NDArray[np.uint64], labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Divide the rows into `count` folds of about equal size and label rates, whole groups together.

    Arguments as in `hold_out`.

    Returns:
        The fold of each row, 0 to count - 1, shape (rows,).

    Raises:
        JudgeError: fewer than two folds, or fewer groups than folds.
    """
    if count < 2:
        raise JudgeError(f"{count} folds: expected at least 2")
    return _deal(groups, labels, np.full(count, 1 / count), seed)


def _deal(
    groups: NDArray[np.uint64], labels: NDArray[np.integer], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """Deal the groups out to parts of the given shares of the rows, balanced by label.

    The largest groups are dealt first, each to the part where the sum over labels of (rows - due)²/due grows least.
    That is the rule of scikit-learn's `StratifiedGroupKFold`, which takes a quarter of a minute for 50,000 groups and
    has parts of equal size only. All rows together count as one more label, so that no part stays empty.

    Args:
        groups, labels: of the rows, shape (rows,).
        shares: of the parts, shape (parts,), summing to 1.
        seed: breaks ties between groups of equal size.

    Returns:
        The part of each row, shape (rows,).
    """
    unique, inverse = np.unique(groups, return_inverse=True)
    if len(unique) < len(shares):
        raise JudgeError(
            f"{counted(len(unique), 'group')} of rows with the same first prompt cannot be divided into "
            f"{len(shares)} parts; give more data or fewer parts"
        )
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(unique), len(classes) + 1))  # rows of each group by label, and in all
    np.add.at(counts, (inverse, label), 1.0)
    counts[:, -1] = counts[:, :-1].sum(axis=1)
    order = np.lexsort((shuffled(unique, seed), -counts[:, -1]))
    due = shares[:, None] * counts.sum(axis=0)  # (parts, labels + 1)
    fill = np.zeros_like(due)  # the rows that each part has, as multiples of its due
    part = np.zeros(len(unique), np.int64)
    for group in order:
        more = counts[group] / due
        chosen = int((counts[group] * (2 * fill + more)).sum(axis=1).argmin())
        fill[chosen] += more[chosen]
        part[group] = chosen
    for empty in np.flatnonzero(fill[:, -1] == 0):  # at most one, whose share is smaller than a group
        part[order[-1]] = empty
    return part[inverse]


def shuffled(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Return a number for each key, shape (keys,); sorting by it shuffles the keys, the same way for the same seed.

    The numbers come from SplitMix64's finalizer (Steele, Lea and Flood 2014), because NumPy may change what its
    generators draw.
    """
    start = int.from_bytes(hashlib.sha256(f"split {seed}".encode()).digest()[:8], "big")
    x = keys ^ np.uint64(start)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
