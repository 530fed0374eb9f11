"""TRL's SFTTrainer for verdicts: one position a row, targets over three tokens, three-way figures when evaluating."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, PrinterCallback
from trl import SFTConfig, SFTTrainer

from judge.errors import JudgeError, counted
from judge.prompting.encoding import load_tokenizer
from judge.runs.progress import Progress
from judge.training.batches import RowSampler, collate, token_dataset
from judge.training.callbacks import EpochOrder, MetricsFile, Schedule, StopOnInterrupt, WeightsMove, WholeCheckpoints
from judge.training.heldout import heldout_figures
from judge.training.model import restore_trained, trained_values
from judge.training.rows import IGNORED
from judge.training.run import TrainingRun

CHECKPOINTS, METRICS, BEFORE = "checkpoints", "metrics.jsonl", "before.json"


def verdict_logprobs(logits: torch.Tensor, verdict_ids: torch.Tensor) -> torch.Tensor:
    """Return the full-vocabulary log-probabilities of A, B and tie, float32, shape (rows, 3).

    Args:
        logits: of the position before the verdict, any float type, shape (rows, vocabulary).
        verdict_ids: int64, shape (3,).
    """
    values = logits.float()
    return values.index_select(1, verdict_ids) - values.logsumexp(dim=1, keepdim=True)


def row_losses(
    logits: torch.Tensor,
    verdict_ids: torch.Tensor,
    target: torch.Tensor,
    over: Literal["verdicts", "vocabulary"],
) -> torch.Tensor:
    """Return each row's cross-entropy with its target, in nats, shape (rows,).

    Args:
        logits: of the position before the verdict, shape (rows, vocabulary).
        target: probabilities of A, B and tie, float32, shape (rows, 3).
        over: `vocabulary` is the usual loss of a language model on the verdict token; it also teaches the model to
            answer nothing else. `verdicts` normalises over the three verdicts first, as the read-out does (see
            docs/training.md).
    """
    logprobs = verdict_logprobs(logits, verdict_ids)
    if over == "verdicts":
        logprobs = logprobs.log_softmax(dim=1)
    # 0 x -inf would be NaN, so positions with a target of 0 are left out
    return -torch.where(target > 0, target * logprobs, 0.0).sum(dim=1)


class VerdictTrainer(SFTTrainer):  # type: ignore[misc]  # not analysed
    """SFTTrainer whose loss and evaluation read one position of each row.

    Rows arrive tokenised with labels, so TRL prepares nothing. It brings the training loop, checkpoints, devices and
    loggers.

    Args:
        verdict_ids: token ids of A, B and tie.
        over: see `row_losses`.
        row_ids, eval_row_ids: the ids of the rows, to name them in errors.
        check_targets: check that the target's most probable verdict is the label (soft labels may differ).
        sampler: the order of the training rows.
    """

    def __init__(
        self,
        *,
        verdict_ids: tuple[int, int, int],
        over: Literal["verdicts", "vocabulary"],
        row_ids: Sequence[str],
        eval_row_ids: Sequence[str],
        check_targets: bool,
        sampler: RowSampler,
        **arguments: Any,
    ) -> None:
        self.over: Literal["verdicts", "vocabulary"] = over
        self.row_ids, self.eval_row_ids, self.sampler = row_ids, eval_row_ids, sampler
        self.check_targets = check_targets
        self._verdict_ids = torch.tensor(verdict_ids)
        self.rows_seen = 0
        super().__init__(**arguments)
        self._verdict_ids = self._verdict_ids.to(self.args.device)
        # the loss is a mean over the rows of the whole step: this makes the trainer count them and not divide again
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        del train_dataset
        return self.sampler

    def _verdict_logits(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits of the position before each verdict, shape (rows, vocabulary)."""
        mask = inputs["attention_mask"][:, :-1]
        output = model(
            input_ids=inputs["input_ids"][:, :-1],
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            logits_to_keep=1,  # the output head runs on one position a row
            use_cache=False,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the weighted mean loss of a batch; over the rows of the whole optimizer step while training."""
        logits = self._verdict_logits(model, inputs)
        losses = row_losses(logits, self._verdict_ids, inputs["target"], self.over) - inputs["offset"]
        if not torch.isfinite(losses).all():
            ids = self.row_ids if model.training else self.eval_row_ids
            bad = [ids[row] for row in inputs["row"][~torch.isfinite(losses)].tolist()]
            raise JudgeError(
                f"step {self.state.global_step + 1}: the loss of {counted(len(bad), 'row')} is not a number "
                f"(id {', '.join(bad[:8])}); try a lower learning_rate or another dtype"
            )
        rows = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = (losses * inputs["weight"]).sum() / rows
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over the devices
        if model.training:
            self._check_batch(inputs)
        return (loss, logits) if return_outputs else loss

    def _check_batch(self, inputs: dict[str, torch.Tensor]) -> None:
        """Assert what the model has just got: one supervised token in each row, at its end, and it is a verdict."""
        labels = inputs["labels"]
        assert ((labels != IGNORED).sum(dim=1) == 1).all(), "a row has more or fewer than one supervised token"
        assert torch.equal(labels[:, -1], inputs["input_ids"][:, -1]), "the label is not the row's last token"
        assert torch.isin(labels[:, -1], self._verdict_ids).all(), "the supervised token is not a verdict"
        if self.check_targets:  # the loss reads the target, not the label: they must say the same
            named = self._verdict_ids[inputs["target"].argmax(dim=1)]
            assert torch.equal(named, labels[:, -1]), "the target is not the verdict of the label"
        self.rows_seen += len(labels)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the loss, the verdicts' full-vocabulary log-probabilities and the rows' numbers."""
        del prediction_loss_only, ignore_keys
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, logits = self.compute_loss(model, inputs, return_outputs=True)
            logprobs = verdict_logprobs(logits, self._verdict_ids)
        return loss.detach(), logprobs, inputs["row"]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # TRL's own method would write a model card into every checkpoint
        super(SFTTrainer, self)._save_checkpoint(model, trial)


def make_trainer(run: TrainingRun, model: Any, folder: Path, progress: Progress) -> tuple[VerdictTrainer, Any]:
    """Return the trainer of a run, and the callback that knows whether Ctrl-C was pressed.

    Args:
        folder: for checkpoints and metrics.
    """
    settings, both = run.settings, run.settings.swap != "off"
    verdict_ids = run.builder.verdict_ids
    interrupt = StopOnInterrupt()
    metrics = MetricsFile(folder / METRICS, folder / BEFORE, progress)
    callbacks: list[Any] = [Schedule(settings.evaluations), metrics, WeightsMove(), WholeCheckpoints()]
    if run.machine.processes == 1:  # a launcher stops its own processes
        callbacks.append(interrupt)
    if settings.patience is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=settings.patience))
    arguments = SFTConfig(**trainer_arguments(run, folder))
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one card for each process: DataParallel would multiply the batch
    trained = trained_values(model)
    trainer = VerdictTrainer(
        model=model,
        args=arguments,
        processing_class=load_tokenizer(run.base.path, settings.trust_remote_code),
        train_dataset=token_dataset(run.train_rows, run.split.train, settings, verdict_ids, both, training=True),
        eval_dataset=token_dataset(run.eval_rows, run.split.held_out, settings, verdict_ids, False, training=False),
        data_collator=partial(collate, pad_id=run.builder.encoder.tokenizer.pad_token_id or 0),
        compute_metrics=lambda prediction: heldout_figures(
            prediction.predictions, run.eval_rows.records["label"][prediction.label_ids]
        ),
        callbacks=callbacks,
        verdict_ids=verdict_ids,
        over=settings.loss,
        row_ids=run.train_rows.ids,
        eval_row_ids=run.eval_rows.ids,
        check_targets=settings.soft_weight == 0,
        sampler=RowSampler(run.train_rows.lengths[run.split.train], settings.swap, run.group, settings.seed),
    )
    trainer.remove_callback(PrinterCallback)
    restore_trained(model, trained)
    even = run.machine.processes == 1  # several devices repeat a few rows so that all have as many
    trainer.add_callback(
        EpochOrder(trainer.sampler.set_epoch, lambda: trainer.rows_seen, run.rows_per_epoch if even else None)
    )
    if run.checkpointing:  # the trainer would do it when training starts, but the trial batch comes before
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return trainer, interrupt


