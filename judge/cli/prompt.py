"""The commands of `judge prompt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from judge.cli.commands import Flags, command, group
from judge.errors import JudgeError, counted, printable
from judge.models.prompting import PromptSettings, choose_budget
from judge.prompting.template import PARTS, Slot, Template, TemplateError, copies, load_template, named_template
from judge.prompting.template_folders import template_files

if TYPE_CHECKING:
    from judge.prompting.budget import Policy
    from judge.prompting.builder import Budget
    from judge.prompting.check import Checked, Sample
    from judge.prompting.encoding import TextEncoder


prompt = group("Look at the prompt templates.")


@command(prompt, "list")
def prompt_list() -> None:
    """List the prompt templates that have a name: shipped ones, and files in prompts/ and your own folder."""
    for line in list_lines():
        typer.echo(line)


@command(prompt, "show")
def prompt_show(
    template: Annotated[str, typer.Argument(help="A shipped name or a .yaml file.")],
    model: Annotated[Path | None, typer.Option(help="Show it as this model gets it, with token counts.")] = None,
    table: Annotated[Path | None, typer.Option(help="Fill in the first row of this table.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest prompt in tokens.")] = 2048,
) -> None:
    """Show a prompt template, or the prompt that a model gets for the first row of a table."""
    for line in show_template(template, model, table, max_tokens):
        typer.echo(line)


@command(prompt, "check")
def prompt_check(
    template: Annotated[str, typer.Argument(help="A name or a .yaml file.")],
    settings: Annotated[PromptSettings, Flags("max_tokens truncation")],
    model: Annotated[Path | None, typer.Option(help="Check it with this model's tokenizer.")] = None,
    table: Annotated[Path | None, typer.Option(help="Rows to show. [default: made-up ones]")] = None,
) -> None:
    """Find mistakes in a prompt template, on the most awkward rows; exit status 1 if there is one."""
    lines, failed = run_check(template, model, table, settings.max_tokens, settings.truncation)
    for line in lines:
        typer.echo(line)
    if failed:
        raise typer.Exit(1)


@command(prompt, "diff")
def prompt_diff(
    first: Annotated[str, typer.Argument(help="A name or a .yaml file.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    settings: Annotated[PromptSettings, Flags("max_tokens")],
    model: Annotated[Path | None, typer.Option(help="Count tokens with this model's tokenizer, of --table.")] = None,
    table: Annotated[Path | None, typer.Option(help="Rows to count on.")] = None,
    rows: Annotated[int, typer.Option(help="Most rows to count on, drawn at random.")] = 1000,
) -> None:
    """Show what differs between two prompt templates, word by word, and in tokens."""
    for line in diff_lines(first, second, model, table, settings.max_tokens, rows):
        typer.echo(line)


def list_lines() -> Iterator[str]:
    """Yield a line for each template that has a name, with the file of those that judge does not ship."""
    unusable = []
    for file in template_files():
        try:
            template = named_template(file)
        except JudgeError as error:
            unusable.append(printable(str(error), 500))
            continue
        unusable += [file.clash] if file.clash else []
        place = "" if file.shipped else f" ({printable(str(file.path), 200)})"
        yield f"{printable(file.name):14} {printable(template.description, 1000)}{place}"
    yield from (f"cannot be used: {reason}" for reason in unusable)


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
    yield from _filled(template, model, table, max_tokens)


def _filled(template: Template, model: Path, table: Path, max_tokens: int) -> Iterator[str]:
    from judge.models.bundle import open_model
    from judge.prompting.builder import Budget, PromptBuilder
    from judge.prompting.encoding import TextEncoder, load_tokenizer
    from judge.tables.table import Table

    encoder = TextEncoder(load_tokenizer(open_model(model).path))
    builder = PromptBuilder(encoder, template, Budget(max_tokens))
    row = next(Table.open(table).chunks())[0]
    prompt = builder.build([row])[0]
    yield _safe(encoder.tokenizer.decode(prompt.ids, skip_special_tokens=False))
    yield ""
    yield f"{len(prompt.ids)} tokens; prompt, A and B have {prompt.tokens} and lost {prompt.cut}"
    yield f"verdict token ids: {builder.verdict_ids}"


def run_check(
    name: str, model: Path | None, table: Path | None, max_tokens: int | None, truncation: Policy | None
) -> tuple[list[str], bool]:
    """Check a template; return the lines to print, and whether the template has an error.

    Args:
        max_tokens, truncation: as in scoring if None: the judge's own, or the defaults.

    Raises:
        JudgeError: no such template, model or table; a table without a model.
    """
    from judge.prompting.awkward_rows import MADE_UP, awkward_rows
    from judge.prompting.check import Checked, check_template
    from judge.prompting.template_check import TemplateMistake
    from judge.tables.table import Table

    if model is None and (table is not None or max_tokens is not None or truncation is not None):
        raise JudgeError("--table, --max-tokens and --truncation need --model: rows are measured in its tokens")
    try:
        template = load_template(name)
    except TemplateError as error:
        checked = Checked(tuple(TemplateMistake("error", printable(problem, 500)) for problem in error.problems))
        return [printable(name, 200), "", *_finding_lines(checked)], True
    encoder, budget = _tokenizer_of(model, max_tokens, truncation) if model else (None, None)
    chunks = Table.open(table, on_bad_row="placeholder").chunks() if table else [list(MADE_UP)]
    checked = check_template(template, encoder, awkward_rows(row for chunk in chunks for row in chunk), budget)
    lines = [f"{printable(template.name)}: hash {template.digest[:16]}"]
    if model is None or budget is None:
        lines.append("with --model, also token counts, cuts and the verdict's tokens are checked")
    elif checked.samples:
        lines += ["", *_sample_lines(checked, template, model, budget)]
    return [*lines, "", *_finding_lines(checked)], checked.failed


def _tokenizer_of(model: Path, max_tokens: int | None, truncation: Policy | None) -> tuple[TextEncoder, Budget]:
    from judge.models.bundle import open_model
    from judge.prompting.encoding import TextEncoder, load_tokenizer

    folder = open_model(model)
    budget = choose_budget(folder, PromptSettings(max_tokens=max_tokens, truncation=truncation))
    return TextEncoder(load_tokenizer(folder.path)), budget


def _sample_lines(checked: Checked, template: Template, model: Path, budget: Budget) -> Iterator[str]:
    chat = "the model's chat template" if checked.chat else "no chat template"
    policy = f"cut by {budget.policy}" if budget.policy == "oldest-turns" else f"cut at the {budget.policy}"
    policy = "cut in the middle" if budget.policy == "middle" else policy
    yield f"tokens with the tokenizer of {printable(model.name)}, {chat}; at most {budget.max_tokens:,}, {policy}"
    rows = [_sample_cells(sample) for sample in checked.samples]
    often = copies(template)
    names = {"prompt": "prompt", "response_a": "A", "response_b": "B"}
    parts = [names[part] + (f" (x{often[part]})" if often[part] > 1 else "") for part in PARTS]
    cells = [("row", "turns", *parts, "fixed", "in all", "lost"), *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        shown = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(shown).rstrip()
    yield ""
    endings = dict.fromkeys(sample.ending for sample in checked.samples)
    for ending in endings:
        whose = [sample.awkward.what for sample in checked.samples if sample.ending == ending]
        yield f"end of the prompt{f' ({chr(59).join(whose)})' if len(endings) > 1 else ''}: {_piece_text(ending)}"
    named = zip(template.verdicts, checked.verdict_ids, checked.verdict_pieces, strict=True)
    verdicts = ", ".join(f"{verdict!r} is {token} ({printable(piece)})" for verdict, token, piece in named)
    yield f"the verdict is the next token, right after the last of the prompt: {verdicts}"
    yield f"{counted(checked.controls, 'control token')} of this tokenizer stay plain text in a row's texts"


def _sample_cells(sample: Sample) -> tuple[str, ...]:
    prompt, row = sample.prompt, sample.awkward.row
    lost = ", ".join(f"{number:,}" for number in prompt.cut) if any(prompt.cut) else "-"
    lost += f" ({counted(prompt.cut_turns, 'turn')} left out)" if prompt.cut_turns else ""
    numbers = (row.turn_count, *prompt.tokens, sample.fixed, len(prompt.ids))
    return (f"{sample.awkward.what} (id {printable(row.id, 24)})", *(f"{number:,}" for number in numbers), lost)


def _piece_text(pieces: tuple[str, ...]) -> str:
    return " ".join(repr(printable(piece)) for piece in pieces)


def _finding_lines(checked: Checked) -> Iterator[str]:
    for finding in sorted(checked.findings, key=lambda finding: finding.level):
        yield f"{finding.level}: {finding.text}"
    if not checked.findings:
        yield "no mistakes found"


def diff_lines(
    first: str, second: str, model: Path | None, table: Path | None, max_tokens: int | None, rows: int
) -> Iterator[str]:
    """Compare two templates and yield the lines to print.

    Args:
        rows: most rows of the table to count tokens on, drawn at random.

    Raises:
        JudgeError: no such template, model or table, or only one of model and table given.
    """
    from judge.prompting.diff import marked, template_differences

    if (model is None) != (table is None):
        raise JudgeError("--model and --table go together")
    if rows < 1:
        raise JudgeError(f"--rows={rows}: at least 1 row is needed")
    if max_tokens is not None and model is None:
        raise JudgeError("--max-tokens needs --model and --table")
    one, two = load_template(first), load_template(second)
    differences = [difference for difference in template_differences(one, two) if difference.differs]
    yield f"[-{printable(one.name)}-] {{+{printable(two.name)}+}}"
    if not differences:
        yield "no difference reaches the model"
    for difference in differences:
        text = _safe(marked(difference.pieces))
        yield from ["", "body:", text] if difference.field == "body" else [f"{difference.field}: {text}"]
    if model is not None and table is not None:
        yield ""
        yield from _cost_lines((one, two), model, table, max_tokens, rows)


def _cost_lines(
    templates: tuple[Template, Template], model: Path, table: Path, max_tokens: int | None, most: int
) -> Iterator[str]:
    import numpy as np

    from judge.prompting.builder import PromptBuilder
    from judge.prompting.diff import sample_rows, token_costs
    from judge.tables.table import Table

    encoder, budget = _tokenizer_of(model, max_tokens, None)
    builders = [PromptBuilder(encoder, template, budget) for template in templates]
    chunks = Table.open(table, on_bad_row="placeholder").chunks()
    rows = sample_rows((row for chunk in chunks for row in chunk), most)
    costs = [token_costs(builder, rows) for builder in builders]
    yield (
        f"tokens of a prompt on {counted(len(rows), 'row')} of {printable(table.name)}, at most {budget.max_tokens:,}, "
        f"with the tokenizer of {printable(model.name)}"
    )
    names = [printable(template.name) for template in templates]
    width = max(map(len, names))
    for name, (lengths, cut) in zip(names, costs, strict=True):
        p95 = np.percentile(lengths, 95)
        yield f"  {name:{width}}  mean {lengths.mean():,.1f}, 95% of rows within {p95:,.0f}, {cut.mean():.1%} cut"
    difference = costs[1][0] - costs[0][0]
    yield (
        f"  a row has {difference.mean():+,.1f} tokens with {names[1]} "
        f"(from {difference.min():+,} to {difference.max():+,})"
    )


def _safe(text: str) -> str:
    """Return a text whose terminal escapes are shown; only line breaks stay as they are."""
    return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.split("\n"))
