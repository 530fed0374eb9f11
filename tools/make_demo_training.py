"""Builds the demo's training sample: `python tools/make_demo_training.py` writes judge/demo/training.csv.

The source holds prompts, good answers and bad ones; this file decides which two of them meet. It starts with random
pairs and changes one at a time as long as the sample comes closer to what it should be: the wanted number of rows of
each kind of contrast, the longer response as often better as worse, ties no easier to tell by length than the rest,
and few responses used more than once. An off-topic answer is another prompt's good answer, so that it is not bad by
itself.

The random numbers are those of `random.Random.random` alone, which Python promises not to change.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from judge.files import whole_file
from judge.tables.comparison import LABEL_COLUMNS, TEXT_COLUMNS
from judge.tables.split import normalise

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tools" / "demo_training_source.yaml"
SAMPLE = ROOT / "judge" / "demo" / "training.csv"

# Rows of each kind of contrast. Even numbers: A wins one half of the decided ones, B the other.
DECIDED = {
    "wrong": 40,
    "off-topic": 84,
    "cut-off": 104,
    "vague": 84,
    "rude": 76,
    "format": 14,
    "refusal": 76,
    "rambling": 8,
}
TIES = {"both-good": 84, "both-wrong": 12, "both-off-topic": 30, "both-poor": 16, "identical": 12}
TARGETS = DECIDED | TIES
ROWS_PER_PROMPT = 5
MOST_OF_A_KIND = 2
COLUMNS = ("id", "model_a", "model_b", *TEXT_COLUMNS, *LABEL_COLUMNS, "kind")

_MODELS = ("finch", "heron", "lynx", "otter")
_BAD = tuple(kind for kind in DECIDED if kind != "off-topic")
_POOR = ("vague", "rude", "refusal")
_SEED = 7
_STEPS = 120_000
_LENDERS = 10  # prompts whose good answers are tried as off-topic ones, per prompt

Turns = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One prompt of the source, with its answers by kind (`good`, `wrong`, …)."""

    task: str
    language: str
    lend: bool
    prompt: Turns
    answers: dict[str, list[Turns]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to the prompt `entry`, a place in the source; if the kind is a decided one, `first` is better."""

    entry: int
    kind: str
    first: Turns
    second: Turns

    @property
    def gap(self) -> int:
        """How many characters `first` is longer than `second`."""
        return length(self.first) - length(self.second)


def length(turns: Turns) -> int:
    """Return the number of characters of an answer, all turns together."""
    return sum(map(len, turns))


def read_source(path: Path = SOURCE) -> list[Entry]:
    """Return the entries of the source, in its order."""
    import yaml

    def turns(value: str | list[str]) -> Turns:
        return (value,) if isinstance(value, str) else tuple(value)

    return [
        Entry(
            values["task"],
            values.get("language", "en"),
            values.get("lend", True),
            turns(values["prompt"]),
            {kind: [turns(text) for text in values.get(kind, [])] for kind in ("good", *_BAD)},
        )
        for values in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]


def pick(items: Sequence[T], rng: random.Random) -> T:
    """Return one of the items."""
    return items[int(rng.random() * len(items))]


def shuffled(items: Sequence[T], rng: random.Random) -> list[T]:
    """Return the items in random order."""
    return [item for _, item in sorted(((rng.random(), item) for item in items), key=lambda keyed: keyed[0])]


def pairs_of(entries: Sequence[Entry], number: int, rng: random.Random) -> dict[str, list[Pair]]:
    """Return all pairs of answers to one prompt, by kind."""
    entry = entries[number]
    answers = entry.answers
    found: dict[str, list[tuple[Turns, Turns]]] = defaultdict(list)
    for kind in _BAD:
        found[kind] += [(good, bad) for good in answers["good"] for bad in answers[kind]]
    off_topic = _off_topic(entries, number, rng)
    found["off-topic"] += [(good, bad) for good in answers["good"] for bad in off_topic]
    found["both-good"] += [(answers["good"][0], text) for text in answers["good"][1:]]
    found["both-wrong"] += [(answers["wrong"][0], text) for text in answers["wrong"][1:]]
    found["both-off-topic"] += list(zip(off_topic[::2], off_topic[1::2], strict=False))
    for kind in _POOR:
        found["both-poor"] += [(answers[kind][0], text) for text in answers[kind][1:]]
    found["identical"] += [(text, text) for text in answers["good"] + answers["wrong"] if len(text) == 1]
    return {kind: [Pair(number, kind, *pair) for pair in pairs] for kind, pairs in found.items() if pairs}


def _off_topic(entries: Sequence[Entry], number: int, rng: random.Random) -> list[Turns]:
    """Return good answers to prompts of other tasks in the same language, put in the place of the last turn."""
    entry = entries[number]
    lenders = [
        other
        for other in entries
        if other.task != entry.task and other.language == entry.language and other.lend and len(other.prompt) == 1
    ]
    start = entry.answers["good"][0][:-1]
    return [start + pick(lender.answers["good"], rng) for lender in shuffled(lenders, rng)[:_LENDERS]]


class Tally:
    """Counts over the pairs of a sample, kept up to date as pairs come and go."""

    def __init__(self) -> None:
        """Start with no pairs."""
        self.kinds: Counter[str] = Counter()
        self.lean: Counter[str] = Counter()  # longer better minus shorter better, by kind
        self.bin_lean: Counter[tuple[str, int]] = Counter()  # the same, by class of length
        self.bins: Counter[tuple[str, int]] = Counter()
        self.tied_bins: Counter[tuple[str, int]] = Counter()
        self.responses: Counter[Turns] = Counter()
        self.worse: Counter[str] = Counter()  # last turns of the responses that lose

    def add(self, pair: Pair, sign: int) -> None:
        """Count a pair (sign 1), or take it out (-1)."""
        self.kinds[pair.kind] += sign
        tied = pair.kind in TIES
        lean = 0 if tied else sign * ((pair.gap > 0) - (pair.gap < 0))
        self.lean[pair.kind] += lean
        for key in _length_bins(pair):
            self.bin_lean[key] += lean
            self.bins[key] += sign
            self.tied_bins[key] += sign * tied
        self.responses[pair.first] += sign
        self.responses[pair.second] += sign
        self.worse[pair.second[-1]] += 0 if tied else sign

    def cost(self) -> int:
        """Return how far the sample is from what it should be; whole numbers, the same on every machine."""
        rows, ties = sum(TARGETS.values()), sum(TIES.values())
        cost = 400 * sum(abs(self.kinds[kind] - number) for kind, number in TARGETS.items())
        cost += sum(number**2 for number in self.bin_lean.values())
        cost += 40 * sum(max(0, 10 * abs(self.lean[kind]) - 2 * number) for kind, number in DECIDED.items()) // 10
        cost += 4 * sum(abs(rows * self.tied_bins[key] - ties * number) for key, number in self.bins.items()) // rows
        cost += sum(15 * (number - 2) ** 2 for number in self.responses.values() if number > 2)
        return cost + sum(40 * (number - 1) ** 2 for number in self.worse.values() if number > 1)


def _length_bins(pair: Pair) -> list[tuple[str, int]]:
    """Return the classes of length that a pair falls into: by difference, ratio and sum."""
    short, long = sorted((length(pair.first), length(pair.second)))
    return [
        ("gap", sum(long - short > edge for edge in (4, 10, 20, 35, 60))),
        ("ratio", sum(100 * long > edge * short for edge in (107, 130, 180, 300))),
        ("sum", sum(long + short > edge for edge in (35, 60, 90, 120, 160))),
    ]


def _may_join(pair: Pair, others: Sequence[Pair]) -> bool:
    """Whether a prompt's other pairs leave room for this one: no pair twice, no kind more than twice."""
    return pair not in others and sum(other.kind == pair.kind for other in others) < MOST_OF_A_KIND


def choose(entries: Sequence[Entry], rng: random.Random) -> list[Pair]:
    """Return the sample's pairs: five for every prompt, at most two of a kind.

    Raises:
        ValueError: the source does not have what the wanted numbers of rows need.
    """
    options = [pairs_of(entries, number, rng) for number in range(len(entries))]
    owners = [number for number in range(len(entries)) for _ in range(ROWS_PER_PROMPT)]
    chosen: list[Pair] = []
    tally = Tally()
    for owner in owners:
        own = [pair for pair in chosen if pair.entry == owner]
        free = [pair for pairs in options[owner].values() for pair in pairs if _may_join(pair, own)]
        chosen.append(pick(free, rng))
        tally.add(chosen[-1], 1)
    cost = tally.cost()
    for _ in range(_STEPS):
        slot = int(rng.random() * len(owners))
        old, owner = chosen[slot], owners[slot]
        new = pick(options[owner][pick(list(options[owner]), rng)], rng)
        first = slot - slot % ROWS_PER_PROMPT
        if not _may_join(new, [chosen[i] for i in range(first, first + ROWS_PER_PROMPT) if i != slot]):
            continue
        tally.add(old, -1)
        tally.add(new, 1)
        if (changed := tally.cost()) <= cost:
            chosen[slot], cost = new, changed
        else:
            tally.add(new, -1)
            tally.add(old, 1)
    chosen = _without_copies(chosen, options)
    missing = {kind: number - tally.kinds[kind] for kind, number in TARGETS.items() if tally.kinds[kind] != number}
    if missing:
        raise ValueError(f"the source has too few answers for these kinds: {missing}")
    return chosen


def _without_copies(chosen: Sequence[Pair], options: Sequence[dict[str, list[Pair]]]) -> list[Pair]:
    """Replace pairs that equal another one of their prompt but for capitals and spaces, where their kind has others.

    `judge data validate` takes them for copies, and refuses those with another verdict.
    """
    result = list(chosen)
    for slot, pair in enumerate(result):
        first = slot - slot % ROWS_PER_PROMPT
        others = {_content(result[i]) for i in range(first, first + ROWS_PER_PROMPT) if i != slot}
        free = [other for other in options[pair.entry][pair.kind] if _content(other) not in others]
        if _content(pair) in others and free:
            result[slot] = free[0]
    return result


def _content(pair: Pair) -> frozenset[tuple[str, ...]]:
    """Return what a pair compares, as tables are searched for copies."""
    return frozenset(tuple(map(normalise, turns)) for turns in (pair.first, pair.second))


def rows_of(entries: Sequence[Entry], pairs: Sequence[Pair], rng: random.Random) -> list[dict[str, object]]:
    """Return the table's rows in random order, with places, names and ids.

    Sorted by kind and length, neighbours get opposite places: A wins one half of each kind, and A is the longer
    response in about one half of the wins.
    """
    placed: list[tuple[Pair, bool]] = []
    for kind in TARGETS:
        ordered = sorted((pair for pair in pairs if pair.kind == kind), key=lambda pair: (pair.gap, pair.entry))
        placed += [(pair, index % 2 == 0) for index, pair in enumerate(ordered)]
    names = [(a, b) for a in _MODELS for b in _MODELS if a != b]
    seen: Counter[str] = Counter()
    rows: list[dict[str, object]] = []
    for number, (pair, first_is_a) in enumerate(shuffled(placed, rng)):
        winner = "winner_tie" if pair.kind in TIES else "winner_model_a" if first_is_a else "winner_model_b"
        model_a, model_b = names[seen[winner] % len(names)]
        seen[winner] += 1
        texts = (entries[pair.entry].prompt, *((pair.first, pair.second) if first_is_a else (pair.second, pair.first)))
        rows.append(
            {"id": 20_003 + 11 * number, "model_a": model_a, "model_b": model_b}
            | {name: json.dumps(text) for name, text in zip(TEXT_COLUMNS, texts, strict=True)}
            | {name: int(name == winner) for name in LABEL_COLUMNS}
            | {"kind": pair.kind}
        )
    return rows


def make_training(path: Path = SAMPLE) -> None:
    """Write the sample; the same bytes each time."""
    rng = random.Random(_SEED)  # noqa: S311
    entries = read_source()
    rows = rows_of(entries, choose(entries, rng), rng)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    make_training()
