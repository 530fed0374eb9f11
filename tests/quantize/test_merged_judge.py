"""A merged judge beside its bundle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from judge.errors import RunInterrupted
from judge.models.bundle import open_model
from quantize.merge import merge
from tests.kit.recorded_progress import RecordedProgress
from tests.kit.tiny_models import edit_config, save_llama
from tests.quantize.merging import refused

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A judge bundle, its base and its training table."""
    from judge.runs.progress import Silent
    from judge.training.settings import parse_train_settings
    from judge.training.train import train
    from tests.kit.labelled_tables import labelled_rows, write_table

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    base = save_llama(folder / "base", initializer_range=0.1, tie_word_embeddings=True)
    table = write_table(folder / "table.csv", labelled_rows(30))
    values = {"model": str(base), "data": str(table), "template": "rubric", "max_tokens": 420}
    values |= {"learning_rate": 5e-3, "max_steps": 8, "holdout": 0.3, "evaluations": 1}
    train(parse_train_settings(values), folder / "bundle", False, False, Silent())
    return {"base": base, "bundle": folder / "bundle", "table": table}


def scores(model: Path, table: Path, output: Path) -> pd.DataFrame:
    command = [Path(sys.executable).parent / "judge", "score", model, table, "-o", output, "--readout=transformers"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning: prompts" not in done.stderr
    return pd.read_parquet(output)


@pytest.mark.engine
@pytest.mark.training
def test_a_merged_judge_scores_as_its_bundle_does(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from judge.cli.merge import run_merge

    run_merge(trained["bundle"], tmp_path / "merged", None, "auto", True)
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "adapter       LoRA, rank 16"
    assert printed.out.splitlines()[-1].startswith("wrote ")
    assert "merged        14 matrices of 20 tensors" in printed.out
    assert printed.err == ""
    before, after = open_model(trained["bundle"]), open_model(tmp_path / "merged")
    assert before.judge is not None
    assert after.judge is not None
    assert after.adapter is None
    (stage,) = after.judge.stages
    assert after.judge.model_copy(update={"stages": ()}) == before.judge
    assert stage["stage"] == "merged"
    assert stage["trained_on_4bit_base"] is False
    assert stage["proof"]["merge_error"] < 1e-4 < stage["proof"]["adapter_effect"]
    assert "seconds" not in stage
    first = scores(trained["bundle"], trained["table"], tmp_path / "a.parquet")
    second = scores(tmp_path / "merged", trained["table"], tmp_path / "b.parquet")
    columns = ["logprob_a", "logprob_b", "logprob_tie"]
    np.testing.assert_allclose(second[columns], first[columns], atol=1e-4)
    assert second["flags"].tolist() == first["flags"].tolist()
    assert second["flags"].str.contains("trained_on").sum() > 10


@pytest.mark.training
def test_a_bundle_on_a_4_bit_base_says_so_and_another_base_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained["bundle"], bundle)
    edit_config(bundle, "judge.json", method="qlora")
    events = RecordedProgress()
    figures = merge(open_model(bundle), tmp_path / "out", "auto", events, False)
    assert figures["trained_on_4bit_base"] is True
    assert len(events.notes) == 1
    assert "was trained on 4-bit weights" in events.notes[0]
    other = save_llama(tmp_path / "other", initializer_range=0.2, tie_word_embeddings=True)
    refused(bundle, other, tmp_path / "out2", "is not the base model that bundle was trained on")
    (bundle / "trained_rows.npy").unlink()
    refused(bundle, trained["base"], tmp_path / "out2", r"trained_rows\.npy: is missing")


@pytest.mark.training
def test_pressing_ctrl_c_is_said_in_one_line(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from judge.cli.merge import run_merge
    from judge.runs.terminal import Terminal

    def interrupt(_: Terminal, what: str, *__: object) -> None:
        if what == "merging":
            raise KeyboardInterrupt

    monkeypatch.setattr(Terminal, "step", interrupt)
    with pytest.raises(RunInterrupted, match="stopped; nothing is written to"):
        run_merge(trained["bundle"], tmp_path / "out", None, "auto", False)
    assert list(tmp_path.iterdir()) == []
