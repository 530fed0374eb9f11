"""Predicted against measured time of reading prompts, before and after: the probe's word against the engine's.

    python bench/planning.py [--sizes 30M,135M,360M] [--lengths 256,512,1024] [--tokens 8192] [--seconds 30]
    python bench/planning.py --cuda [--table TABLE] [--rows 512] [--no-padded]

Models are geometries with random weights: what a product costs does not depend on its numbers. On the CPU, for each
size: the probe measures a few layers and predicts, then an engine of the whole depth reads prompts of each length.
With --cuda: the geometry of Llama 3.1 8B in AWQ's layout (compressed-tensors, asymmetric, groups of 128), the row
lengths of a table (or of a made-up one) under a budget of 2,048 tokens; vLLM, 4 bits and 16, against padded batches
in transformers, in rows a second and as a share of the card's peak.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.results import write
from judge.errors import JudgeError
from judge.hardware.cards import find_card
from judge.hardware.machine import usable_gpus
from judge.models.arithmetic import ModelShape
from judge.planning.measure import Prompt, dealt, read_group, wait_until_ready
from judge.planning.probe import probe
from judge.planning.random_engine import Machine, engine_pool, machine_of

Lengths = NDArray[np.int64]

GOAL = 0.15  # relative error
BUDGET, TEMPLATE_TOKENS = 2048, 60
CHARACTERS_PER_TOKEN = 4.2
PADDED_BATCH = 4  # what the public notebooks of the contest used on a T4


def llama(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """Return the config.json of a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 8192,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": vocab < 100_000,
        "dtype": "float32" if vocab < 100_000 else "bfloat16",
        **more,
    }


AWQ = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 128},
            "input_activations": None,
            "output_activations": None,
        }
    },
}
# 30M is made up; the others are those of SmolLM2 and Llama 3.1.
SIZES = {
    "tiny": llama(64, 128, 3, 2, 1, 500),
    "30M": llama(384, 1024, 8, 6, 2, 49152),
    "135M": llama(576, 1536, 30, 9, 3, 49152),
    "360M": llama(960, 2560, 32, 15, 5, 49152),
    "8B": llama(4096, 14336, 32, 32, 8, 128256),
}


def random_prompts(lengths: Lengths, vocab: int, seed: int) -> list[Prompt]:
    """Return prompts of random tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, length, dtype=np.int32) for length in lengths.tolist()]


def measure(config: dict[str, Any], machine: Machine, groups: list[list[Prompt]]) -> list[float]:
    """Return the seconds that an engine of the whole depth takes for each group, loading not counted."""
    with tempfile.TemporaryDirectory(prefix="judge-bench-") as folder:
        pool = engine_pool(Path(folder), config, machine, max(len(p) for group in groups for p in group))
        try:
            wait_until_ready(pool, groups[0][0])
            read_group(pool, [groups[-1][:2]])  # what is made at first use is made now
            return [
                read_group(pool, [[group[i] for i in part] for part in dealt([len(p) for p in group], pool.engines)])[0]
                for group in groups
            ]
        finally:
            pool.close()


def row(size: str, shape: ModelShape, group: list[Prompt], predicted: Any, seconds: float) -> dict[str, Any]:
    """Return what a measurement comes to beside its prediction."""
    flops = float(shape.flops([len(p) for p in group]).sum())
    return {
        "model": size,
        "tokens": int(np.mean([len(p) for p in group])),
        "prompts": len(group),
        "predicted_seconds": round(predicted.value, 2),
        "range_seconds": [round(predicted.low, 2), round(predicted.high, 2)],
        "measured_seconds": round(seconds, 2),
        "relative_error": round(predicted.value / seconds - 1, 3),
        "in_range": bool(predicted.low <= seconds <= predicted.high),
        "tokens_per_second": round(sum(map(len, group)) / seconds, 1),
        "flops_per_second": round(flops / seconds / 1e9, 1) * 1e9,
    }


def on_the_cpu(options: argparse.Namespace) -> None:
    """Predict and measure each size at each length."""
    lengths = [int(length) for length in options.lengths.split(",")]
    found = []
    for size in options.sizes.split(","):
        config = SIZES[size]
        shape = ModelShape.from_config(config)
        mixed = np.linspace(min(lengths), max(lengths), 101)  # the probe is not told which lengths will be measured
        began = time.monotonic()
        model = probe(config, mixed, device="cpu", seconds=options.seconds)
        probing = time.monotonic() - began
        machine = machine_of(shape, device="cpu")
        groups = [
            random_prompts(np.full(max(options.tokens // length, 2), length), shape.vocab, length) for length in lengths
        ]
        for group, seconds in zip(groups, measure(config, machine, groups), strict=True):
            tokens = sum(map(len, group))
            predicted = model.seconds(float(shape.flops([len(p) for p in group]).sum()), len(group), tokens)
            found.append(row(size, shape, group, predicted, seconds) | {"probe_seconds": round(probing, 1)})
            print(found[-1], flush=True)
    errors = [abs(entry["relative_error"]) for entry in found]
    write(
        options.name or "planning",
        {
            "measurements": found,
            "share_within_15_percent": float(np.mean([error <= GOAL for error in errors])),
            "share_in_range": float(np.mean([entry["in_range"] for entry in found])),
            "largest_relative_error": max(errors),
            "median_relative_error": float(np.median(errors)),
        },
    )


def row_lengths(table: Path | None, rows: int) -> Lengths:
    """Return the prompt lengths of a table's first rows, by 4.2 characters a token, under the budget."""
    from bench.tables import made_up_table
    from judge.tables.table import Table

    with tempfile.TemporaryDirectory() as folder:
        if table is None:
            table = Path(folder) / "made_up.csv"
            made_up_table(table, rows)
        found = [
            sum(len(t) for turns in (r.prompt, r.response_a, r.response_b) for t in turns if t)
            for chunk in Table.open(table, on_bad_row="placeholder").chunks()
            for r in chunk
        ]
    tokens = np.array(found[:rows]) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
    return np.clip(tokens, 16, BUDGET).astype(np.int64)


