"""Prompts that two sets of rows share, exactly or nearly: what leaks from training into evaluation.

The similarity of two texts is the Jaccard similarity of their sets of character 5-grams: how many 5-grams both have,
divided by how many either has. MinHash with locality-sensitive hashing finds candidates (Broder 1997; Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3). Each candidate is then verified, so every reported pair
is similar.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.errors import counted, printable
from judge.tables.comparison import Comparison
from judge.tables.split import first_prompt, group_key

THRESHOLD = 0.8
# Length of an n-gram in characters. Characters suit languages without spaces, and one changed word in a short text is
# a small change.
SHINGLE = 5
# Two texts are candidates if all hashes of one band agree. A pair at the threshold is found with probability
# 1 - (1 - 0.8^5)^25 = 0.99995; a pair of similarity 0.2 becomes a candidate in 1 of 126 cases.
BANDS, BAND_HASHES = 25, 5
HASHES = BANDS * BAND_HASHES
EXAMPLES = 5

# A text is compared with at most so many texts of a band, and verified against at most so many. Otherwise thousands of
# prompts made from one long pattern would take time that grows with the square of their number.
_MOST_IN_BAND = 8
_MOST_VERIFIED = 8
_SLACK = 0.15  # four standard deviations of the similarity that 125 hashes estimate
_BLOCK = 4096  # shingles hashed, or pairs estimated, at once
_MIX = np.uint64(0x9E3779B97F4A7C15)
_COEFFICIENTS = np.frombuffer(hashlib.shake_256(b"judge minhash").digest(8 * HASHES), "<u4").reshape(2, HASHES)

Texts = Sequence[str]
Pair = tuple[int, int, float]


def shingles(text: str) -> NDArray[np.uint64]:
    """Return the sorted hashes of a text's different character 5-grams; a shorter text has one hash, an empty one none.

    Two different 5-grams have the same hash with a probability of about 2^-64.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    width = min(SHINGLE, len(codes))
    hashes = np.full(len(codes) - width + 1 if width else 0, width, np.uint64)
    for i in range(width):
        hashes = (hashes ^ (codes[i : i + len(hashes)] + np.uint64(1))) * _MIX
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes)


