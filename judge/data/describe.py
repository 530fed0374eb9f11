"""`judge data describe`: a table's turns, verdicts, languages, and lengths in characters and in a model's tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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
    facts: list[tuple[Any, ...]] = []
    tokens: list[tuple[int, ...]] = []  # of the prompt, of response A and of B, for each row
    for chunk in table.chunks():
        facts += map(_facts, chunk)
        if count_tokens:
            tokens += count_tokens(chunk)
    groups, turns, languages, labels, characters = zip(*facts, strict=True)
    verdicts, counts = np.array(labels), table.counts
    _, length_a, length_b = np.array(characters).T
    decided = np.isin(verdicts, (0, 1)) & (length_a != length_b)
    longer_wins = ((length_a > length_b) == (verdicts == 0))[decided]
    figures: Figures = {
        "rows": counts["rows"],
        "prompts": len(set(groups)),
        "labelled": counts["labelled"],
        "verdicts": {name: int((verdicts == label).sum()) for label, name in enumerate(VERDICTS)},
        "longer_response_wins": float(longer_wins.mean()) if len(longer_wins) else None,
        "turns": {str(number): count for number, count in sorted(Counter(turns).items())},
        "flags": {k: v for k, v in sorted(counts.items()) if k not in ("rows", "labelled", "multi_turn") and v},
        "languages": dict(sorted(Counter(languages).items(), key=lambda item: (-item[1], item[0]))),
        "characters": _lengths(characters),
    }
    if model:
        figures["tokens"] = _lengths(tokens)
        whole = np.array(tokens).sum(axis=1)
        figures["tokens_over"] = {str(limit): float((whole > limit).mean()) for limit in TOKEN_LIMITS}
    return figures


def _facts(row: Comparison) -> tuple[Any, ...]:
    """Return a row's group, turns, language, label, and the characters of its prompt and of its responses."""
    texts = (row.prompt, row.response_a, row.response_b)
    lengths = tuple(sum(len(turn or "") for turn in turns) for turns in texts)
    return group_key(row), row.turn_count, guessed_language(row), row.label, lengths


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


def _lengths(rows: Sequence[tuple[int, ...]]) -> dict[str, dict[str, float]]:
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
