"""Both engines read 4-bit models alike: expanded, by vLLM's own kernel, and under an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from judge.errors import JudgeError
from judge.hardware import machine
from judge.models.bundle import ModelFolder, open_model
from judge.prompting.verdict import probabilities
from judge.runs.folder import RunFolder, differences
from judge.runs.progress import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from tests.kit.labelled_tables import labelled_rows
from tests.kit.packed_models import expansion_of
from tests.kit.tiny_models import save_adapter, save_llama

LAYOUTS = ("compressed", "awq")
pytestmark = pytest.mark.usefixtures("common_cache")

needs_kernel = pytest.mark.skipif(
    not machine.vllm_has_cpu_kernel(), reason="vLLM has no 4-bit kernel for this CPU (its CPU build wants AVX-512)"
)


def read(model: ModelFolder, folder: Path, **values: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Return the log-probabilities of a small table, and what was said."""
    events = Notes()
    table = Table("table", frame=pd.DataFrame(labelled_rows(12)))
    chosen = ScoreSettings.model_validate({"max_tokens": 300, **values})
    with RunFolder(folder) as run, Scorer(model, chosen, folder) as scorer:
        return scorer.score(table, run, events).first, events.notes


class Notes(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def furthest(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the largest difference of the three probabilities."""
    return float(np.abs(probabilities(a) - probabilities(b)).max())


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float64]]:
    """What transformers reads in each model, in float32."""
    found = {}
    for layout, folder in folders.items():
        found[layout], notes = read(open_model(folder), tmp_path_factory.mktemp("reference"), readout="transformers")
        assert len(notes) == 1
        assert "since --readout=transformers reads no packed weights" in notes[0]
        assert found[layout].std(axis=0).min() > 0.05  # rows differ, so that agreement means something
    return found


@pytest.mark.engine
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vllm_reads_the_copy_as_transformers_does(
    folders: dict[str, Path], reference: dict[str, NDArray[np.float64]], tmp_path: Path, layout: str
) -> None:
    expanded, notes = read(open_model(folders[layout]), tmp_path, weights="expanded")
    assert len(notes) == 1
    assert "since --weights=expanded asks for it" in notes[0]
    assert furthest(expanded, reference[layout]) <= 1e-4


@pytest.mark.engine
@needs_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vllms_own_kernel_is_within_16_bits_of_the_copy(
    folders: dict[str, Path], reference: dict[str, NDArray[np.float64]], tmp_path: Path, layout: str
) -> None:
    stored, notes = read(open_model(folders[layout]), tmp_path, weights="stored")
    assert notes == []
    assert 0 < furthest(stored, reference[layout]) <= 5e-3


@pytest.mark.engine
def test_an_adapter_on_a_4_bit_base_is_read_by_either_engine(
    folders: dict[str, Path], reference: dict[str, NDArray[np.float64]], tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path / "adapter", expansion_of(folders["compressed"]).make())
    model = open_model(adapter, base=folders["compressed"])
    adapted, _ = read(model, tmp_path / "transformers", readout="transformers")
    assert furthest(adapted, reference["compressed"]) > 0.05
    expanded, _ = read(model, tmp_path / "expanded", weights="expanded")
    assert furthest(expanded, adapted) <= 1e-4
    if machine.vllm_has_cpu_kernel():
        stored, _ = read(model, tmp_path / "stored", weights="stored")
        assert furthest(stored, adapted) <= 5e-3


def test_an_adapter_for_another_size_is_refused_before_expanding(
    folders: dict[str, Path], tmp_path: Path, cache: Path
) -> None:
    other = save_llama(tmp_path / "other", hidden_size=32, intermediate_size=96)
    model = open_model(save_adapter(tmp_path / "adapter", other), base=folders["awq"])
    with pytest.raises(JudgeError, match=r"does not fit .*: .* is for a layer of"):
        Scorer(model, ScoreSettings(readout="transformers", max_tokens=300), tmp_path)
    assert not (cache / "judge").exists()


def test_a_run_is_not_continued_in_the_other_way(folders: dict[str, Path], tmp_path: Path) -> None:
    model = open_model(folders["awq"])
    table = Table("table", frame=pd.DataFrame(labelled_rows(2)))
    scorer = Scorer(model, ScoreSettings(readout="transformers", max_tokens=300), tmp_path)
    manifest = scorer.manifest(table)
    assert manifest["settings"]["weights"] == "expanded"
    assert manifest["model"] == model.digest()
    other = {**manifest, "settings": {**manifest["settings"], "weights": "stored"}}
    assert differences(other, manifest) == ["weights (stored before, expanded now)"]
