"""Training speed and memory: `judge train`'s trainer beside a bare PyTorch loop over the same batches.

    python bench/training.py --model MODEL

Both take the same rows in the same order through the same LoRA model: TRL's loop with its callbacks, logging and
checks, and twenty lines of PyTorch that run forward and backward, clip, and step (with the same autocast and
checkpointing on a GPU). Evaluations, checkpoints and the first step are outside the measured part. Each loop has a
process of its own; the two run in turn, and the ratio of each round is reported with both peaks of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.results import write
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.prompting.template import load_template
from judge.runs.progress import Silent
from judge.training.model import choose_machine, load_model, open_base
from judge.training.run import TrainingRun, make_run
from judge.training.settings import parse_train_settings
from judge.training.trainer import make_trainer

SAMPLE = Path(__file__).parent.parent / "judge" / "demo" / "training.csv"


def run_of(model: str, table: str, steps: int, batch_size: int, folder: Path) -> TrainingRun:
    """Return a run with LoRA on all linear layers for a number of steps."""
    settings = parse_train_settings(
        {"model": model, "data": table, "template": "minimal", "holdout": 0.1, "max_steps": steps, "warmup": 0.0}
        | {"batch_size": batch_size, "schedule": "constant", "swap": "off", "log_every": 5, "evaluations": 1}
    )
    base, _ = open_base(settings)
    builder = PromptBuilder(TextEncoder(load_tokenizer(base.path)), load_template("minimal"), Budget(512))
    return make_run(settings, base, None, builder, choose_machine(settings), folder, Silent())


class Clock:
    """Seconds and tokens between the first step's end and the last one's: what starts and ends a run is left out."""

    def __init__(self) -> None:
        self.began, self.seconds = 0.0, 0.0

    def tick(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.began = self.began or time.perf_counter()
        self.seconds = time.perf_counter() - self.began


def trained_by_trl(run: TrainingRun, folder: Path) -> tuple[float, int]:
    """Return seconds and tokens of TRL's loop, after its first step."""
    from transformers import TrainerCallback

    from judge.training.callbacks import Schedule

    clock, tokens = Clock(), [0]

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    model = load_model(run.settings, run.base, None, run.machine)
    trainer, _ = make_trainer(run, model, folder, Silent())
    trainer.remove_callback(Schedule)
    trainer.args.eval_on_start = trainer.args.load_best_model_at_end = False
    trainer.args.save_strategy = "no"
    trainer.add_callback(Timer)
    compute_loss = trainer.compute_loss

    def counted(model: Any, inputs: dict[str, torch.Tensor], **rest: Any) -> Any:
        if clock.began and model.training:  # the trainer evaluates once more at its end
            tokens[0] += inputs["input_ids"].numel()
        return compute_loss(model, inputs, **rest)

    trainer.compute_loss = counted  # type: ignore[method-assign, assignment]
    trainer.train()
    return clock.seconds, tokens[0]


def trained_bare(run: TrainingRun, folder: Path) -> tuple[float, int]:
    """Return seconds and tokens of a bare loop over the same batches, after its first step."""
    model = load_model(run.settings, run.base, None, run.machine)
    trainer, _ = make_trainer(run, model, folder, Silent())  # for its batches alone
    ids = torch.tensor(run.builder.verdict_ids)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=run.settings.rate, weight_decay=0.0)
    model.train()
    clock, tokens, steps = Clock(), 0, 0
    while steps < run.steps:
        for batch in trainer.get_train_dataloader():
            tokens += batch["input_ids"].numel() if clock.began else 0
            mask = batch["attention_mask"][:, :-1]
            with trainer.accelerator.autocast():
                logits = model(
                    input_ids=batch["input_ids"][:, :-1],
                    attention_mask=mask,
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                    logits_to_keep=1,
                    use_cache=False,
                ).logits[:, -1]
            labels = (batch["labels"][:, -1:] == ids).int().argmax(dim=1)
            torch.nn.functional.cross_entropy(logits[:, ids], labels).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            clock.tick()
            steps += 1
            if steps == run.steps:
                break
    return clock.seconds, tokens


def measured(loop: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run one loop in a process of its own; return tokens/s and peak memory in GiB."""
    command = [sys.executable, __file__, "--loop", loop, "--model", arguments.model, "--table", arguments.table]
    command += ["--steps", str(arguments.steps), "--batch-size", str(arguments.batch_size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_loop(arguments: argparse.Namespace) -> None:
    """Run one loop in this process and print its figures as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(arguments.model, arguments.table, arguments.steps, arguments.batch_size, Path(folder))
        seconds, tokens = (trained_bare if arguments.loop == "bare" else trained_by_trl)(run, Path(folder))
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"tokens_per_second": tokens / seconds, "peak_gib": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--table", default=str(SAMPLE))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", choices=("bare", "judge"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        run_loop(arguments)
        return
    rounds: list[dict[str, Any]] = []
    for _ in range(arguments.rounds):
        bare, judge = measured("bare", arguments), measured("judge", arguments)
        rounds.append({"bare": bare, "judge": judge, "ratio": judge["tokens_per_second"] / bare["tokens_per_second"]})
        print(rounds[-1], flush=True)
    write(
        "training",
        {
            "median_ratio": statistics.median(float(r["ratio"]) for r in rounds),
            "rounds": rounds,
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
        },
    )


if __name__ == "__main__":
    main()
