"""Whether a model's config, tokenizer, prompt template and base fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from judge.doctor.finding import Finding, note, ok, problem
from judge.errors import JudgeError, counted, printable
from judge.models.bundle import ModelFolder, tensor_shapes
from judge.models.prompting import DEFAULT_MAX_TOKENS, choose_budget, choose_template, differs_from_training
from judge.prompting.awkward_rows import MADE_UP, awkward_rows
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.check import check_template
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_EMBEDDING = re.compile(r"(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight$")


def config_findings(model: ModelFolder) -> Iterator[Finding]:
    """Yield whether the libraries know this kind of model without code of its own."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = str(model.config.get("model_type", ""))
    known = kind in CONFIG_MAPPING_NAMES
    if model.config.get("auto_map") and not known:
        yield problem(
            f"config.json: {printable(kind)!r} runs only with Python code of the folder's own (auto_map), which judge "
            "does not run",
            "choose a model that the installed transformers and vLLM know by themselves",
        )
    elif not known:
        yield problem(
            f"config.json: the installed transformers does not know model_type {printable(kind)!r}",
            "install newer transformers and vLLM, or choose another model",
        )
    elif model.config.get("auto_map"):
        yield note(
            "config.json names Python code of the folder's own (auto_map), which judge does not run",
            f"nothing: the libraries know {printable(kind)} by themselves",
        )
    architectures = [str(name) for name in model.config.get("architectures") or ()]
    if architectures and not any(name.endswith(("LMHeadModel", "CausalLM", "Generation")) for name in architectures):
        yield problem(
            f"config.json: {printable(', '.join(architectures))} is no causal language model",
            "a judge reads the next token; choose a model with an output head (…ForCausalLM)",
        )
    if model.judge is None and model.adapter is None:
        yield note(
            f"no judge.json: the model was not trained as a judge, so template and budget ({DEFAULT_MAX_TOKENS:,}) are "
            "defaults",
            "train it (judge train), or expect little of its verdicts",
        )


def tokenizer_findings(model: ModelFolder) -> Iterator[Finding]:
    """Yield whether the tokenizer can be loaded and belongs to the weights."""
    tokenizer = load_tokenizer(model.path)
    rows = [
        shape[0]
        for shard in model.shards
        for name, shape in tensor_shapes(shard).items()
        if _EMBEDDING.search(name) and len(shape) == 2
    ]
    vocabulary = tokenizer.get_vocab()
    beyond = sorted(name for name, number in vocabulary.items() if rows and number >= rows[0])
    text = f"the tokenizer has {len(vocabulary):,} tokens"
    if not beyond:
        yield ok(text + (f", the embedding {rows[0]:,} rows" if rows else ""))
    else:
        added = set(tokenizer.get_added_vocab())
        where = f"{text}, and the embedding only {rows[0]:,} rows ({printable(beyond[0])} has none)"
        if set(beyond) <= added:
            yield note(where, "nothing, as long as the prompt template uses no such control token")
        else:
            yield problem(where, "copy the tokenizer files that belong to this model")
    if model.adapter is not None and any(model.adapter.path.glob("tokenizer*.json")):
        yield from _same_tokenizer(tokenizer, model)


def _same_tokenizer(tokenizer: PreTrainedTokenizerFast, model: ModelFolder) -> Iterator[Finding]:
    """Compare the adapter's own tokenizer with the base model's, which is the one that judge reads."""
    assert model.adapter is not None
    other = load_tokenizer(model.adapter.path)
    advice = "merge the adapter with the tokenizer that it was trained with (judge merge), or give the right --base"
    if other.get_vocab() != tokenizer.get_vocab():
        yield problem(
            f"the adapter's tokenizer has {len(other):,} tokens, its base's {len(tokenizer):,}, and they differ", advice
        )
    elif other.chat_template != tokenizer.chat_template:
        yield note("adapter and base have different chat templates, and judge reads the base's", advice)
    else:
        yield ok("adapter and base have the same tokenizer")


def template_findings(model: ModelFolder, template: str | None, max_tokens: int | None) -> Iterator[Finding]:
    """Yield whether the prompt template works with the tokenizer, and the budget with the model.

    Args:
        template: name or path; the judge's own or the default if None.
        max_tokens: the budget; the judge's own or the default if None.
    """
    settings = ScoreSettings(template=template, max_tokens=max_tokens)
    chosen = choose_template(model, settings)
    encoder = TextEncoder(load_tokenizer(model.path))
    try:
        budget = choose_budget(model, settings)
    except JudgeError as error:
        yield problem(str(error), "pass a smaller --max-tokens, or choose a model with more positions")
        settings, budget = settings.model_copy(update={"max_tokens": None}), Budget((model.max_positions or 1) - 1)
    # without the long row: that it is cut says nothing about the user's table
    checked = check_template(chosen, encoder, awkward_rows(MADE_UP[1:]), budget)
    for finding in checked.findings:
        text, _, advice = finding.text.rpartition("; ")
        level = problem if finding.level == "error" else note
        name = f"template {printable(chosen.name)}: "
        yield level(name + (text or advice), advice if text else "see judge prompt check")
    if chosen.chat and encoder.chat_frame(chosen.system) is None:
        yield note(
            f"template {printable(chosen.name)} wants a chat, and the tokenizer has no chat template",
            "copy chat_template.jinja if it is a chat model; without, the prompt is laid out as plain text",
        )
    if checked.failed:
        return
    named = zip(chosen.verdicts, checked.verdict_ids, strict=True)
    yield ok(
        f"template {printable(chosen.name)}: one token each for "
        f"{', '.join(f'{printable(verdict)!r} ({number})' for verdict, number in named)}; at most "
        f"{budget.max_tokens:,} tokens, of which {max(sample.fixed for sample in checked.samples):,} are fixed text"
    )
    if max_tokens is None and model.judge is None and budget.max_tokens < DEFAULT_MAX_TOKENS:
        yield note(
            f"the model takes {budget.max_tokens:,} tokens and the verdict, less than judge's default",
            "longer rows are cut; choose a model with more positions if many are",
        )
    differs = differs_from_training(model, settings, PromptBuilder(encoder, chosen, budget))
    if differs:
        yield note(differs, "leave these flags out for the judge's own prompts")


def base_findings(model: ModelFolder) -> Iterator[Finding]:
    """Yield whether the base model is the one that an adapter was trained on: all its files are hashed."""
    model.digest()  # a JudgeError where it is another
    if model.judge is not None:
        yield ok(f"{printable(model.path.name)} is the base model that the adapter was trained on")
    else:
        yield note(
            "the adapter has no judge.json that would tell its base model's hash",
            f"make sure that it was trained on {printable(model.path.name)}",
        )


def local_findings(folder: Path, model: ModelFolder) -> Iterator[Finding]:
    """Yield whether the model lies here whole, so that nothing needs a network."""
    remote = sorted(
        str(value)
        for config in (model.config, model.text_config)
        for value in (config.get("auto_map") or {}).values()
        if isinstance(value, str) and "--" in value
    )
    if remote:
        named = f"config.json names code in another repository ({printable(remote[0])})"
        yield note(named, "nothing: judge runs no code of models, here or there")
    links = [path for path in folder.iterdir() if path.is_symlink()]
    if links:
        target = printable(str(links[0].resolve().parent), 120)
        yield note(
            f"{counted(len(links), 'file')} of {printable(folder.name)} are links into {target}",
            "take that folder along, or copy with cp -rL, before you move the model to a machine without a network",
        )
    else:
        yield ok("all files of the model lie in its folder")
