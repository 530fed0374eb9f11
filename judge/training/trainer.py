"""TRL's SFTTrainer for verdicts: one position a row, targets over three tokens, three-way figures when evaluating."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler
from trl import SFTTrainer

from judge.errors import JudgeError, counted
from judge.training.loss import row_losses, verdict_logprobs
from judge.training.rows import IGNORED

# Batches that are sorted by length together: enough that rows of one batch are of one length, few enough that
# the order stays random.
_SORTED_TOGETHER = 50


class VerdictCollator:
    """Pads prompts on the left, so that the verdict of every row is at the last position."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch: `input_ids`, `attention_mask`, `labels` (rows, length), and the rows' other columns."""
        length = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for i, row in enumerate(rows):
            start = length - len(row["input_ids"])
            ids[i, start:] = torch.as_tensor(row["input_ids"])
            labels[i, start:] = torch.as_tensor(row["labels"])
            mask[i, start:] = 1
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        for name, kind in (("row", torch.long), ("weight", torch.float), ("offset", torch.float)):
            batch[name] = torch.tensor([row[name] for row in rows], dtype=kind)
        batch["target"] = torch.tensor([list(row["target"]) for row in rows], dtype=torch.float)
        return batch


class RowSampler(Sampler[int]):  # type: ignore[misc]  # not analysed
    """The order of an epoch: every comparison once (or in both orders), batches of like length, order at random.

    A pure function of the seed and the epoch, so that a resumed run sees what it would have seen.

    Args:
        lengths: tokens of each comparison, shape (comparisons,).
        swap: `off`: the dataset has one row a comparison. `random`: it has two, of which an epoch shows one.
            `both`: it has two, shown one after the other, so that both orders are in one step.
        group: rows that are computed together, over all devices.
    """

    def __init__(
        self, lengths: NDArray[np.integer], swap: Literal["off", "random", "both"], group: int, seed: int
    ) -> None:
        self.lengths, self.swap, self.group, self.seed = np.asarray(lengths), swap, group, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass is of (called by accelerate and by transformers)."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.lengths) * (2 if self.swap == "both" else 1)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        units = max(self.group // 2, 1) if self.swap == "both" else self.group
        order = random.permutation(len(self.lengths))
        groups: list[NDArray[np.int64]] = []
        for start in range(0, len(order), units * _SORTED_TOGETHER):
            part = order[start : start + units * _SORTED_TOGETHER]
            part = part[np.argsort(-self.lengths[part], kind="stable")]
            groups += [part[i : i + units] for i in range(0, len(part), units)]
        # an incomplete group stays last, so that batches do not straddle groups
        whole = [g for g in groups if len(g) == units]
        rest = [g for g in groups if len(g) < units]
        chosen = np.concatenate([*(whole[i] for i in random.permutation(len(whole))), *rest])
        first = random.integers(0, 2, len(self.lengths))
        for comparison in chosen.tolist():
            if self.swap == "off":
                yield comparison
            elif self.swap == "random":
                yield 2 * comparison + int(first[comparison])
            else:
                yield from (2 * comparison, 2 * comparison + 1)


class VerdictTrainer(SFTTrainer):  # type: ignore[misc]  # not analysed
    """SFTTrainer whose loss and evaluation read one position a row.

    Nothing of TRL's preparation applies: rows arrive tokenised with labels. What it brings is the training loop,
    checkpoints, devices and loggers.

    Args:
        verdict_ids: token ids of A, B and tie.
        over: see `judge.training.loss.row_losses`.
        row_ids, eval_row_ids: the ids of the rows, to name them in errors.
        check_targets: whether the target's most probable verdict must be the label (not with soft labels).
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
        # the loss is a mean over the rows of the whole step: the trainer must count them, and not divide again
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
            self._stop_at_bad_rows(losses, inputs["row"], self.row_ids if model.training else self.eval_row_ids)
        rows = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = (losses * inputs["weight"]).sum() / rows
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over the devices
        if model.training:
            self._check_batch(inputs)
        return (loss, logits) if return_outputs else loss

    def _stop_at_bad_rows(self, losses: torch.Tensor, rows: torch.Tensor, ids: Sequence[str]) -> None:
        bad = [ids[int(row)] for row in rows[~torch.isfinite(losses)].tolist()]
        raise JudgeError(
            f"step {self.state.global_step + 1}: the loss of {counted(len(bad), 'row')} is not a number "
            f"(id {', '.join(bad[:8])}); try a lower learning_rate or another dtype"
        )

    def _check_batch(self, inputs: dict[str, torch.Tensor]) -> None:
        """Assert on what the model just got: one supervised token a row, at the end, and a verdict."""
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
        # past TRL, which writes a model card into every checkpoint
        super(SFTTrainer, self)._save_checkpoint(model, trial)
