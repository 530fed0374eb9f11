"""How long a table's prompts are: the real builder builds them, or without a tokenizer they are estimated.

The estimate counts a token for every `ASCII_BYTES` bytes of ASCII and every `OTHER_BYTES` bytes of anything else; the
truth lies within the factors of `RANGE`. Measured with SmolLM2's tokenizer (49,152 tokens) on human preference tables:
four English sets lie between 0.96 and 1.04 of the estimate, three rows in Portuguese and other languages at 1.41.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judge.prompting.builder import PromptBuilder
from judge.prompting.template import Template
from judge.runs.progress import Progress
from judge.tables.table import Table

ASCII_BYTES, OTHER_BYTES = 4.3, 2.0
RANGE = (0.9, 1.0, 1.45)
# What a chat template adds around the fixed text.
_CHAT_TOKENS = 24
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PromptLengths:
    """Tokens of a table's prompts.

    Attributes:
        tokens: of each prompt under the budget, shape (rows,).
        whole: of each prompt without a budget, shape (rows,).
        budget: most tokens of a prompt.
        factors: what the lengths may be off by: low, 1, high.
    """

    tokens: Floats
    whole: Floats
    budget: int
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def estimated(self) -> bool:
        """Whether the lengths are estimates."""
        return self.factors != (1.0, 1.0, 1.0)

    @property
    def rows(self) -> int:
        """Number of prompts."""
        return len(self.tokens)

    @property
    def cut_rows(self) -> int:
        """Prompts that the budget cuts."""
        return int((self.whole > self.tokens).sum())

    def at(self, factor: float = 1.0) -> Floats:
        """Return the prompts' tokens if all texts are longer by a factor, shape (rows,)."""
        return self.tokens if factor == 1.0 else np.minimum(self.whole * factor, self.budget)

    def under(self, budget: int) -> PromptLengths:
        """Return the lengths under a smaller budget: the builder fills it, so they are cut to it."""
        return PromptLengths(np.minimum(self.tokens, budget), self.whole, budget, self.factors)


def measured_lengths(table: Table, builder: PromptBuilder, progress: Progress) -> PromptLengths:
    """Build every prompt of a table, and return their lengths.

    Raises:
        JudgeError: the table cannot be read (see `Table.chunks`).
    """
    tokens: list[int] = []
    cut: list[int] = []
    for chunk in table.chunks():
        for prompt in builder.build(chunk):
            tokens.append(len(prompt.ids))
            cut.append(sum(prompt.cut))
        progress.step("reading the table", text=f"{len(tokens):,} rows")
    kept = np.array(tokens, dtype=np.float64)
    return PromptLengths(kept, kept + np.array(cut), builder.budget.max_tokens)


def estimated_lengths(table: Table, template: Template, budget: int, progress: Progress) -> PromptLengths:
    """Estimate the lengths of a table's prompts from their characters.

    Raises:
        JudgeError: the table cannot be read (see `Table.chunks`).
    """
    fixed: dict[int, float] = {}
    whole: list[float] = []
    for chunk in table.chunks():
        for row in chunk:
            if row.turn_count not in fixed:
                fixed[row.turn_count] = _fixed_tokens(template, row.turn_count)
            turns = (*row.prompt, *row.response_a, *row.response_b)
            whole.append(fixed[row.turn_count] + sum(_tokens(turn or "") for turn in turns))
        progress.step("reading the table", text=f"{len(whole):,} rows")
    lengths = np.ceil(np.array(whole))
    return PromptLengths(np.minimum(lengths, budget), lengths, budget, RANGE)


def _tokens(text: str) -> float:
    every = len(text.encode("utf-8", "replace"))
    ascii_bytes = every if text.isascii() else sum(character < "\x80" for character in text)
    return ascii_bytes / ASCII_BYTES + (every - ascii_bytes) / OTHER_BYTES


def _fixed_tokens(template: Template, turn_count: int) -> float:
    """Return the tokens of a prompt's fixed text, estimated like the rest."""
    pieces = [piece for piece in template.layout(turn_count) if isinstance(piece, str)]
    return _CHAT_TOKENS + sum(map(_tokens, [*pieces, template.system or "", template.cue]))
