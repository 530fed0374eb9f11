"""`judge data describe`: a table's turns, verdicts, languages, and lengths in characters and in a model's tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from judge.errors import counted, printable
from judge.tables.comparison import VERDICTS, Cells, Comparison, Turns
from judge.tables.language import guessed_language
from judge.tables.split import group_key
from judge.tables.table import Table

QUANTILES = (50, 90, 95, 99, 100)
TOKEN_LIMITS = (1024, 2048, 4096)
PARTS = ("prompt", "response_a", "response_b", "comparison")
_SHOWN_LANGUAGES = 8

Figures = dict[str, Any]


@dataclass
class _Gathered:
    """The counts of a table that is being read. Lengths hold a tuple (prompt, A, B) for each row."""

    verdicts: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    longer_wins: Counter[bool] = field(default_factory=Counter)
    groups: set[int] = field(default_factory=set)
    characters: list[tuple[int, ...]] = field(default_factory=list)
    tokens: list[tuple[int, ...]] = field(default_factory=list)


def describe(path: Path, model: Path | None = None, cells: Cells = "auto") -> Figures:
    """Return the figures of a table, with or without verdicts, as plain values for JSON.

    Lengths are those of the texts without a template; `comparison` is the sum of the prompt and both responses.
    py3langid guesses a row's language from its first prompt, unless that has less than 20 bytes of UTF-8.

    Args:
        path: the table.
        model: folder of a model; with it, lengths are also counted in its tokens.
        cells: how cells are read.

    Raises:
        JudgeError: the table or the tokenizer cannot be read.
    """
    count_tokens = _token_counter(model) if model else None
    table = Table.open(path, cells, on_bad_row="placeholder")  # the flags count cells that cannot be read
    gathered = _Gathered()
    for chunk in table.chunks():
        for row in chunk:
            _gather(gathered, row)
        if count_tokens:
            gathered.tokens += count_tokens(chunk)
    rows = table.counts["rows"]
    flags = {k: v for k, v in sorted(table.counts.items()) if k not in ("rows", "labelled", "multi_turn") and v}
    longer = gathered.longer_wins
    figures: Figures = {
        "rows": rows,
        "prompts": len(gathered.groups),
        "labelled": table.counts["labelled"],
        "verdicts": {name: gathered.verdicts[name] for name in VERDICTS},
        "longer_response_wins": longer[True] / longer.total() if longer else None,
        "turns": {str(n): gathered.turns[n] for n in sorted(gathered.turns)},
        "flags": flags,
        "languages": dict(sorted(gathered.languages.items(), key=lambda item: (-item[1], item[0]))),
        "characters": _lengths(gathered.characters),
    }
    if model:
        figures["tokens"] = _lengths(gathered.tokens)
        whole = np.array(gathered.tokens).sum(axis=1)
        figures["tokens_over"] = {str(limit): float((whole > limit).mean()) for limit in TOKEN_LIMITS}
    return figures


def _gather(gathered: _Gathered, row: Comparison) -> None:
    gathered.turns[row.turn_count] += 1
    gathered.groups.add(group_key(row))
    gathered.languages[guessed_language(row)] += 1
    lengths = tuple(sum(len(turn or "") for turn in turns) for turns in (row.prompt, row.response_a, row.response_b))
    gathered.characters.append(lengths)
    if row.label >= 0:
        gathered.verdicts[VERDICTS[row.label]] += 1
    if row.label in (0, 1) and lengths[1] != lengths[2]:
        gathered.longer_wins[(lengths[1] > lengths[2]) == (row.label == 0)] += 1


def _token_counter(model: Path) -> Callable[[Sequence[Comparison]], list[tuple[int, ...]]]:
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    encoder = TextEncoder(load_tokenizer(model))

    def count(rows: Sequence[Comparison]) -> list[tuple[int, ...]]:
        conversations: list[Turns] = [turns for row in rows for turns in (row.prompt, row.response_a, row.response_b)]
        texts = [turn or "" for turns in conversations for turn in turns]
        lengths = iter([len(ids) for ids in encoder.user_text(texts)])
        sums = [sum(next(lengths) for _ in turns) for turns in conversations]
        return [tuple(sums[i : i + 3]) for i in range(0, len(sums), 3)]

    return count


def _lengths(rows: list[tuple[int, ...]]) -> dict[str, dict[str, float]]:
    """Return for each part the mean and the quantiles of its lengths."""
    table = np.array(rows)  # (rows, 3)
    table = np.column_stack([table, table.sum(axis=1)])
    return {
        part: {"mean": float(column.mean())}
        | {
            "max" if q == 100 else f"p{q}": float(value)
            for q, value in zip(QUANTILES, np.percentile(column, QUANTILES), strict=True)
        }
        for part, column in zip(PARTS, table.T, strict=True)
    }


def describe_lines(name: str, figures: Figures) -> list[str]:
    """Return the figures as lines for a terminal."""
    rows = figures["rows"]
    lines = [f"{printable(name, 255)}: {counted(rows, 'row')}, {counted(figures['prompts'], 'prompt')}"]
    if labelled := figures["labelled"]:
        shares = ", ".join(f"{k} {v / labelled:.1%}" for k, v in figures["verdicts"].items())
        lines.append(f"verdicts    {shares} of {counted(labelled, 'labelled row')}")
    if (longer := figures["longer_response_wins"]) is not None:
        lines.append(f"            the longer response wins {longer:.1%} of the decided rows")
    lines.append("turns       " + _shares(figures["turns"], rows))
    lines.append("flags       " + (", ".join(f"{k} {v:,}" for k, v in figures["flags"].items()) or "none"))
    lines.append("languages   " + _shares(figures["languages"], rows))
    for unit in ("characters", "tokens"):
        if unit in figures:
            first = figures[unit][PARTS[0]]
            lines.append(f"{unit:12}" + "".join(f"{key:>9}" for key in first))
            lines += [
                f"  {part:10}" + "".join(f"{v:9,.0f}" for v in values.values())
                for part, values in figures[unit].items()
            ]
    if over := figures.get("tokens_over"):
        shares = ", ".join(f"{share:.1%} over {int(limit):,}" for limit, share in over.items())
        lines.append(f"            comparisons: {shares} tokens")
    return lines


def _shares(counts: dict[str, int], rows: int) -> str:
    shown = [f"{key} {count / rows:.1%}" for key, count in list(counts.items())[:_SHOWN_LANGUAGES]]
    rest = sum(list(counts.values())[_SHOWN_LANGUAGES:])
    return ", ".join(shown) + (f", others {rest / rows:.1%}" if rest else "")
