"""What the trainer gets: the rows as a dataset of token ids, the order of an epoch, and padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from judge.training.rows import IGNORED, TrainingRows, row_weights, targets
from judge.training.settings import TrainSettings

if TYPE_CHECKING:
    import datasets

# The verdicts in the order of an exchanged comparison: B, A, tie.
_EXCHANGED = np.array([1, 0, 2])
# Batches that are sorted by length together: enough that the rows of a batch have about one length, few enough that the
# order stays random.
_SORTED_TOGETHER = 50


def token_dataset(
    rows: TrainingRows,
    chosen: NDArray[np.int64],
    settings: TrainSettings,
    verdict_ids: tuple[int, int, int],
    both_orders: bool,
    training: bool,
) -> datasets.Dataset:
    """Return the dataset that goes to TRL: token ids with one verdict token, and labels on that token alone.

    With `both_orders`, row 2i is row i with A shown first and row 2i + 1 the same with B shown first.

    Columns: `input_ids` and `labels` (lists of int32), `row` (number in `rows`), `target` (three float32),
    `offset` and `weight` (float32). For evaluation the target is the hard label and the weight 1.
    """
    import datasets

    orders = (False, True) if both_orders else (False,)
    repeated, swapped = np.repeat(np.arange(len(chosen)), len(orders)), np.tile(orders, len(chosen))
    if training:
        mixed, offset = targets(rows, chosen, settings)
        weight = row_weights(rows, chosen, settings)
    else:
        mixed = np.eye(3, dtype=np.float32)[rows.records["label"][chosen]]
        offset, weight = np.zeros(len(chosen), np.float32), np.ones(len(chosen), np.float32)
    target = np.where(swapped[:, np.newaxis], mixed[:, _EXCHANGED][repeated], mixed[repeated])
    hard = rows.strata[chosen][repeated]
    verdicts = np.array(verdict_ids, dtype=np.int32)[np.where(swapped, _EXCHANGED[hard], hard)]
    in_orders = zip(*(rows.tokens(chosen, order) for order in orders), strict=True)
    ids = [tokens for prompts in in_orders for tokens in prompts]
    columns: dict[str, NDArray[Any]] = {"row": chosen[repeated], "offset": offset[repeated], "weight": weight[repeated]}
    return datasets.Dataset(_arrow_table(ids, verdicts, columns, target))


def _arrow_table(
    ids: list[NDArray[np.int32]],
    verdicts: NDArray[np.int32],
    columns: dict[str, NDArray[Any]],
    target: NDArray[np.float32],
) -> Any:
    import pyarrow as pa
    from datasets.table import InMemoryTable

    lengths = np.array([len(row) + 1 for row in ids])
    ends = np.cumsum(lengths)
    offsets = pa.array(np.concatenate([[0], ends]), pa.int64())
    tokens = np.empty(int(ends[-1]) if len(ends) else 0, np.int32)
    for row, end in zip(ids, ends, strict=True):
        tokens[end - 1 - len(row) : end - 1] = row
    tokens[ends - 1] = verdicts
    labels = np.full(len(tokens), IGNORED, np.int32)
    labels[ends - 1] = verdicts
    triples = pa.FixedSizeListArray.from_arrays(pa.array(target.reshape(-1)), 3)
    return InMemoryTable(
        pa.table(
            {
                "input_ids": pa.LargeListArray.from_arrays(offsets, pa.array(tokens)),
                "labels": pa.LargeListArray.from_arrays(offsets, pa.array(labels)),
                "target": triples,
                **{name: pa.array(values) for name, values in columns.items()},
            }
        )
    )


def collate(rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad prompts on the left, so that the verdict of every row is at the last position.

    Returns:
        `input_ids`, `attention_mask` and `labels` (rows, length), and the rows' other columns.
    """
    length = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        start = length - len(row["input_ids"])
        ids[i, start:] = torch.as_tensor(row["input_ids"])
        labels[i, start:] = torch.as_tensor(row["labels"])
        mask[i, start:] = 1
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    for name, kind in (("row", torch.long), ("weight", torch.float), ("offset", torch.float), ("target", torch.float)):
        batch[name] = torch.tensor([row[name] for row in rows], dtype=kind)
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
