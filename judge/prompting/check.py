"""Checks a prompt template with a tokenizer: the prompts of awkward rows, and the mistakes that they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from judge.errors import JudgeError, counted, printable
from judge.prompting.awkward_rows import AwkwardRow
from judge.prompting.builder import Budget, Prompt, PromptBuilder
from judge.prompting.encoding import TextEncoder
from judge.prompting.template import PARTS, Template, copies
from judge.prompting.template_check import TemplateMistake, response_labels, static_findings
from judge.tables.comparison import Comparison

_PLENTY = 1 << 30  # tokens: a budget that cuts nothing
_ENDING = 12  # pieces of the prompt's end that are shown


@dataclass(frozen=True)
class Sample:
    """What a template makes of one row.

    Attributes:
        prompt: the row's prompt; the verdict is the token behind its last one.
        fixed: tokens of the template, the chat template and the cut marks.
        needed: tokens of the whole prompt if nothing were cut.
        ending: the last pieces of the prompt, as the tokenizer spells them.
    """

    awkward: AwkwardRow
    prompt: Prompt
    fixed: int
    needed: int
    ending: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes:
        samples: empty without a tokenizer, or if no prompt can be built.
        verdict_ids, verdict_pieces: of A, B and tie; empty if there are no samples.
        chat: whether the model's chat template wraps the prompt.
        controls: how many control tokens were tried as the text of a row, and stayed text.
    """

    findings: tuple[TemplateMistake, ...]
    samples: tuple[Sample, ...] = ()
    verdict_ids: tuple[int, ...] = ()
    verdict_pieces: tuple[str, ...] = ()
    chat: bool = False
    controls: int = 0

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.level == "error" for finding in self.findings)


def check_template(
    template: Template, encoder: TextEncoder | None, rows: Sequence[AwkwardRow], budget: Budget | None = None
) -> Checked:
    """Find the mistakes of a template, and show what it makes of some rows.

    Args:
        encoder: the model's tokenizer; None finds only mistakes that the template's texts show.
        rows: see `judge.prompting.awkward_rows`.
        budget: `Budget()` if not given.
    """
    findings = static_findings(template, [row.row.turn_count for row in rows])
    if encoder is None or any(finding.level == "error" for finding in findings):
        return Checked(tuple(findings))
    try:
        plenty = PromptBuilder(encoder, template, Budget(_PLENTY))
    except JudgeError as error:
        return Checked((*findings, TemplateMistake("error", _same_token(encoder, template) or str(error))))
    findings += _token_findings(encoder, template, plenty)
    builder = plenty
    try:
        builder = PromptBuilder(encoder, template, budget or Budget())
    except JudgeError as error:
        findings.append(TemplateMistake("error", f"{error}; raise --max-tokens, or shorten the body"))
    samples = []
    for awkward in rows:
        one, other = builder.build_both_orders([awkward.row])[0]
        findings += pair_findings(awkward.what, one, other, builder.budget.max_tokens)
        samples.append(_sample(builder, plenty, awkward, one))
    findings += _length_findings(samples, builder.budget)
    findings += _control_findings(builder)
    pieces = tuple(encoder.tokenizer.convert_ids_to_tokens(list(builder.verdict_ids)))
    chat = template.chat and encoder.chat_frame(template.system) is not None
    unique = tuple(dict.fromkeys(findings))
    return Checked(unique, tuple(samples), builder.verdict_ids, pieces, chat, len(encoder.control_ids))


def pair_findings(what: str, one: Prompt, other: Prompt, max_tokens: int) -> Iterator[TemplateMistake]:
    """Compare the prompts of a row in its two orders: exchanging A and B must exchange the cuts and nothing else."""
    exchanged = other.swapped_counts()
    first, second = ((len(p.ids), p.tokens, p.cut, p.cut_turns) for p in (one, exchanged))
    if first != second:
        yield TemplateMistake(
            "error",
            f"A and B are not treated alike: the {what} row has {len(one.ids)} tokens and loses {one.cut}, exchanged "
            f"{len(other.ids)} and {exchanged.cut}; treat both the same in the body",
        )
    longest = max(len(one.ids), len(other.ids))
    if longest > max_tokens:
        yield TemplateMistake("error", f"the prompt of the {what} row has {longest:,} tokens, more than {max_tokens:,}")


def _sample(builder: PromptBuilder, plenty: PromptBuilder, awkward: AwkwardRow, prompt: Prompt) -> Sample:
    shown = copies(builder.template)
    parts = zip(PARTS, prompt.tokens, prompt.cut, strict=True)
    fixed = len(prompt.ids) - sum(shown[part] * (have - lost) for part, have, lost in parts)
    ending = builder.encoder.tokenizer.convert_ids_to_tokens(prompt.ids[-_ENDING:].tolist())
    return Sample(awkward, prompt, fixed, len(plenty.build([awkward.row])[0].ids), tuple(ending))