def padded_seconds(config: dict[str, Any], prompts: list[Prompt], device: str, dtype: str) -> float:
    """Return the seconds of padded batches in transformers, in the table's order, with random 16-bit weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key not in ("architectures", "model_type", "dtype")}
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **settings), dtype=getattr(torch, dtype)
        ).eval()
    batches = [prompts[i : i + PADDED_BATCH] for i in range(0, len(prompts), PADDED_BATCH)]

    def read(batch: list[Prompt]) -> None:
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(p)) + p.tolist() for p in batch], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=device)
        logits = network(ids, attention_mask=mask, logits_to_keep=1).logits[:, -1]
        torch.log_softmax(logits.float(), dim=-1)[:, :3].cpu()

    with torch.inference_mode():
        read(batches[0])
        began = time.perf_counter()
        for batch in batches:
            read(batch)
        return time.perf_counter() - began


def on_a_card(options: argparse.Namespace) -> None:
    """Predict and measure 8B in 4 bits and in 16, and measure padded transformers."""
    device = "cpu" if options.sizes == "tiny" else "cuda"  # tiny on a CPU: to try this out
    config = SIZES["tiny" if device == "cpu" else "8B"]
    shape = ModelShape.from_config(config)
    lengths = row_lengths(options.table, options.rows)
    prompts = random_prompts(lengths, shape.vocab, 0)
    flops, tokens = float(shape.flops(lengths).sum()), int(lengths.sum())
    gpus = usable_gpus("cuda") if device == "cuda" else []
    card = find_card(gpus[0].name) if gpus else None
    kinds = (
        {"16 bits": config} if device == "cpu" else {"AWQ": {**config, "quantization_config": AWQ}, "16 bits": config}
    )
    figures: dict[str, Any] = {
        "card": gpus[0].name if gpus else "none",
        "rows": len(lengths),
        "table": options.table.name if options.table else "made up",
        "mean_tokens": float(lengths.mean()),
    }
    if gpus and shape.weight_bytes(2) > 0.85 * gpus[0].memory:  # a T4 holds it in 4 bits only
        del kinds["16 bits"]
        options.no_padded = True
    dtype = "float32"
    for kind, settings in kinds.items():
        model = probe(settings, lengths, device=device, seconds=options.seconds)
        machine = machine_of(ModelShape.from_config(settings), device=device)
        dtype = machine.dtype
        seconds = measure(settings, machine, [prompts])[0]
        predicted = model.seconds(flops, len(prompts), tokens)
        figures[f"vLLM {kind}"] = row(kind, shape, prompts, predicted, seconds) | _rates(
            len(prompts), seconds, flops, card, dtype
        )
        print(figures[f"vLLM {kind}"], flush=True)
    if not options.no_padded:
        seconds = padded_seconds(config, prompts, device, dtype)
        figures["padded transformers 16 bits"] = _rates(len(prompts), seconds, flops, card, dtype)
        for kind in kinds:
            ours = figures[f"vLLM {kind}"]["rows_per_second"]
            figures[f"vLLM {kind} over padded"] = ours / figures["padded transformers 16 bits"]["rows_per_second"]
    write(options.name or "planning-cuda", figures)


def _rates(rows: int, seconds: float, flops: float, card: Any, dtype: str) -> dict[str, Any]:
    peak = getattr(card, dtype) if card is not None else 0
    share = {"share_of_peak": round(flops / seconds / peak, 3)} if peak else {}
    return {"rows_per_second": rows / seconds, "seconds": round(seconds, 2), "dtype": dtype, **share}


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="30M,135M,360M", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--lengths", default="256,512,1024", help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens to measure at each length")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each probe")
    parser.add_argument("--cuda", action="store_true", help="8B on the card instead")
    parser.add_argument("--table", type=Path, help="take the row lengths of this table")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--no-padded", action="store_true", help="leave transformers out")
    parser.add_argument("--name", help="of the file in bench/out")
    options = parser.parse_args()
    try:
        on_a_card(options) if options.cuda else on_the_cpu(options)
    except JudgeError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
