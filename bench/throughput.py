"""Tokens per second of `judge score`, of bare `vllm.LLM.generate`, and of padded transformers batches.

    python bench/throughput.py --model MODEL [--rows 64] [--rounds 3] [--table REAL_TABLE] [--no-padded]

All three read the same prompts with the same model and the same environment. The rounds alternate, so that a
machine whose speed drifts slows them alike; ratios are taken within a round. Loading the model does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.results import write
from bench.tables import write_table

PADDED_BATCH = 4  # what the public notebooks of the contest used on a T4


def judge_score(model: Path, table: Path, folder: Path) -> float:
    """Run the command and return the tokens per second that its record gives (loading not counted)."""
    output = folder / "predictions.parquet"
    command = [
        str(Path(sys.executable).parent / "judge"),
        "score",
        str(model),
        str(table),
        "-o",
        str(output),
        "--restart",
    ]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads(output.with_name(output.name + ".run.json").read_text(encoding="utf-8"))["result"]
    return float(result["tokens"]) / float(result["seconds"])


def prompts_of(model: Path, table: Path) -> tuple[list[list[int]], Any]:
    """Return the prompts of a table and the config that `judge score` gives its engine."""
    from judge.models.bundle import open_model
    from judge.scoring.scorer import Scorer
    from judge.scoring.settings import ScoreSettings
    from judge.tables.table import Table

    scorer = Scorer(open_model(model), ScoreSettings(), Path())
    rows = [row for chunk in Table.open(table).chunks() for row in chunk]
    return [prompt.ids.tolist() for prompt in scorer.builder.build(rows)], scorer.pool.config


def bare_vllm(model: Path, table: Path) -> float:
    """`LLM.generate` on all prompts at once, in the table's order, with the same engine settings."""
    from vllm import LLM, SamplingParams

    from judge.engine.vllm import engine_arguments

    prompts, config = prompts_of(model, table)
    llm = LLM(**engine_arguments(config))
    ids = list(config.verdict_ids)
    params = SamplingParams(
        max_tokens=1, temperature=0.0, allowed_token_ids=ids, logprob_token_ids=ids, detokenize=False
    )
    began = time.perf_counter()
    llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    return sum(map(len, prompts)) / (time.perf_counter() - began)


def padded_transformers(model: Path, table: Path, by_length: bool) -> float:
    """Padded batches, in the table's order or sorted by length; only the last position's logits are made."""
    import torch
    from transformers import AutoModelForCausalLM

    prompts, config = prompts_of(model, table)
    if by_length:
        prompts.sort(key=len, reverse=True)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, config.dtype)).to(config.device).eval()
    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(prompts), PADDED_BATCH):
            batch = prompts[start : start + PADDED_BATCH]
            longest = max(map(len, batch))
            ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch], device=config.device)
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=config.device)
            logits = network(ids, attention_mask=mask, logits_to_keep=1).logits[:, -1]
            torch.log_softmax(logits.float(), dim=-1)[:, list(config.verdict_ids)].cpu()
    return sum(map(len, prompts)) / (time.perf_counter() - began)


def run(kind: str, options: argparse.Namespace, table: Path, folder: Path) -> float:
    """Measure one kind in a process of its own, in the environment that judge gives its engines."""
    if kind == "judge":
        return judge_score(options.model, table, folder)
    from judge.engine.pool import cpu_environments
    from judge.hardware.machine import cpu_cores, usable_gpus

    extra = {} if usable_gpus("auto") else cpu_environments(1, cpu_cores(), 1)[0]
    extra |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, __file__, "--model", str(options.model), "--one", kind, str(table)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **extra})
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Alternate the kinds for some rounds and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(".cache/SmolLM2-135M-Instruct"))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", type=Path, help="draw the rows from this table")
    parser.add_argument("--no-padded", action="store_true", help="leave transformers out")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, table = options.one
        if kind == "vllm":
            print(bare_vllm(options.model, Path(table)))
        else:
            print(padded_transformers(options.model, Path(table), kind == "padded-sorted"))
        return
    kinds = ("judge", "vllm") if options.no_padded else ("judge", "vllm", "padded", "padded-sorted")
    speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table.csv", options.rows, options.table)
        for _ in range(options.rounds):
            for kind in kinds:
                speeds[kind].append(run(kind, options, folder / "table.csv", folder))
    ratios = {kind: [a / b for a, b in zip(speeds["judge"], speeds[kind], strict=True)] for kind in kinds[1:]}
    write(
        "throughput-vllm" if options.no_padded else "throughput",
        {
            "rows": options.rows,
            "table": options.table.name if options.table else "made up",
            **{f"tokens_per_second_{kind}": statistics.median(values) for kind, values in speeds.items()},
            **{f"judge_over_{kind}": statistics.median(values) for kind, values in ratios.items()},
            "judge_over_vllm_rounds": [round(r, 3) for r in ratios["vllm"]],
        },
    )


if __name__ == "__main__":
    main()
