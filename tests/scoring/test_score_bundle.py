"""A trained judge through the whole chain: train, score, evaluate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from judge.errors import JudgeError
from judge.models.bundle import open_model
from judge.models.judge_file import read_judge_file
from judge.scoring.scorer import Scorer
from judge.scoring.settings import ScoreSettings
from tests.kit.tiny_models import save_llama

pytestmark = pytest.mark.training

JUDGE = Path(sys.executable).parent / "judge"


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([JUDGE, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.engine
def test_scoring_and_evaluating_give_the_log_loss_that_training_reported(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    content = read_judge_file(trained["bundle"])
    assert content is not None
    predictions = tmp_path / "p.parquet"
    scored = run("score", trained["bundle"], trained["held_out.csv"], "-o", predictions)
    assert scored.returncode == 0, scored.stderr
    assert "warning: prompts" not in scored.stderr
    evaluated = run("evaluate", predictions, trained["held_out.csv"], "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    figures = json.loads(evaluated.stdout)["figures"]["all"]
    assert figures["log_loss"]["value"] == pytest.approx(content.metrics["after"]["log_loss"], abs=1e-3)
    # The model has changed: row by row, as a log loss can come out the same by chance.
    untrained = tmp_path / "base.parquet"
    options = ("--readout=transformers", "--template=rubric")
    scored = run("score", trained["base"], trained["held_out.csv"], "-o", untrained, *options)
    assert scored.returncode == 0, scored.stderr
    before, after = (pd.read_parquet(path)[["p_a", "p_b", "p_tie"]] for path in (untrained, predictions))
    assert (before - after).abs().max(axis=1).median() > 0.05
    # the other rows trained it: scoring says so, evaluating refuses
    everything = tmp_path / "all.parquet"
    scored = run("score", trained["bundle"], trained["table.csv"], "-o", everything, "--readout=transformers")
    assert "trained on" in scored.stdout
    assert f"on {len(pd.read_csv(trained['held_out.csv']))} labelled rows" in scored.stdout
    refused = run("evaluate", everything, trained["table.csv"])
    assert refused.returncode == 2
    assert "trained" in refused.stderr


def scorer(trained: dict[str, Path], tmp_path: Path, base: Path | None = None, **settings: Any) -> Scorer:
    model = open_model(trained["bundle"], base)
    return Scorer(model, ScoreSettings(readout="transformers", **settings), tmp_path)


def test_a_bundle_brings_its_template_and_budget(trained: dict[str, Path], tmp_path: Path) -> None:
    used = scorer(trained, tmp_path)
    assert used.warning is None
    assert used.template.name == "rubric"
    assert (used.budget.max_tokens, used.budget.policy, used.budget.shares) == (420, "end", (0.3, 0.3))


def test_another_template_is_warned_about(trained: dict[str, Path], tmp_path: Path) -> None:
    assert scorer(trained, tmp_path, template="rubric").warning is None
    warning = scorer(trained, tmp_path, template="minimal", max_tokens=100).warning
    assert warning is not None
    assert "prompts are not built as in training (--template, --max-tokens)" in warning


def test_another_tokenizer_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    other = save_llama(tmp_path / "other", style="llama3", initializer_range=0.1)
    with pytest.raises(JudgeError, match="builds other prompts than those that the judge was trained with"):
        scorer(trained, tmp_path, base=other)


def test_a_base_that_moved_is_found_with_the_flag_and_another_one_refused(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained["bundle"], bundle)
    content = json.loads((bundle / "judge.json").read_text())
    content["base"]["path"] = "/nowhere/base"
    (bundle / "judge.json").write_text(json.dumps(content))
    with pytest.raises(
        JudgeError, match="its base model is not at /nowhere/base; give the base model's folder with --base"
    ):
        open_model(bundle)
    assert open_model(bundle, trained["base"]).digest()
    other = save_llama(tmp_path / "other", initializer_range=0.2)
    with pytest.raises(JudgeError, match="is not the base model that bundle was trained on"):
        open_model(bundle, other).digest()
    with pytest.raises(JudgeError, match="is a whole model, so --base has no effect"):
        open_model(other, trained["base"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["template"].update(cue="Best:"), "its template is not the one that the judge was trained with"),
        (lambda c: c.pop("verdict_ids"), "is not a judge's file (verdict_ids"),
        (lambda c: c.update(more=1), "is not a judge's file (more"),
        (lambda c: c["template"].pop("body"), "judge.json: no 'body'"),
    ],
)
def test_a_changed_judge_file_is_refused(trained: dict[str, Path], tmp_path: Path, change: Any, message: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained["bundle"], bundle)
    content = json.loads((bundle / "judge.json").read_text())
    change(content)
    (bundle / "judge.json").write_text(json.dumps(content))
    with pytest.raises(JudgeError) as caught:
        open_model(bundle)
    assert message in str(caught.value)
    assert str(bundle / "judge.json") in str(caught.value)


def test_an_adapter_with_another_method_or_without_weights_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(trained["bundle"], bundle)
    config = json.loads((bundle / "adapter_config.json").read_text())
    (bundle / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(JudgeError, match="holds a IA3 adapter; judge reads LoRA adapters"):
        open_model(bundle)
    (bundle / "adapter_config.json").write_text(json.dumps(config))
    (bundle / "adapter_model.safetensors").unlink()
    with pytest.raises(JudgeError, match=r"no adapter_model\.safetensors"):
        open_model(bundle)


def test_a_damaged_list_of_training_rows_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    from judge.models.trained_rows import read_trained_rows

    (tmp_path / "trained_rows.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(JudgeError, match=r"trained_rows\.npy: is damaged"):
        read_trained_rows(tmp_path)
    assert read_trained_rows(trained["base"]) is None
