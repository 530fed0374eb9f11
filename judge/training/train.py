"""Training: labelled comparisons in, a judge bundle out.

The steps, in order: check the model, the template and the data (no weight is loaded for that), say what the run will
do, load the model, evaluate it, train it with TRL, evaluate the best checkpoint, write the bundle. An unfinished run
keeps everything in `OUT.parts`; the bundle appears whole under its name.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge.errors import JudgeError, RunInterrupted
from judge.files import check_new_folder
from judge.models.prompting import largest_budget
from judge.prompting.builder import Budget, PromptBuilder
from judge.prompting.encoding import TextEncoder, load_tokenizer
from judge.prompting.template import load_template
from judge.runs.folder import Manifest, RunFolder
from judge.runs.progress import Progress
from judge.training.heldout import heldout_figures, prior_figures
from judge.training.model import TrainingMachine, choose_machine, load_model, open_base, require_libraries
from judge.training.run import TrainingRun, make_run, run_manifest
from judge.training.settings import TrainSettings

if TYPE_CHECKING:
    from judge.training.callbacks import StopOnInterrupt
    from judge.training.trainer import VerdictTrainer

TRAINED = "trained"  # the file that says that all steps are done


def train(settings: TrainSettings, output: Path, resume: bool, restart: bool, progress: Progress) -> dict[str, Any]:
    """Train a judge and write its bundle to `output`.

    Args:
        resume: go on with the unfinished run in `OUT.parts`, which must have the same data and settings.
        restart: drop an unfinished run.

    Returns:
        The held-out figures: `uniform`, `class prior`, `before`, `after`.

    Raises:
        JudgeError: anything a user can mend (see `docs/training.md`).
        RunInterrupted: Ctrl-C; the run can be resumed.
    """
    check_output(output, resume, restart)
    require_libraries(settings)
    base, bundle = open_base(settings)
    machine = choose_machine(settings)
    template = load_template(settings.template)
    budget = Budget(largest_budget(base, settings.max_tokens), settings.truncation, settings.shares)
    tokenizer = load_tokenizer(base.path, settings.trust_remote_code)
    builder = PromptBuilder(TextEncoder(tokenizer), template, budget)
    parts = output.with_name(output.name + ".parts")
    manifest = run_manifest(settings, base, bundle, builder, machine)
    with _run_folder(parts, manifest, restart, machine) as (folder, going_on):
        try:
            run = make_run(settings, base, bundle, builder, machine, folder, progress)
            figures = _train_in(run, output, parts, going_on, progress)
        finally:
            if not going_on and machine.index == 0 and not (parts / "checkpoints").exists():
                shutil.rmtree(parts)  # a mistake in the data or the settings: nothing is left behind
    if machine.index == 0:
        shutil.rmtree(parts, ignore_errors=True)
    return figures


@contextmanager
def _run_folder(
    parts: Path, manifest: Manifest, restart: bool, machine: TrainingMachine
) -> Iterator[tuple[Path, bool]]:
    """Give the folder for the token ids of this process, and whether there is a run to go on with.

    The first process locks the run's folder and writes there; the others write to temporary folders.
    """
    from accelerate import PartialState

    if machine.index > 0:
        PartialState().wait_for_everyone()
        with tempfile.TemporaryDirectory(prefix="judge-") as folder:
            yield Path(folder), (parts / "checkpoints").exists()
        return
    with RunFolder(parts) as run:
        going_on = run.begin(manifest, restart)
        PartialState().wait_for_everyone()
        yield run.path, going_on


def check_output(output: Path, resume: bool, restart: bool) -> None:
    """Check before a run that its bundle can be written to `output`.

    Raises:
        JudgeError: it exists, its parent does not, or there is an unfinished run and neither flag says what to do.
    """
    parts = output.with_name(output.name + ".parts")
    if resume and restart:
        raise JudgeError("--resume goes on with a run and --restart drops it; give one of them")
    check_new_folder(output)
    unfinished = (parts / "manifest.json").exists()
    if resume and not unfinished:
        raise JudgeError(f"{output}: there is no unfinished run to resume (no {parts.name} beside it)")
    if unfinished and not resume and not restart:
        raise JudgeError(f"{parts}: holds an unfinished run; pass --resume to go on with it, or --restart to drop it")


def _train_in(run: TrainingRun, output: Path, parts: Path, going_on: bool, progress: Progress) -> dict[str, Any]:
    # TRL and torch are imported only now: everything that can be checked without them has been checked.
    from transformers import TrainerState

    from judge.training.announce import announce, announce_cost
    from judge.training.bundle import write_bundle
    from judge.training.callbacks import last_checkpoint
    from judge.training.trainer import BEFORE, make_trainer

    if "tensorboard" in run.settings.report_to:  # else it writes into the folder that the run removes at its end
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", f"{output}.runs")
    checkpoint = last_checkpoint(parts / "checkpoints") if going_on else None
    announce(run, going_on, checkpoint, progress)
    model = load_model(run.settings, run.base, run.bundle, run.machine)
    trainer, interrupt = make_trainer(run, model, parts, progress)
    announce_cost(run, trainer, progress)
    if checkpoint is not None and (parts / TRAINED).exists():
        # a run that was killed after its last step: no step is done again
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        trainer._load_best_model()
    else:
        _run(trainer, interrupt, checkpoint, parts)
    after, logprobs = _evaluate(run, trainer)
    before = json.loads((parts / BEFORE).read_text(encoding="utf-8"))
    priors = prior_figures(run.eval_rows.strata[run.split.held_out], run.train_rows.strata[run.split.train])
    figures = {**priors, "before": before, "after": after}
    if run.machine.index == 0:
        write_bundle(run, trainer, output, parts, figures, logprobs)
    trainer.accelerator.wait_for_everyone()
    return figures


def _evaluate(run: TrainingRun, trainer: VerdictTrainer) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Return the figures on the held-out rows, and their log-probabilities, shape (rows, 3), in the rows' order."""
    output = trainer.predict(trainer.eval_dataset)
    logprobs = np.asarray(output.predictions, dtype=np.float64)
    assert np.array_equal(output.label_ids, run.split.held_out), "the held-out rows came back in another order"
    return heldout_figures(logprobs, run.eval_rows.strata[run.split.held_out]), logprobs


def _run(trainer: VerdictTrainer, interrupt: StopOnInterrupt, checkpoint: Path | None, parts: Path) -> None:
    """Train to the end, with the best checkpoint's weights in the model afterwards."""
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        interrupt.interrupted = True
    finally:
        interrupt.restore()
    if interrupt.interrupted:
        raise RunInterrupted(f"stopped; the run is kept in {parts}: give the same command with --resume to go on")
    if trainer.is_world_process_zero():
        (parts / TRAINED).touch()
