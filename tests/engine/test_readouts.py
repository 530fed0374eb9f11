"""The four read-outs of one model are the same numbers: each engine is real and runs in its own process."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from judge.engine.protocol import READOUTS, WITHOUT_MASS, Readout
from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.predictions.predictions import Predictions
from judge.prompting.verdict import probabilities, verdict_mass
from judge.runs.folder import RunFolder
from judge.runs.progress import Silent
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from judge.tables.table import Table
from tests.kit.tiny_models import save_llama

DEMO_TABLE = Path(str(resources.files("judge.demo"))) / "comparisons.csv"


def read(model: Path, readout: Readout, folder: Path, rows: int = 24, **settings: object) -> Predictions:
    values = ScoreSettings.model_validate({"readout": readout, "max_tokens": 700, "swap": "all", **settings})
    table = Table("demo", frame=pd.read_csv(DEMO_TABLE).tail(rows))
    with RunFolder(folder) as run, Scorer(open_model(model), values, folder) as scorer:
        return scorer.score(table, run, Silent())


def largest_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.abs(a - b).max())


@pytest.fixture(scope="module")
def demo_readouts(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictions]:
    return {r: read(demo_model, r, tmp_path_factory.mktemp(r), rows=10, max_tokens=250) for r in READOUTS}


@pytest.mark.engine
@pytest.mark.parametrize("readout", [r for r in READOUTS if r != "transformers"])
def test_every_vllm_readout_of_the_demo_model_equals_transformers(
    demo_readouts: dict[str, Predictions], readout: str
) -> None:
    reference, other = demo_readouts["transformers"], demo_readouts[readout]
    assert len(other.first) == 10
    assert largest_difference(other.p, reference.p) <= 1e-4
    assert largest_difference(probabilities(other.first), probabilities(reference.first)) <= 1e-4
    assert largest_difference(probabilities(other.second), probabilities(reference.second)) <= 1e-4


@pytest.mark.engine
def test_readouts_agree_on_the_mass_or_do_not_claim_one(
    demo_readouts: dict[str, Predictions],
) -> None:
    reference = verdict_mass(demo_readouts["transformers"].first)
    assert largest_difference(verdict_mass(demo_readouts["vllm"].first), reference) <= 1e-4
    assert reference.min() > 0
    assert reference.max() < 1
    for readout in READOUTS:
        assert demo_readouts[readout].has_mass == (readout not in WITHOUT_MASS)
        if readout in WITHOUT_MASS:  # they normalise over the three verdicts
            np.testing.assert_allclose(verdict_mass(demo_readouts[readout].first), 1, atol=1e-6)


@pytest.mark.engine
def test_the_second_order_is_the_first_order_of_the_exchanged_table(tiny_model: Path, tmp_path: Path) -> None:
    exchanged = pd.read_csv(DEMO_TABLE).rename(columns={"response_a": "response_b", "response_b": "response_a"})
    table = Table("exchanged", frame=exchanged)
    settings = ScoreSettings(readout="transformers", max_tokens=700, swap="all")
    with RunFolder(tmp_path / "run") as run, Scorer(open_model(tiny_model), settings, tmp_path) as scorer:
        straight = read(tiny_model, "transformers", tmp_path / "straight")
        back = scorer.score(table, run, Silent())
    np.testing.assert_allclose(straight.second, back.first[:, [1, 0, 2]], atol=1e-6)
    np.testing.assert_allclose(straight.p, back.p[:, [1, 0, 2]], atol=1e-6)


def test_the_classify_readout_refuses_an_output_head_with_a_bias(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = save_llama(tmp_path / "biased")
    settings = ScoreSettings(readout="vllm-classify", max_tokens=700)
    Scorer(open_model(folder), settings, tmp_path).close()
    save_file({"lm_head.bias": torch.zeros(3)}, folder / "more.safetensors")
    with pytest.raises(JudgeError, match=r"would skip the model's lm_head\.bias"):
        Scorer(open_model(folder), settings, tmp_path)


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logit_scale"])
def test_the_classify_readout_refuses_logits_changed_after_the_head(tmp_path: Path, name: str) -> None:
    folder = save_llama(tmp_path / "capped")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: 0.5}))
    with pytest.raises(JudgeError, match=r"would skip the model's .*use --readout=vllm"):
        Scorer(open_model(folder), ScoreSettings(readout="vllm-classify", max_tokens=700), tmp_path)
