"""The one builder of prompts: comparison + template + budget + tokenizer -> token ids.

Every stage (training, AWQ calibration, scoring, experiments) gets its token ids here, so the same row has the same ids
everywhere. The builder encodes fixed text and the texts of users piece by piece and joins the ids. So budgets are
exact, A and B are treated alike, and the text of a user cannot become a control token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.prompting.budget import Frame, Lengths, Policy, Span, minimum_budget, plan_cuts
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import PARTS, Part, Slot, Template, copies
from judge.prompting.verdict import resolve_verdicts
from judge.tables.comparison import Comparison, Turns

# So many layouts are kept in memory; the conversations of real tables have up to about forty different lengths.
_LAYOUTS = 64

# Numbers of turns whose prompts stand for all others in checks and fingerprints.
SHOWN_TURNS = (1, 2, 3)

# Part of every fingerprint. Raise it with every change of the code that changes the ids of a prompt.
BUILDER_VERSION = 1


# The encoded texts of one comparison: for each part the ids of every turn, padded to an equal number of turns.
Texts = dict[Part, list[list[int]]]


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
        shown = copies(template)
        chat_frame = encoder.chat_frame(template.system) if template.chat else None
        self._mark = encoder.user_text([template.cut_mark])[0]
        self._start, self._before, self._after = self._frame_texts(chat_frame)
        self._trusted_text = lru_cache(maxsize=None)(encoder.trusted_text)
        self._layout = lru_cache(maxsize=_LAYOUTS)(self._encoded_layout)
        fixed = lru_cache(maxsize=None)(self._fixed)  # a number for each number of turns
        self._frame = Frame(fixed, len(self._mark), shown["prompt"], shown["response_a"])
        endings = dict.fromkeys(str(self._pieces(n)[-1]) for n in SHOWN_TURNS)
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

    def _pieces(self, turn_count: int) -> list[str | Slot]:
        """Return the prompt for a number of turns as fixed texts and slots; neighbouring fixed texts are joined."""
        pieces: list[str | Slot] = [self._before]
        for piece in (*self.template.layout(turn_count), self._after):
            if isinstance(piece, str) and isinstance(pieces[-1], str):
                pieces[-1] += piece
            else:
                pieces.append(piece)
        return pieces

    def _encoded_layout(self, turn_count: int) -> list[list[int] | Slot]:
        """Return the prompt for a number of turns as fixed ids and slots."""
        layout: list[list[int] | Slot] = [self._start]
        for i, piece in enumerate(piece for piece in self._pieces(turn_count) if piece != ""):
            layout.append(piece if isinstance(piece, Slot) else self._trusted_text(piece, i == 0))
        return layout

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
        return [(self._assemble(t), self._assemble(_exchanged(t))) for t in self._encode(comparisons)]

    def _encode(self, comparisons: Sequence[Comparison]) -> list[Texts]:
        """Encode all texts of many comparisons in one batch."""
        sources: list[dict[Part, list[str]]] = []
        for row in comparisons:
            parts, turn_count = (row.prompt, row.response_a, row.response_b), row.turn_count
            sources.append({part: self._shown(turns, turn_count) for part, turns in zip(PARTS, parts, strict=True)})
        flat = iter(self.encoder.user_text([text for s in sources for part in PARTS for text in s[part]]))
        return [{part: [next(flat) for _ in source[part]] for part in PARTS} for source in sources]

    def _shown(self, turns: Turns, turn_count: int) -> list[str]:
        texts = [self.template.null_text if turn is None else turn for turn in turns]
        return texts + [self.template.missing_text] * (turn_count - len(texts))

    def _assemble(self, texts: Texts) -> Prompt:
        """Cut the texts to the budget and join them with the fixed ids."""
        lengths = Lengths(*(tuple(map(len, texts[part])) for part in PARTS))
        tokens = (sum(lengths.prompt), sum(lengths.response_a), sum(lengths.response_b))
        cuts = plan_cuts(lengths, self._frame, self.budget.max_tokens, self.budget.policy, self.budget.shares)
        assert cuts is not None, "the constructor has checked the budget"
        lost, spans = (0, 0, 0), dict(zip(PARTS, cuts[1:], strict=True))
        if cuts.dropped_turns or any(span.cut for part in PARTS for span in spans[part]):
            kept = {part: self._cut(texts[part][cuts.dropped_turns :], spans[part]) for part in PARTS}
            texts = {part: [turn for turn, _ in kept[part]] for part in PARTS}
            left = [sum(n for _, n in kept[part]) for part in PARTS]
            lost = (tokens[0] - left[0], tokens[1] - left[1], tokens[2] - left[2])
        if cuts.dropped_turns:
            texts["prompt"][0] = self._mark + texts["prompt"][0]
        joined: list[int] = []
        for piece in self._layout(len(texts["prompt"])):
            joined += texts[piece.part][piece.turn] if isinstance(piece, Slot) else piece
        return Prompt(np.array(joined, dtype=np.int32), tokens, lost, cuts.dropped_turns)

    def _cut(self, turns: list[list[int]], spans: tuple[Span, ...]) -> list[tuple[list[int], int]]:
        """Return the ids of each turn of a part, with cut marks, and how many of its own ids each keeps.

        A cut moves to the next place outside of a character.
        """
        result = []
        for span, ids in zip(spans, turns, strict=True):
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


def _exchanged(texts: Texts) -> Texts:
    return {"prompt": texts["prompt"], "response_a": texts["response_b"], "response_b": texts["response_a"]}
