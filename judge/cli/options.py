"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[Path, typer.Argument(help="Judge bundle, or folder of a Hugging Face model (safetensors).")]
TableFile = Annotated[
    Path, typer.Argument(help="Table of comparisons: .csv, .parquet or .jsonl, or a folder of Parquet files.")
]
Base = Annotated[Path | None, typer.Option(help="The base model of an adapter, if it has moved.")]
Cells = Annotated[
    Literal["auto", "json", "plain"],
    typer.Option(help="Cells are JSON lists with one string a turn, plain text, or whichever each looks like."),
]
Readout = Annotated[
    Literal["vllm", "vllm-processor", "vllm-classify", "transformers"],
    typer.Option(help="How the three log-probabilities are read."),
]
TemplateName = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="Prompt template: a shipped name or a .yaml file. [default: the bundle's, otherwise side-by-side]",
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="Longest prompt in tokens. [default: the bundle's, otherwise 2048 or less]")
]
Truncation = Annotated[
    Literal["middle", "start", "end", "oldest-turns"] | None,
    typer.Option(help="Where over-long texts are cut. [default: the bundle's, otherwise middle]"),
]
Swap = Annotated[
    str, typer.Option(help="Read rows with A and B exchanged too: off, all, auto, or the least certain N%.")
]
OnBadRow = Annotated[Literal["error", "placeholder"], typer.Option(help="What to do with cells that cannot be read.")]
Parallel = Annotated[Literal["auto", "data", "tensor"], typer.Option(help="One engine on each GPU, or one over all.")]
Workers = Annotated[int, typer.Option(help="Engine processes on a CPU, on Ray too.")]
MemoryShare = Annotated[float, typer.Option(help="Share of a card's memory for the engine.")]
BatchTokens = Annotated[
    int | None,
    typer.Option(help="Most tokens in one engine step. [default: 8192, on a CPU or a small card 4096]"),
]
EngineDtype = Annotated[
    Literal["auto", "float32", "float16", "bfloat16"], typer.Option(help="Arithmetic of the engine.")
]
EngineDevice = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the engine runs.")]
PackedWeights = Annotated[
    Literal["auto", "stored", "expanded"],
    typer.Option(help="4-bit weights: by the engine's own kernels, or expanded once to a 32-bit copy."),
]
MostLogLoss = Annotated[float, typer.Option(help="Largest increase of the log loss that passes, nats.")]
MostFlips = Annotated[float, typer.Option(help="Largest share of changed verdicts that passes.")]
LabelledTable = Annotated[Path, typer.Argument(help="The labelled table of the same ids: .csv, .parquet or .jsonl.")]
PredictionsFile = Annotated[Path, typer.Argument(help="What judge score wrote (.parquet, .csv), or a submission.")]
Partial = Annotated[
    bool,
    typer.Option("--partial", help="Leave out rows of the table without a prediction, such as those that trained."),
]
SelfNames = Annotated[
    list[str] | None,
    typer.Option("--self", help="Name of a model that is the judge itself or its relative; more than once if need be."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
TrainedRows = Annotated[
    Literal["refuse", "mark", "drop"],
    typer.Option(help="If rows trained this judge: refuse, show their figures apart, or leave them out."),
]
RefuseOrDrop = Annotated[
    Literal["refuse", "drop"],
    typer.Option("--trained-rows", help="If labelled rows trained a judge: refuse, or leave them out."),
]
Folds = Annotated[int, typer.Option(help="Folds of the cross-validation over prompt groups.")]
Submission = Annotated[Path | None, typer.Option(help="Also write a contest submission (CSV).")]
Sample = Annotated[
    Path | None, typer.Option(help="The contest's sample submission: its columns, order and ids are used.")
]
Floor = Annotated[float, typer.Option(help="Smallest probability in the submission.")]
Resamples = Annotated[int, typer.Option(help="Bootstrap resamples of prompt groups for the intervals.")]
ResamplingSeed = Annotated[int, typer.Option("--seed", help="Seed of the resampling.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
