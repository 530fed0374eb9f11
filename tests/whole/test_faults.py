"""A fault in mid-run leaves no trace: the finished file is byte for byte an undisturbed run's (bench/faults.py)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.faults import FAULTS, Run, small_disk, strike, undisturbed
from tests.kit.tiny_models import save_llama
from tests.scoring.test_score_command import DEMO_TABLE

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A run of some eighty shards, long enough to be struck in the middle.

    The model is wide, so that its engine must ask the system for memory again and again.
    """
    folder = tmp_path_factory.mktemp("long")
    model, path = save_llama(folder / "wide", hidden_size=256, intermediate_size=2048), folder / "table.parquet"
    frame = pd.concat([pd.read_csv(DEMO_TABLE)] * 8, ignore_index=True)
    frame.assign(id=range(len(frame))).to_parquet(path)
    small = ("--max-tokens", "700", "--shard-tokens", "250", "--swap", "25%")
    return (str(model), str(path), "--readout", "transformers", *small)


@pytest.fixture(scope="module")
def expected(arguments: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", arguments)


def test_a_run_that_every_fault_struck_writes_undisturbed_bytes(
    arguments: tuple[str, ...], expected: dict[str, bytes], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        if disk is None:  # a disk of its own needs the right to mount
            (tmp_path / "run").mkdir()
        left_out = "disk full" if disk is None else "file too large"  # which come to the same
        names = [name for name in FAULTS if name != left_out]
        strike(names, Run(disk or tmp_path / "run", arguments), expected)
