"""Arguments and options of several commands that belong to no settings model, such as the files that they read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[Path, typer.Argument(help="Judge bundle, or folder of a Hugging Face model (safetensors).")]
TableFile = Annotated[
    Path, typer.Argument(help="Table of comparisons: .csv, .parquet or .jsonl, or a folder of Parquet files.")
]
LabelledTable = Annotated[Path, typer.Argument(help="The labelled table of the same ids: .csv, .parquet or .jsonl.")]
PredictionsFile = Annotated[Path, typer.Argument(help="What judge score wrote (.parquet, .csv), or a submission.")]
NewTable = Annotated[Path, typer.Option("-o", "--output", help="Table to write: .csv, .parquet or .jsonl.")]
Base = Annotated[Path | None, typer.Option(help="The base model of an adapter, if it has moved.")]
CellsOption = Annotated[
    Literal["auto", "json", "plain"],
    typer.Option(
        "--cells", help="Cells are JSON lists with one string a turn, plain text, or whichever each looks like."
    ),
]
OnBadRowOption = Annotated[
    Literal["error", "placeholder"], typer.Option("--on-bad-row", help="What to do with cells that cannot be read.")
]
Duration = Annotated[str | None, typer.Option("--deadline", help="Time there is, such as 9h or 8h30m.")]
Restart = Annotated[bool, typer.Option("--restart", help="Start over, dropping what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
