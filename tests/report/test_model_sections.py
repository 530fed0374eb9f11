"""The report's sections about the judge's folder: drift, training, settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from judge.errors import JudgeError
from judge.models.calibration import Calibration
from judge.models.judge_file import Base, JudgeFile, write_judge_file
from judge.prompting.template import load_template, template_data
from judge.report.run_sections import run_sections
from tests.kit.report_rows import HOSTILE
from tests.kit.reported_tables import parsed, text_of


def judge_folder(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    template = load_template("minimal")
    values: dict[str, Any] = {
        "template": template_data(template),
        "template_digest": template.digest,
        "verdict_ids": (330, 389, 47832),
        "max_tokens": 512,
        "truncation": "middle",
        "shares": (0.2, 0.4),
        "prompt_fingerprint": "f" * 64,
        "method": "lora",
        "base": Base(path="/home/somebody/secret/smol", digest="0" * 64),
        "training": {
            "settings": {"model": "/home/somebody/secret/smol", "data": ["/home/somebody/t.csv"], "seed": 0},
            "best_step": 2, "train_rows": 480,
        },
        "metrics": {
            "uniform": {"log_loss": 1.0986, "accuracy": 1 / 3, "p_a": 1 / 3, "p_b": 1 / 3, "p_tie": 1 / 3},
            "after": {"log_loss": 0.9123, "accuracy": 0.61, "p_a": 0.4, "p_b": 0.4, "p_tie": 0.2},
        },
    }  # fmt: skip
    write_judge_file(folder, JudgeFile(**(values | changes)))
    return folder


def drift_record(**changes: Any) -> dict[str, Any]:
    stage = {"digest": "0", "median_verdict_mass": 0.9, "not_scored": 0, "accuracy": 0.6}
    return {
        "version": "0.1.0", "passed": False, "table": HOSTILE[0], "rows": 9, "labelled_rows": 9, "groups": 4,
        "reference": 1, "limits": {"log_loss": 0.01, "flips": 0.03}, "notes": [HOSTILE[1]],
        "stages": [
            stage | {"name": "base", "kind": "base", "log_loss": {"value": 3.0, "low": 2.0, "high": 4.0},
                     "log_loss_change": {"value": 2.2, "low": 2.0, "high": 2.4}, "flips": 0.4},
            stage | {"name": HOSTILE[4], "kind": "adapter", "log_loss": {"value": 0.8, "low": 0.7, "high": 0.9}},
            stage | {"name": "awq", "kind": "4-bit", "log_loss": {"value": 0.87, "low": None, "high": None},
                     "log_loss_change": {"value": 0.0703, "low": 0.0312, "high": 0.1234}, "flips": 0.14,
                     "failed": ["log loss +0.0703 (limit +0.01)"]},
        ],
    } | changes  # fmt: skip


METRICS = [
    {"step": 0, "eval_log_loss": 3.6, "eval_accuracy": 0.39},
    {"step": 1, "loss": 10.0, "grad_norm": 1.0},
    {"step": 2, "loss": 2.0},
    {"step": 2, "eval_log_loss": 0.9123},
    {"step": 2, "train_runtime": 9.0, "train_loss": 6.0},
]


def test_the_judges_folder_gives_drift_training_and_settings_without_paths(tmp_path: Path) -> None:
    model = judge_folder(tmp_path / "bundle")
    (model / "drift.json").write_text(json.dumps(drift_record()))
    (model / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in METRICS) + '{"step": 3, "lo')
    predictions = tmp_path / "p.parquet"
    run = {"version": "0.1.0", "settings": {"swap": "all", "cache": "/home/somebody/cache"}, "result": {"rows": 9}}
    (tmp_path / "p.parquet.run.json").write_text(json.dumps(run))
    sections, warnings = run_sections(predictions, model)
    words = {s.id: text_of(s) for s in sections}
    assert list(words) == ["drift", "training", "settings"]
    assert warnings == []
    assert "+0.0703 +0.0312 to +0.1234" in words["drift"]
    assert "beyond the limits" in words["drift"]
    assert "before training" not in words["training"]
    assert "after training 0.9123 61.0% 0.400 0.400 0.200" in words["training"]
    dots = list(parsed(sections[1]).iter("circle"))
    assert [dot.attrib["r"] for dot in dots] == ["4", "5"]
    assert "' A', ' B', ' Tie'" in words["settings"]
    assert "330, 389, 47832" in words["settings"]
    assert "smol" in words["settings"]
    assert "somebody" not in str(sections)
    assert str(tmp_path) not in str(sections)


def test_a_folder_without_a_loss_curve_shows_the_figures_that_are_kept(tmp_path: Path) -> None:
    sections, _ = run_sections(tmp_path / "p.parquet", judge_folder(tmp_path / "awq"))
    assert [s.id for s in sections] == ["training", "settings"]
    assert list(parsed(sections[0]).iter("svg")) == []
    assert "There is no p.parquet.run.json" in text_of(sections[1])


def test_a_stored_calibration_is_among_the_settings(tmp_path: Path) -> None:
    calibration = Calibration(method="temperature", scale=(0.5, 0.5, 0.5), bias=(0, 0, 0))
    model = judge_folder(tmp_path / "bundle", calibration=calibration)
    words = text_of(run_sections(tmp_path / "p.parquet", model)[0][-1])
    assert f"calibration {calibration.in_words()}" in words
    assert "scale 0.5, 0.5, 0.5" in words


def test_predictions_alone_have_their_settings_only(tmp_path: Path) -> None:
    sections, warnings = run_sections(tmp_path / "p.csv", None)
    assert [s.id for s in sections] == ["settings"]
    assert warnings == []


def test_a_folder_of_another_judge_is_told(tmp_path: Path) -> None:
    model = judge_folder(tmp_path / "bundle")
    run = tmp_path / "p.parquet.run.json"
    for key, words in (("template", "another prompt template"), ("prompt", "other prompts")):
        run.write_text(json.dumps({key: "another"}))
        assert words in run_sections(tmp_path / "p.parquet", model)[1][0]
    (tmp_path / "bare").mkdir()
    assert "no judge.json" in run_sections(tmp_path / "p.parquet", tmp_path / "bare")[1][0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("drift.json", "{", "drift.json: cannot be read"),
        ("drift.json", "[]", "drift.json: expected a JSON object"),
        ("drift.json", '{"passed": true}', "is not what judge drift writes"),
        ("drift.json", json.dumps(drift_record(reference=7)), "is not what judge drift writes"),
        ("judge.json", "{", "judge.json"),
    ],
)
def test_a_damaged_file_of_the_judge_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    model = judge_folder(tmp_path / "bundle")
    (model / name).write_text(content)
    with pytest.raises(JudgeError, match=re.escape(words)):
        run_sections(tmp_path / "p.parquet", model)