def trainer_arguments(run: TrainingRun, folder: Path) -> dict[str, Any]:
    """Return the fields of TRL's `SFTConfig`: TRL prepares no data, and our `Schedule` evaluates and saves."""
    settings, machine = run.settings, run.machine
    never = run.steps + 1
    return {
        "output_dir": str(folder / CHECKPOINTS),
        # rows arrive as token ids with labels
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "packing": False,
        "remove_unused_columns": False,
        "router_aux_loss_coef": 0.0,
        # what the trainer does
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.eval_batch_size or settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": settings.rate,
        "lr_scheduler_type": settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": math.floor(settings.warmup * run.steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": settings.optimizer,
        "seed": settings.seed,
        "data_seed": settings.seed,
        # where
        "use_cpu": machine.device == "cpu",
        "bf16": machine.dtype == "bfloat16",
        "fp16": machine.dtype == "float16",
        "gradient_checkpointing": run.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if run.checkpointing else None,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": machine.device == "cuda",
        # evaluation, checkpoints, logs
        # before the first step; not by trainer.evaluate(), after which accelerate would not wrap the model for
        # several devices any more
        "eval_on_start": not (folder / BEFORE).exists(),
        "eval_strategy": "steps",
        "eval_steps": never,
        "save_strategy": "steps",
        "save_steps": never,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_log_loss",
        "greater_is_better": False,
        "logging_strategy": "steps",
        "logging_steps": settings.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": list(settings.report_to) or "none",
        "label_names": ["row"],
        "run_name": folder.name.removesuffix(".parts"),
        "push_to_hub": False,
    }
