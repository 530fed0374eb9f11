"""Fixtures of the engine's tests: models with 4-bit weights, and a cache for their 32-bit copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.packed_models import save_awq, save_compressed
from tests.kit.tiny_models import save_llama


@pytest.fixture(scope="module")
def common_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing goes into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("common-cache")))
        yield


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "source"
    return save_llama(folder, initializer_range=0.15)


@pytest.fixture(scope="session")
def folders(source: Path) -> dict[str, Path]:
    return {
        "compressed": save_compressed(source.with_name("compressed"), source),
        "awq": save_awq(source.with_name("awq"), source),
    }
