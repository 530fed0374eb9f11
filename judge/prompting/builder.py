"""The one builder of prompts: comparison + template + budget + tokenizer -> token ids.

Every stage (training, AWQ calibration, scoring, experiments) gets its token ids here, so the same row has the same ids
everywhere. The builder encodes fixed text and the texts of users piece by piece and joins the ids. So budgets are
exact, A and B are treated alike, and the text of a user cannot become a control token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.prompting.budget import Cuts, Frame, Lengths, Policy, Span, minimum_budget, plan_cuts
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import PARTS, Part, Slot, Template, body_layout, copies
from judge.prompting.verdict import resolve_verdicts
from judge.tables.comparison import Comparison, Turns

# So many layouts are kept in memory; the conversations of real tables have up to about forty different lengths.
_LAYOUTS = 64

# Numbers of turns whose prompts stand for all others in checks and fingerprints.
SHOWN_TURNS = (1, 2, 3)

# Part of every fingerprint. Raise it with every change of the code that changes the ids of a prompt.
BUILDER_VERSION = 1


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a prompt may be and where it is cut.

    Attributes:
        max_tokens: most tokens of a prompt, fixed text included.
        policy: see `judge.prompting.budget.plan_cuts`.
        shares: weights of the prompt and of each response in what the fixed text leaves.
    """

    max_tokens: int = 2048
    policy: Policy = "middle"
    shares: tuple[float, float] = (0.2, 0.4)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One built prompt.

    Attributes:
        ids: int32 token ids, shape (tokens,).
        tokens: number of tokens of the prompt, A and B before cutting.
        cut: how many tokens each of them lost.
        cut_turns: how many of the oldest turns are left out whole.
    """

    ids: NDArray[np.int32]
    tokens: tuple[int, int, int]
    cut: tuple[int, int, int]
    cut_turns: int

    def swapped_counts(self) -> Prompt:
        """Return the same prompt with the counts of A and B exchanged."""
        (p, a, b), (cp, ca, cb) = self.tokens, self.cut
        return Prompt(self.ids, (p, b, a), (cp, cb, ca), self.cut_turns)


@dataclass(frozen=True, slots=True)
class _Texts:
    """The encoded texts of one comparison: for each part the ids of every turn, padded to equal length."""

    ids: dict[Part, list[list[int]]]

    @property
    def turn_count(self) -> int:
        return len(self.ids["prompt"])

    def lengths(self) -> Lengths:
        return Lengths(*(tuple(len(ids) for ids in self.ids[part]) for part in PARTS))

    def swapped(self) -> _Texts:
        ids = self.ids
        return _Texts({"prompt": ids["prompt"], "response_a": ids["response_b"], "response_b": ids["response_a"]})


class PromptBuilder:
    """Turns comparisons into token ids for one model, template and budget.

    Attributes:
        verdict_ids: the token ids of A, B and tie after the cue.
        least_tokens: the smallest budget that the template allows with this tokenizer.

    Raises:
        JudgeError: a verdict is not a single token, the budget is too small for the template's fixed text, or the
            model's chat template refuses the prompt.
    """

    def __init__(self, encoder: TextEncoder, template: Template, budget: Budget | None = None) -> None:
        self.encoder = encoder
        self.template = template
        self.budget = budget or Budget()
        shown, bodies = copies(template), {n: body_layout(template, n) for n in SHOWN_TURNS}
        chat_frame = encoder.chat_frame(template.system) if template.chat else None
        self._mark = encoder.user_text([template.cut_mark])[0]
        self._start, self._before, self._after = self._frame_texts(chat_frame)
        self._layouts: dict[int, list[list[int] | Slot]] = {}
        self._encoded: dict[str, list[int]] = {}
        fixed = lru_cache(maxsize=None)(self._fixed)  # a number for each number of turns
        self._frame = Frame(fixed, len(self._mark), shown["prompt"], shown["response_a"])
        endings = dict.fromkeys(str(pieces[-1]) for pieces in self._add_layouts(bodies))
        self.verdict_ids = resolve_verdicts(
            encoder.trusted_text,
            lambda ids: [str(t) for t in encoder.tokenizer.convert_ids_to_tokens(ids)],
            list(endings),
            template.verdicts,
        )
        self.least_tokens = least = minimum_budget(self._frame)
        if self.budget.max_tokens < least:
            raise JudgeError(
                f"a budget of {self.budget.max_tokens} tokens is too small for template {template.name}, "
                f"which needs at least {least} with this tokenizer"
            )

    def _frame_texts(self, chat_frame: tuple[str, str] | None) -> tuple[list[int], str, str]:
        """Return the ids that start the prompt, the fixed text before the body, and the text after it with the cue.

        A chat template writes BOS itself; without a chat template the tokenizer's own BOS stands first.
        """
        template = self.template
        if chat_frame is None:
            system = f"{template.system}\n\n" if template.chat and template.system else ""
            return self.encoder.start_ids(), system, f"\n\n{template.cue}"
        before, after = chat_frame
        if template.cue_role == "user":
            return [], before, f"\n\n{template.cue}{after}"
        return [], before, after + template.cue

    def _add_layouts(self, bodies: Mapping[int, Sequence[str | Slot]]) -> list[list[str | Slot]]:
        """Encode the prompts for some numbers of turns as fixed ids and slots, and keep them.

        Args:
            bodies: each body's fixed texts and slots, by the number of turns.

        Returns:
            Each prompt's fixed texts and slots; neighbouring fixed texts are joined.
        """
        if len(self._layouts) >= _LAYOUTS:
            self._layouts.clear()
        prompts = []
        for turn_count, body in bodies.items():
            pieces: list[str | Slot] = [self._before]
            for piece in [*body, self._after]:
                if isinstance(piece, str) and isinstance(pieces[-1], str):
                    pieces[-1] += piece
                else:
                    pieces.append(piece)
            prompts.append(pieces)
            layout: list[list[int] | Slot] = [self._start]
            for i, piece in enumerate(piece for piece in pieces if piece != ""):
                if isinstance(piece, Slot):
                    layout.append(piece)
                elif i == 0:
                    layout.append(self.encoder.trusted_text(piece, at_start=True))
                else:
                    if piece not in self._encoded:
                        self._encoded[piece] = self.encoder.trusted_text(piece)
                    layout.append(self._encoded[piece])
            self._layouts[turn_count] = layout
        return prompts

    def _layout(self, turn_count: int) -> list[list[int] | Slot]:
        """Return the prompt for a number of turns as fixed ids and slots."""
        if turn_count not in self._layouts:
            self._add_layouts({turn_count: body_layout(self.template, turn_count)})
        return self._layouts[turn_count]

    def _fixed(self, turn_count: int) -> int:
        return sum(len(piece) for piece in self._layout(turn_count) if not isinstance(piece, Slot))

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides the ids besides the row: template, budget, and the tokenizer's ids."""
        layouts = [
            [piece if isinstance(piece, list) else [piece.turn, piece.part] for piece in self._layout(n)]
            for n in SHOWN_TURNS
        ]
        content = [BUILDER_VERSION, self.template.digest, asdict(self.budget), layouts, self.verdict_ids]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def build(self, comparisons: Sequence[Comparison]) -> list[Prompt]:
        """Return the prompt of each comparison, at most `budget.max_tokens` tokens long."""
        return [self._assemble(texts) for texts in self._encode(comparisons)]

    def build_both_orders(self, comparisons: Sequence[Comparison]) -> list[tuple[Prompt, Prompt]]:
        """Return each comparison's prompt, and the prompt with A and B exchanged; its counts are exchanged too."""
        return [(self._assemble(t), self._assemble(t.swapped())) for t in self._encode(comparisons)]

    def _encode(self, comparisons: Sequence[Comparison]) -> list[_Texts]:
        """Encode all texts of many comparisons in one batch."""
        sources: list[dict[Part, list[str]]] = []
        for row in comparisons:
            parts: tuple[Turns, ...] = (row.prompt, row.response_a, row.response_b)
            turn_count = max(1, *map(len, parts))
            sources.append({p: self._shown(t, turn_count) for p, t in zip(PARTS, parts, strict=True)})
        flat = iter(self.encoder.user_text([text for s in sources for part in PARTS for text in s[part]]))
        return [_Texts({part: [next(flat) for _ in source[part]] for part in PARTS}) for source in sources]

    def _shown(self, turns: Turns, turn_count: int) -> list[str]:
        texts = [self.template.null_text if turn is None else turn for turn in turns]
        return texts + [self.template.missing_text] * (turn_count - len(texts))

    def _assemble(self, texts: _Texts) -> Prompt:
        """Cut the texts to the budget and join them with the fixed ids."""
        lengths = texts.lengths()
        tokens = (sum(lengths.prompt), sum(lengths.response_a), sum(lengths.response_b))
        cuts = plan_cuts(lengths, self._frame, self.budget.max_tokens, self.budget.policy, self.budget.shares)
        assert cuts is not None, "the constructor has checked the budget"
        ids, lost = texts.ids, (0, 0, 0)
        if cuts.dropped_turns or any(span.cut for part in PARTS for span in getattr(cuts, part)):
            kept = {part: self._cut(texts, part, cuts) for part in PARTS}
            ids = {part: [turn for turn, _ in kept[part]] for part in PARTS}
            left = [sum(n for _, n in kept[part]) for part in PARTS]
            lost = (tokens[0] - left[0], tokens[1] - left[1], tokens[2] - left[2])
        if cuts.dropped_turns:
            ids["prompt"][0] = self._mark + ids["prompt"][0]
        joined = self._join(ids, texts.turn_count - cuts.dropped_turns)
        return Prompt(joined, tokens, lost, cuts.dropped_turns)

    def _cut(self, texts: _Texts, part: Part, cuts: Cuts) -> list[tuple[list[int], int]]:
        """Return the ids of each remaining turn of a part, with cut marks, and how many of its own ids each keeps.

        A cut moves to the next place outside of a character.
        """
        spans: tuple[Span, ...] = getattr(cuts, part)
        result = []
        for span, ids in zip(spans, texts.ids[part][cuts.dropped_turns :], strict=True):
            if not span.cut:
                result.append((ids, len(ids)))
                continue
            head, tail = span.head, len(ids) - span.tail
            while head > 0 and not self.encoder.starts_character(ids[head]):
                head -= 1
            while tail < len(ids) and not self.encoder.starts_character(ids[tail]):
                tail += 1
            result.append((ids[:head] + self._mark + ids[tail:], head + len(ids) - tail))
        return result

    def _join(self, ids: dict[Part, list[list[int]]], turn_count: int) -> NDArray[np.int32]:
        joined: list[int] = []
        for piece in self._layout(turn_count):
            joined += ids[piece.part][piece.turn] if isinstance(piece, Slot) else piece
        return np.array(joined, dtype=np.int32)
