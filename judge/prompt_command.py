"""What `judge prompt show` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from judge.errors import JudgeError
from judge.template import Slot, load_template


def show_template(name: str, model: Path | None, table: Path | None, max_tokens: int) -> Iterator[str]:
    """Yield the lines of a template's description, or of the prompt that a model gets.

    Raises:
        JudgeError: no such template, model or table, or only one of model and table given.
    """
    template = load_template(name)
    yield f"{template.name}: {template.description}"
    yield f"hash {template.digest[:16]}, verdicts {', '.join(map(repr, template.verdicts))}"
    yield ""
    if model is None and table is None:
        body = template.layout(2)
        yield "".join(f"{{{p.part} of turn {p.turn + 1}}}" if isinstance(p, Slot) else p for p in body)
        yield ""
        yield template.cue
        return
    if model is None or table is None:
        raise JudgeError("--model and --table go together")
    yield from _filled(template.name if name == template.name else name, model, table, max_tokens)


def _filled(name: str, model: Path, table: Path, max_tokens: int) -> Iterator[str]:
    from judge.bundle import open_model
    from judge.encoding import TextEncoder, load_tokenizer
    from judge.prompt import Budget, PromptBuilder
    from judge.table import Table

    encoder = TextEncoder(load_tokenizer(open_model(model).path))
    builder = PromptBuilder(encoder, load_template(name), Budget(max_tokens))
    row = next(Table.open(table).chunks())[0]
    prompt = builder.build([row])[0]
    text = encoder.tokenizer.decode(prompt.ids, skip_special_tokens=False)
    # a response can hold terminal escapes: only line breaks stay as they are
    yield "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.split("\n"))
    yield ""
    yield f"{len(prompt.ids)} tokens; prompt, A and B have {prompt.tokens} and lost {prompt.cut}"
    yield f"verdict token ids: {builder.verdict_ids}"
