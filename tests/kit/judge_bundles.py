"""A judge bundle that nobody trained: a copy of a model folder with a `judge.json`."""

from __future__ import annotations

import shutil
from pathlib import Path

from judge.models.judge_file import Base, JudgeFile, write_judge_file
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.prompting.template import load_template, template_data

MAX_TOKENS = 256


def save_judge(model: Path, folder: Path) -> Path:
    """Copy a model folder and make it a judge with the template `minimal`."""
    shutil.copytree(model, folder)
    template = load_template("minimal")
    budget = Budget(MAX_TOKENS)
    builder = PromptBuilder(TextEncoder(load_tokenizer(folder)), template, budget)
    content = JudgeFile(
        template=template_data(template),
        template_digest=template.digest,
        verdict_ids=builder.verdict_ids,
        max_tokens=budget.max_tokens,
        truncation=budget.policy,
        shares=budget.shares,
        prompt_fingerprint=builder.fingerprint(),
        method="full",
        base=Base(path=str(model), digest="0" * 64),
    )
    write_judge_file(folder, content)
    return folder
