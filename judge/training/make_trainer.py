"""The trainer of a run, set up from its plan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, PrinterCallback
from trl import SFTConfig

from judge.prompting.encoding import load_tokenizer
from judge.training.callbacks import EpochOrder, MetricsFile, Schedule, StopOnInterrupt, WeightsMove, WholeCheckpoints
from judge.training.events import TrainingEvents
from judge.training.heldout import heldout_figures
from judge.training.model import restore_trained, trained_values
from judge.training.plan import BOTH_ORDERS, Plan
from judge.training.rows import token_dataset
from judge.training.trainer import RowSampler, VerdictCollator, VerdictTrainer

CHECKPOINTS, METRICS, BEFORE = "checkpoints", "metrics.jsonl", "before.json"


def make_trainer(plan: Plan, model: Any, folder: Path, events: TrainingEvents) -> tuple[VerdictTrainer, Any]:
    """Return the trainer, and the callback that knows whether the run was interrupted."""
    settings, both = plan.settings, BOTH_ORDERS[plan.settings.swap]
    verdict_ids = plan.builder.verdict_ids
    interrupt = StopOnInterrupt()
    metrics = MetricsFile(folder / METRICS, folder / BEFORE, events)
    callbacks: list[Any] = [Schedule(settings.evaluations), metrics, WeightsMove(), WholeCheckpoints()]
    if plan.machine.processes == 1:  # a launcher stops its processes itself
        callbacks.append(interrupt)
    if settings.patience is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=settings.patience))
    arguments = SFTConfig(**trainer_arguments(plan, folder))
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one card a process: DataParallel would multiply the batch in silence
    trained = trained_values(model)
    trainer = VerdictTrainer(
        model=model,
        args=arguments,
        processing_class=load_tokenizer(plan.base.path, settings.trust_remote_code),
        train_dataset=token_dataset(plan.train_rows, plan.split.train, settings, verdict_ids, both, training=True),
        eval_dataset=token_dataset(plan.eval_rows, plan.split.held_out, settings, verdict_ids, False, training=False),
        data_collator=VerdictCollator(plan.builder.encoder.tokenizer.pad_token_id or 0),
        compute_metrics=lambda prediction: heldout_figures(
            prediction.predictions, plan.eval_rows.records["label"][prediction.label_ids]
        ),
        callbacks=callbacks,
        verdict_ids=verdict_ids,
        over=settings.loss,
        row_ids=plan.train_rows.ids,
        eval_row_ids=plan.eval_rows.ids,
        check_targets=settings.soft_weight == 0,
        sampler=RowSampler(plan.train_rows.lengths[plan.split.train], settings.swap, plan.group, settings.seed),
    )
    trainer.remove_callback(PrinterCallback)
    restore_trained(model, trained)
    even = plan.machine.processes == 1  # several devices repeat a few rows to come out even
    trainer.add_callback(
        EpochOrder(trainer.sampler.set_epoch, lambda: trainer.rows_seen, plan.rows_per_epoch if even else None)
    )
    if plan.checkpointing:  # now, and not only when training starts: the trial batch needs it
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return trainer, interrupt


def trainer_arguments(plan: Plan, folder: Path) -> dict[str, Any]:
    """Return the fields of TRL's `SFTConfig`; nothing of its own preparation of data is left on."""
    settings, machine = plan.settings, plan.machine
    never = plan.steps + 1  # our schedule says when to evaluate and save
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
        "warmup_steps": math.floor(settings.warmup * plan.steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": settings.optimizer,
        "seed": settings.seed,
        "data_seed": settings.seed,
        # where
        "use_cpu": machine.device == "cpu",
        "bf16": machine.dtype == "bfloat16",
        "fp16": machine.dtype == "float16",
        "gradient_checkpointing": plan.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if plan.checkpointing else None,
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
