"""Three ways to a 4-bit judge, on the same rows: LoRA or QLoRA before quantising, or quantising before LoRA.

    python bench/four_bits.py --model MODEL -o bench/out/four-bits

Every way ends in 4-bit weights of the same layout and group size, and is scored with `judge score` on the rows that
were held out. The table is the demo's own. Finished steps are taken over, so the command can be given again. Also
compares what calibration is on: the judge's own prompts, or general text (`--text`, a file of plain text).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

from judge.engine.expand import Expansion
from judge.models.bundle import open_model
from judge.models.packed import read_quantization
from judge.prompting.encoding import load_tokenizer

ROOT = Path(__file__).parent.parent
JUDGE = str(Path(sys.executable).parent / "judge")
CONFIG = ROOT / "configs" / "smollm2-135m-cpu.yaml"
TABLE = Path(str(resources.files("judge.demo"))) / "training.csv"


class Bench:
    """Runs judge's commands in a folder and remembers how long they took."""

    def __init__(self, folder: Path, group_size: int, samples: int) -> None:
        self.folder = folder
        self.quantise = ["--group-size", str(group_size), "--samples", str(samples), "--sample-tokens", "128"]
        self.seconds: dict[str, float] = {}

    def run(self, name: str, *arguments: str, good: tuple[int, ...] = (0,)) -> Path:
        """Run a command that writes the folder or file `name`, unless it is there."""
        output = self.folder / name
        if output.exists():
            return output
        began = time.monotonic()
        print("judge", *arguments, "-o", name, file=sys.stderr, flush=True)
        done = subprocess.run([JUDGE, *arguments, "-o", str(output)], check=False, stdout=subprocess.DEVNULL)
        if done.returncode not in good:
            raise SystemExit(f"{name}: exit status {done.returncode}")
        self.seconds[name] = round(time.monotonic() - began, 1)
        return output

    def train(self, name: str, model: Path, seed: int, *more: str) -> Path:
        """Train on the demo's sample."""
        common = ("--config", str(CONFIG), "--model", str(model), "--data", str(TABLE), "--seed", str(seed))
        return self.run(name, "train", *common, *more)

    def compress(self, name: str, model: Path, *more: str) -> Path:
        """Quantise, without the drift table."""
        return self.run(name, "quantize", str(model), *self.quantise, "--no-drift", *more)

    def figures(self, stage: Path) -> dict[str, Any]:
        """Score the table and return the figures on the rows that did not train the judge."""
        scores = self.run(f"{stage.name}.parquet", "score", str(stage), str(TABLE), "--weights", _weights(stage))
        command = [JUDGE, "evaluate", str(scores), str(TABLE), "--trained-rows", "drop", "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)["figures"]["all"]
        return {key: found[key] for key in ("rows", "log_loss", "accuracy")}


def _weights(stage: Path) -> str:
    """How to read the weights: always in float32, so that only the weights differ."""
    return "expanded" if open_model(stage).quantization else "auto"


def expanded(model: Path) -> Path:
    """Return the 32-bit copy of a 4-bit model: the same values, which an adapter can be trained on."""
    folder = open_model(model)
    quantization = read_quantization(folder.quantization)
    if quantization is None:
        raise SystemExit(f"{model}: is not quantised")
    expansion = Expansion(folder, quantization)
    if not expansion.is_made():
        expansion.make()
    return expansion.folder


def general_text(model: Path, text: Path, samples: int, tokens: int) -> list[list[int]]:
    """Return pieces of plain text as token ids, evenly over the file."""
    ids = load_tokenizer(model)(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    step = max(len(ids) // samples, tokens)
    return [ids[i : i + tokens] for i in range(0, len(ids) - tokens, step)][:samples]


def calibrate_on_text(bench: Bench, name: str, model: Path, text: Path, group_size: int, samples: int) -> Path:
    """Quantise with the same back end on general text."""
    from judge.runs.progress import Silent
    from quantize.awq import quantize_model
    from quantize.settings import QuantizeSettings

    output = bench.folder / name
    if not output.exists():
        # as many tokens as the judge's prompts have: 60 on average
        ids = general_text(model, text, samples, 60)
        settings = QuantizeSettings(group_size=group_size, samples=samples)  # type: ignore[arg-type]
        quantize_model(open_model(model), output, ids, settings, Silent())
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/out/four-bits"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--text", type=Path, help="plain text to calibrate on, for comparison")
    parser.add_argument("--skip", nargs="*", default=[], choices=["qlora", "first"])
    arguments = parser.parse_args()
    folder = arguments.output / f"seed-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    bench, base = Bench(folder, arguments.group_size, arguments.samples), arguments.model
    stages: dict[str, Path] = {}
    stages["LoRA, 16 bits"] = lora = bench.train("lora", base, arguments.seed)
    merged = bench.run("lora-merged", "merge", str(lora))
    stages["LoRA, then 4 bits"] = bench.compress("lora-4bit", merged)
    if arguments.text is not None:
        stages["LoRA, then 4 bits, calibrated on general text"] = calibrate_on_text(
            bench, "lora-4bit-text", merged, arguments.text, arguments.group_size, arguments.samples
        )
    if "first" not in arguments.skip:
        own = ("--template", "minimal", "--data", str(TABLE))
        first = expanded(bench.compress("base-4bit", base, *own))
        stages["4 bits, then LoRA"] = bench.train("first-lora", first, arguments.seed)
    if "qlora" not in arguments.skip:
        stages["QLoRA, on 16 bits"] = qlora = bench.train("qlora", base, arguments.seed, "--method", "qlora")
        merged = bench.run("qlora-merged", "merge", str(qlora))
        stages["QLoRA, then 4 bits"] = bench.compress("qlora-4bit", merged)
    result = {name: bench.figures(stage) for name, stage in stages.items()}
    report = {"seed": arguments.seed, "group_size": arguments.group_size, "samples": arguments.samples}
    print(json.dumps({**report, "stages": result, "seconds": bench.seconds}, indent=1))


if __name__ == "__main__":
    main()
