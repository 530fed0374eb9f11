"""Fixtures shared by the tests: a tiny model with a tokenizer of its own, made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The engines run in processes of their own; two threads would only fight over the cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine makes a test slow, not red.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and a ChatML tokenizer, saved as a model folder."""
    from tests.kit.tiny_models import save_llama

    return save_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo's model (`make test` gets it first)."""
    folder = os.environ.get("JUDGE_DEMO_MODEL", "")
    if not folder:
        pytest.skip("JUDGE_DEMO_MODEL is not set: run `make test`")
    return Path(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has something to learn with: its weights are large enough to tell texts apart."""
    from tests.kit.tiny_models import save_llama

    return save_llama(tmp_path_factory.mktemp("base") / "tiny", initializer_range=0.1)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty labelled comparisons."""
    from tests.kit.labelled_tables import labelled_rows, write_table

    return write_table(tmp_path_factory.mktemp("data") / "table.csv", labelled_rows(40))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, a bundle trained on it with settings that are not the defaults, the table, and its held-out rows."""
    import pandas as pd
    import torch

    from judge.runs.progress import Silent
    from judge.training.settings import parse_train_settings
    from judge.training.train import train
    from tests.kit.labelled_tables import labelled_rows, write_table
    from tests.kit.tiny_models import save_llama

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    base = save_llama(folder / "base", initializer_range=0.1)
    rows = labelled_rows(40)
    table = write_table(folder / "table.csv", rows)
    values = {"model": str(base), "data": str(table), "template": "rubric", "max_tokens": 420, "shares": (0.3, 0.3)}
    values |= {"learning_rate": 5e-3, "max_steps": 12, "holdout": 0.3, "evaluations": 2, "truncation": "end"}
    train(parse_train_settings(values), folder / "bundle", False, False, Silent())
    held_out = set(pd.read_parquet(folder / "bundle" / "held_out.parquet")["id"])
    write_table(folder / "held_out.csv", [row for row in rows if row["id"] in held_out])
    return {name: folder / name for name in ("base", "bundle", "table.csv", "held_out.csv")}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products are slower on two threads, far slower where others use the cores too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[[str], Path]:
    """Write a CSV table into the test's folder."""

    def write(text: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that train or start an engine last: a mistake elsewhere shows within a minute."""
    items.sort(key=lambda item: any(item.get_closest_marker(name) for name in ("training", "engine", "slow")))