def jaccard(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> float:
    """Return the similarity of two sets, given as sorted arrays without repetition; 0 if one is empty."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common) if common else 0.0


def signatures(texts: Texts) -> NDArray[np.uint32]:
    """Return the MinHash signature of each text, shape (texts, HASHES).

    The probability that two texts agree in a hash is their similarity.
    """
    factor, shift = _COEFFICIENTS[0] | np.uint32(1), _COEFFICIENTS[1]
    result = np.full((len(texts), HASHES), 0xFFFFFFFF, np.uint32)
    for row, text in zip(result, texts, strict=True):
        hashes = (shingles(text) >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(hashes), _BLOCK):
            block = hashes[start : start + _BLOCK, None] * factor + shift
            np.minimum(row, block.min(axis=0), out=row)
    return result


def near_duplicates(
    left: Texts,
    right: Texts,
    threshold: float = THRESHOLD,
    known: tuple[NDArray[np.uint32], NDArray[np.uint32]] | None = None,
) -> list[Pair]:
    """Return for each right text that has a similar left text the most similar one found.

    Every returned pair is similar. A right text with one similar left text, of similarity 0.8, is missed once in 20,000
    cases; more of them or higher similarities are missed more rarely, lower ones more often. If very many left texts
    are similar, not all of them are compared.

    Args:
        left: normalised texts (`judge.tables.split.normalise`), best without repetition.
        right: other normalised texts. Empty texts are similar to nothing.
        threshold: the least similarity, over 0 and at most 1.
        known: the `signatures` of both, if they are known.

    Returns:
        (number of the left text, number of the right one, similarity), in the order of the right texts.
    """
    left_signatures, right_signatures = known or (signatures(left), signatures(right))
    pairs = _candidates(left_signatures, right_signatures)
    starts = range(0, len(pairs), _BLOCK)
    agree = [
        (left_signatures[p[:, 0]] == right_signatures[p[:, 1]]).mean(axis=1)
        for p in (pairs[start : start + _BLOCK] for start in starts)
    ]
    estimate = np.concatenate([np.zeros(0), *agree])
    likely = estimate >= threshold - _SLACK
    pairs, estimate = pairs[likely], estimate[likely]
    found = []
    ordered = pairs[np.lexsort((pairs[:, 0], -estimate, pairs[:, 1]))]
    ends = np.flatnonzero(np.diff(ordered[:, 1])) + 1
    for group in np.split(ordered, ends):
        best = _best(left, right, group[:_MOST_VERIFIED].tolist())
        if best is not None and best[2] >= threshold:
            found.append(best)
    return found


def _best(left: Texts, right: Texts, pairs: list[list[int]]) -> Pair | None:
    """Return the most similar of the pairs of one right text, or None if no pair is similar at all."""
    best: Pair | None = None
    theirs = shingles(right[pairs[0][1]]) if pairs else np.zeros(0, np.uint64)
    for i, j in pairs:
        similarity = jaccard(shingles(left[i]), theirs)
        if similarity > (best[2] if best else 0.0):
            best = (i, j, similarity)
        if similarity == 1:
            break
    return best


def _candidates(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the pairs (left, right) that agree in a band, shape (pairs, 2), each once."""
    found = [np.zeros(0, np.int64)]
    for band in range(0, HASHES, BAND_HASHES):
        left_keys, right_keys = (_mixed(s[:, band : band + BAND_HASHES]) for s in (left, right))
        order = np.argsort(left_keys, kind="stable")
        first = np.searchsorted(left_keys[order], right_keys, "left")
        size = np.searchsorted(left_keys[order], right_keys, "right") - first
        for k in range(min(_MOST_IN_BAND, int(size.max(initial=0)))):
            rows = np.flatnonzero(size > k)
            # in a band with many texts, each text begins at another place
            partner = order[first[rows] + (rows + k) % size[rows]]
            found.append(rows * len(left) + partner)
    codes = np.unique(np.concatenate(found))
    return np.stack([codes % max(len(left), 1), codes // max(len(left), 1)], axis=1)


def _mixed(columns: NDArray[np.uint32]) -> NDArray[np.uint64]:
    keys = np.zeros(len(columns), np.uint64)
    for column in columns.T:
        keys = (keys ^ column) * _MIX
        keys ^= keys >> np.uint64(32)
    return keys


class Prompts:
    """The different first prompts of rows, which `overlap` compares."""

    def __init__(self) -> None:
        self._number: dict[int, int] = {}
        self._texts: list[str] = []
        self._signatures: NDArray[np.uint32] | None = None

    def add(self, row: Comparison) -> int:
        """Add a row's first prompt and return its group key."""
        key = group_key(row)
        if key not in self._number:
            self._number[key] = len(self._texts)
            self._texts.append(first_prompt(row))
        return key

    def chosen(self, keys: Iterable[int]) -> tuple[list[str], NDArray[np.uint32]]:
        """Return the texts of prompt groups and their signatures; the signatures are computed once."""
        if self._signatures is None or len(self._signatures) < len(self._texts):
            self._signatures = signatures(self._texts)
        numbers = [self._number[key] for key in keys]
        return [self._texts[n] for n in numbers], self._signatures[numbers]


@dataclass(frozen=True)
class Overlap:
    """What one set of rows (right) has in common with another (left).

    Attributes:
        same_prompts: first prompts of the right that the left has too.
        near_prompts: first prompts of the right that are nearly the same as one of the left.
        rows: rows of the right with these prompts.
        of_rows: all rows of the right.
        examples: near pairs (left, right, similarity), safe to print, the least similar first.
    """

    same_prompts: int
    near_prompts: int
    rows: int
    of_rows: int
    examples: list[tuple[str, str, float]]

    def lines(self, left: str, right: str) -> list[str]:
        """Return the report as lines for a terminal, naming the two sets."""
        share = self.rows / self.of_rows if self.of_rows else 0.0
        head = (
            f"{right} against {left}: {counted(self.same_prompts, 'same prompt')}, "
            f"{counted(self.near_prompts, 'near-duplicate prompt')}; {self.rows:,} of {counted(self.of_rows, 'row')} "
            f"({share:.1%})"
        )
        return [head, *(f"  {s:.2f}  {a!r} / {b!r}" for a, b, s in self.examples)]


def overlap(prompts: Prompts, left: Counter[int], right: Counter[int], threshold: float = THRESHOLD) -> Overlap:
    """Compare the first prompts of two sets of rows.

    Args:
        prompts: holds the prompts of both sets.
        left: number of rows of each prompt group in the one set.
        right: number of rows of each prompt group in the other set.
        threshold: the least similarity of near-duplicates.
    """
    same = sorted(left.keys() & right.keys())
    ours, theirs = sorted(left), sorted(right.keys() - left.keys())
    left_texts, left_signatures = prompts.chosen(ours)
    right_texts, right_signatures = prompts.chosen(theirs)
    near = near_duplicates(left_texts, right_texts, threshold, (left_signatures, right_signatures))
    shown = sorted(near, key=lambda pair: (pair[2], pair[1]))[:EXAMPLES]
    return Overlap(
        same_prompts=len(same),
        near_prompts=len(near),
        rows=sum(right[key] for key in same) + sum(right[theirs[j]] for _, j, _ in near),
        of_rows=right.total(),
        examples=[(printable(left_texts[i]), printable(right_texts[j]), s) for i, j, s in shown],
    )