def _after_cue(encoder: TextEncoder, template: Template) -> str:
    """Return the text that the chat template puts behind the cue if the cue ends the user's message."""
    frame = encoder.chat_frame(template.system) if template.chat and template.cue_role == "user" else None
    return frame[1] if frame else ""


def _same_token(encoder: TextEncoder, template: Template) -> str | None:
    """Say which two verdicts become the same token; None if no two do."""
    try:
        ending = template.cue + _after_cue(encoder, template)
    except JudgeError:
        return None
    base = encoder.trusted_text(ending)
    tails = [tuple(encoder.trusted_text(ending + verdict)[len(base) :]) for verdict in template.verdicts]
    for i, tail in enumerate(tails):
        if len(tail) == 1 and tail in tails[:i]:
            one, other = template.verdicts[tails.index(tail)], template.verdicts[i]
            piece = encoder.tokenizer.convert_ids_to_tokens(tail[0])
            return f"the verdicts {one!r} and {other!r} become the same token {piece!r}; choose other ones"
    return None


def _token_findings(encoder: TextEncoder, template: Template, builder: PromptBuilder) -> Iterator[TemplateMistake]:
    after = _after_cue(encoder, template)
    if after:
        yield TemplateMistake(
            "warning",
            f"the cue is not last: the chat template puts {printable(after)!r} behind it; with chat.cue: assistant it "
            "opens the reply",
        )
    end = (template.cue + after)[-1:]
    first = template.verdicts[0]
    if end.isspace() and first[:1] == " ":
        yield TemplateMistake(
            "warning",
            f"the verdict {first!r} starts with a space, but stands at the start of a line; leave the space out",
        )
    elif (end.isalnum() or end in ":.?!") and first[:1].isalnum():
        yield TemplateMistake(
            "warning", f"the verdict {first!r} follows {end!r} without a space; write {' ' + first!r}"
        )
    unknown = encoder.tokenizer.unk_token_id
    for verdict, verdict_id in zip(template.verdicts, builder.verdict_ids, strict=True):
        if verdict_id == unknown:
            yield TemplateMistake("error", f"the tokenizer does not know the verdict {verdict!r}; choose another one")
    yield from _body_token_findings(encoder, template)


def _body_token_findings(encoder: TextEncoder, template: Template) -> Iterator[TemplateMistake]:
    labels = response_labels(template, 1)
    for one, other in zip(labels["response_a"], labels["response_b"], strict=True):
        lengths = [len(encoder.trusted_text("\n" + label + "\n")) for label in (one, other)]
        if lengths[0] != lengths[1]:
            yield TemplateMistake(
                "warning",
                f"A and B are not treated alike: {printable(one)!r} takes {counted(lengths[0], 'token')}, "
                f"{printable(other)!r} {lengths[1]}; choose labels of one token",
            )
    if template.chat and encoder.chat_frame(template.system) is not None:
        texts = [piece for piece in template.layout(1) if isinstance(piece, str)]
        controls = {i for text in (*texts, template.cue) for i in encoder.trusted_text(text)} & encoder.control_ids
        for piece in sorted(encoder.tokenizer.convert_ids_to_tokens(sorted(controls))):
            yield TemplateMistake(
                "warning",
                f"the template holds the control token {piece!r} inside the chat template's message; take it out, or "
                "write the whole chat layout with chat: false",
            )


def _length_findings(samples: Sequence[Sample], budget: Budget) -> Iterator[TemplateMistake]:
    fixed = next((s.fixed for s in samples if s.awkward.row.turn_count == 1 and 2 * s.fixed > budget.max_tokens), None)
    if fixed is not None:
        yield TemplateMistake(
            "warning",
            f"the fixed text takes {fixed:,} of {budget.max_tokens:,} tokens; shorten the body or raise --max-tokens",
        )
    cut = [sample for sample in samples if sample.needed > len(sample.prompt.ids)]
    if cut:
        worst = max(cut, key=lambda sample: sample.needed)
        row = worst.awkward
        yield TemplateMistake(
            "warning",
            f"the {row.what} row (id {printable(row.row.id)}) needs {worst.needed:,} tokens and is cut to "
            f"{budget.max_tokens:,}; raise --max-tokens if many rows are as long",
        )


def _control_findings(builder: PromptBuilder) -> Iterator[TemplateMistake]:
    """Spell every control token of the tokenizer in the texts of a row: none may become a control token."""
    encoder = builder.encoder
    controls = sorted(encoder.control_ids)
    spelled = " ".join(encoder.tokenizer.convert_ids_to_tokens(controls))
    rows = [Comparison(0, (text,), (text,), (text,)) for text in ("x", spelled)]
    harmless, hostile = (int(np.isin(prompt.ids, controls).sum()) for prompt in builder.build(rows))
    if hostile != harmless:
        yield TemplateMistake(
            "error",
            f"texts of a row can become {counted(hostile - harmless, 'control token')} and so close the chat turn; "
            "do not score with this tokenizer, and report it",
        )
