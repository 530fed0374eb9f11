"""The commands that say beforehand how a scoring will go: parse, call one function, print. Heavy imports come later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from judge.cli.options import (
    AsJson,
    Base,
    BatchTokens,
    Cells,
    Debug,
    EngineDevice,
    EngineDtype,
    MaxTokens,
    MemoryShare,
    Model,
    OnBadRow,
    PackedWeights,
    Parallel,
    Readout,
    Swap,
    TableFile,
    TemplateName,
    Truncation,
    Workers,
)

Duration = Annotated[str | None, typer.Option("--deadline", help="Time there is, such as 9h or 8h30m.")]


def plan(
    model: Annotated[Path, typer.Argument(help="Model folder, judge bundle, or a config.json alone.")],
    table: TableFile,
    gpu: Annotated[
        str | None, typer.Option(help="Cards to plan for, such as T4, 2xT4 or cpu. [default: this machine's]")
    ] = None,
    deadline: Duration = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the model's tokenizer, where MODEL has none.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure this machine first, with random weights: a minute or two.")
    ] = False,
    template: TemplateName = None,
    max_tokens: MaxTokens = None,
    truncation: Truncation = None,
    swap: Swap = "off",
    cells: Cells = "auto",
    on_bad_row: OnBadRow = "error",
    dtype: EngineDtype = "auto",
    weights: PackedWeights = "auto",
    parallel: Parallel = "auto",
    workers: Workers = 1,
    gpu_memory_utilization: MemoryShare = 0.9,
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say before a scoring what it takes: memory, what cannot work, hours with a range, and what to change.

    Nothing is loaded but the config and the tokenizer. Exit status 1 if it cannot work or may not fit the deadline.
    """
    del debug
    from judge.api import parse_settings
    from judge.cli.plan import PlanOptions, run_plan

    settings = parse_settings(
        {
            "template": template,
            "max_tokens": max_tokens,
            "truncation": truncation,
            "swap": swap,
            "dtype": dtype,
            "weights": weights,
            "parallel": parallel,
            "workers": workers,
            "gpu_memory_utilization": gpu_memory_utilization,
            "batch_tokens": batch_tokens,
        }
    )
    options = PlanOptions(gpu, deadline, tokenizer, probe, as_json)
    if run_plan(model, table, settings, options, cells=cells, on_bad_row=on_bad_row, echo=typer.echo):
        raise typer.Exit(1)


def rehearse(
    model: Model,
    table: TableFile,
    deadline: Duration = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Rows of the random sample. [default: 256, on a CPU 48]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one draws other rows.")] = 0,
    template: TemplateName = None,
    max_tokens: MaxTokens = None,
    truncation: Truncation = None,
    base: Base = None,
    swap: Swap = "off",
    readout: Readout = "vllm",
    cells: Cells = "auto",
    on_bad_row: OnBadRow = "error",
    dtype: EngineDtype = "auto",
    weights: PackedWeights = "auto",
    device: EngineDevice = "auto",
    parallel: Parallel = "auto",
    workers: Workers = 1,
    gpu_memory_utilization: MemoryShare = 0.9,
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run the real engine on the longest, the odd and some random rows: memory, speed, and how long the whole takes.

    Nothing is left behind. Exit status 1 if the whole table would not fit the deadline.
    """
    del debug
    from judge.api import parse_settings
    from judge.cli.rehearse import run_rehearse

    settings = parse_settings(
        {
            "template": template,
            "max_tokens": max_tokens,
            "truncation": truncation,
            "swap": swap,
            "readout": readout,
            "dtype": dtype,
            "weights": weights,
            "device": device,
            "parallel": parallel,
            "workers": workers,
            "gpu_memory_utilization": gpu_memory_utilization,
            "batch_tokens": batch_tokens,
        }
    )
    fits = run_rehearse(
        model,
        table,
        settings,
        cells=cells,
        on_bad_row=on_bad_row,
        deadline=deadline,
        sample=sample,
        seed=seed,
        as_json=as_json,
        base=base,
    )
    if not fits:
        raise typer.Exit(1)


def mock_table(
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write: .csv, .parquet or .jsonl.")],
    table: Annotated[
        Path | None,
        typer.Argument(help="Table whose rows are drawn. [default: the demo's 24 short comparisons]"),
    ] = None,
    rows: Annotated[int, typer.Option("-n", "--rows", help="How many rows to write.")] = 25_000,
    seed: Annotated[int, typer.Option(help="Another seed draws other rows.")] = 0,
    labels: Annotated[
        bool, typer.Option("--labels", help="Also write the verdicts and the models' names of the drawn rows.")
    ] = False,
    awkward: Annotated[float, typer.Option(help="Share of the rows that are made awkward.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    cells: Cells = "auto",
    debug: Debug = False,
) -> None:
    """Draw a table's rows again, to any number, with new ids and every kind of awkward row.

    The texts are those of the table, so keep what you make from a private table as private.
    """
    del debug
    from judge.data.mock_table import DEMO_TABLE
    from judge.data.mock_table import mock_table as make

    for line in make(table or DEMO_TABLE, rows, output, seed, labels, cells, awkward, overwrite):
        typer.echo(line)
    if table is None:
        typer.echo("no TABLE given: the rows are the demo's, much shorter than real ones; name your table to plan with")


def doctor(
    model: Annotated[
        Path | None, typer.Argument(help="Model folder, judge bundle or adapter. [default: look at the machine alone]")
    ] = None,
    template: TemplateName = None,
    max_tokens: MaxTokens = None,
    base: Base = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder that results go to. [default: this one]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes longer than seconds.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look at the machine, the packages, the model and whether all works offline; every problem says what to do.

    Exit status 1 if there is a problem.
    """
    del debug
    from judge.cli.doctor import run_doctor
    from judge.doctor.doctor import Examination

    if run_doctor(Examination(model, base, template, max_tokens, output, quick), as_json):
        raise typer.Exit(1)


def add_planning_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command()(plan)
    app.command()(rehearse)
    app.command("mock-table")(mock_table)
    app.command()(doctor)
