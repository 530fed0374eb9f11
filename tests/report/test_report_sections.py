"""The report's sections and its command: every number is the evaluation's, and nothing breaks where figures lack."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from judge.cli.report import run_report
from judge.errors import JudgeError
from judge.evaluation.evaluate import Evaluation, evaluate
from judge.evaluation.judged_rows import JudgedRows, join
from judge.evaluation.settings import EvaluateSettings
from judge.models.calibration import Calibration
from judge.models.judge_file import Base, JudgeFile, write_judge_file
from judge.predictions.file import StoredPredictions
from judge.prompting.template import load_template, template_data
from judge.prompting.verdict import Float
from judge.report.page import Section
from judge.report.run_sections import run_sections
from judge.report.sections import evaluation_sections
from judge.report.summary_section import knows
from judge.stats.resample import Estimate, Undefined
from judge.tables.comparison import Flag
from judge.tables.table import Table
from tests.kit.report_rows import HOSTILE

QUICK = EvaluateSettings(resamples=200)
WINNERS = np.array(["model_a", "model_b", "tie"])


def frame_of(count: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"row-{i}" for i in range(count)],
            "prompt": [f"Question {i}?" for i in range(count)],
            "response_a": ["word " * int(n) for n in rng.integers(1, 400, count)],
            "response_b": ["word " * int(n) for n in rng.integers(1, 400, count)],
            "winner": WINNERS[rng.integers(0, 3, count)],
        }
    )
    return frame.assign(**columns)


def probabilities_for(frame: pd.DataFrame, knowledge: float, seed: int = 1) -> Float:
    """Probabilities that lean towards the label by `knowledge` logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(frame), 3)) * 0.5
    logits += knowledge * (frame["winner"].to_numpy()[:, np.newaxis] == WINNERS)
    p: Float = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p


def stored_for(frame: pd.DataFrame, knowledge: float = 1.0, orders: bool = True, **fields: Any) -> StoredPredictions:
    p, other = (probabilities_for(frame, knowledge, seed) for seed in (1, 2))
    ids = [str(i) for i in frame["id"]]
    known: dict[str, Any] = {"verdict_mass": np.full(len(frame), 0.99), "flags": np.zeros(len(frame), dtype=np.uint32)}
    if orders:
        known |= {"first": np.log(p), "second": np.log(other), "cut": np.arange(len(frame)) % 3 == 0}
    return StoredPredictions("p.parquet", "predictions", ids, p, **(known | fields))


def evaluated(frame: pd.DataFrame, stored: StoredPredictions) -> tuple[Evaluation, JudgedRows]:
    def table() -> Table:
        return Table("t.csv", on_bad_row="placeholder", frame=frame)

    return evaluate(stored, table(), QUICK), join(stored, table())


@pytest.fixture(scope="module")
def usual() -> tuple[Evaluation, JudgedRows]:
    frame = frame_of(300, language=["en", "de"] * 150, source=["x"] * 150 + ["y"] * 150)
    models = np.random.default_rng(5).choice(["m1", "m2", "m3"], (300, 2))
    frame = frame.assign(model_a=models[:, 0], model_b=models[:, 1])
    return evaluated(frame, stored_for(frame))


def parsed(section: Section) -> ElementTree.Element:
    root = ElementTree.fromstring(f"<root>{section.html}</root>")  # noqa: S314 - our own
    for element in root.iter():
        assert element.tag not in ("script", "style", "img", "iframe", "a")
        assert [k for k in element.attrib if k.startswith("on") or k in ("style", "href", "src")] == []
    return root


def text_of(section: Section) -> str:
    pieces = [" ".join(e.itertext()) for e in parsed(section)]
    return " ".join(" ".join(pieces).split())


def numbers(figure: Any, form: str) -> list[str]:
    assert isinstance(figure, Estimate)
    assert figure.low is not None
    assert figure.high is not None
    return [f"{value:{form}}".replace("-", "−") for value in (figure.value, figure.low, figure.high)]


def test_the_sections_come_in_the_order_of_reading_with_names_of_their_own(
    usual: tuple[Evaluation, JudgedRows],
) -> None:
    sections = evaluation_sections(*usual)
    assert [s.id for s in sections] == [
        "summary", "calibration", "verdicts", "distributions", "bias", "slices", "agreement",
    ]  # fmt: skip
    for section in sections:
        parsed(section)


def test_the_headline_numbers_are_those_of_the_evaluation(usual: tuple[Evaluation, JudgedRows]) -> None:
    evaluation, rows = usual
    figures = evaluation.figures["all"]
    root = parsed(evaluation_sections(evaluation, rows)[0])
    cards = [e for e in root.iter("div") if e.attrib.get("class") == "card"]
    shown = [[" ".join(e.itertext()) for e in card] for card in cards]
    expected = [
        ("Log loss, nats", figures.log_loss, ".4f"),
        ("Accuracy", figures.accuracy, ".1%"),
        ("Brier score", figures.brier, ".4f"),
        ("Calibration error", figures.reliability[0].error, ".4f"),
    ]
    for card, (title, figure, form) in zip(shown, expected, strict=True):
        value, low, high = numbers(figure, form)
        assert card[:3] == [title, value, f"{low} to {high}"]
    words = text_of(evaluation_sections(evaluation, rows)[0])
    for baseline in (figures.length_baseline_log_loss, figures.class_rates_log_loss, figures.uniform_log_loss):
        assert f"{baseline:.4f}" in words
    for figure in (figures.over_class_rates, figures.over_length_baseline):
        assert "judge {} {} to {}".format(*numbers(figure, "+.4f")) in words
    assert f"class rates {figures.class_rates_accuracy:.1%}, uniform 33.3%" in words


def test_tables_show_the_evaluations_figures(usual: tuple[Evaluation, JudgedRows]) -> None:
    evaluation, rows = usual
    figures = evaluation.figures["all"]
    words = {section.id: text_of(section) for section in evaluation_sections(evaluation, rows)}
    for one in figures.reliability:
        assert "{} {} to {}".format(*numbers(one.error, ".4f")) in words["calibration"]
    for verdict in figures.verdicts:
        for figure, form in ((verdict.precision, ".1%"), (verdict.recall, ".1%"), (verdict.auc, ".3f")):
            assert "{} {} to {}".format(*numbers(figure, form)) in words["verdicts"]
    for part in evaluation.slices:
        assert "{} {} to {}".format(*numbers(part.log_loss, ".3f")) in words["slices"]
    for agreement in evaluation.agreement:
        assert agreement.name in words["agreement"]
    for effect in evaluation.bias.effects:
        assert effect.call in words["bias"]
        assert effect.sentence.split(": ")[-1].casefold() in words["bias"].casefold()
    assert "m1" in words["bias"]


@pytest.mark.parametrize(
    ("over", "begins"),
    [
        (
            Estimate(-0.2, -0.3, -0.1),
            "The judge knows more than the class rates: its log loss is 0.2000 nats lower (0.1",
        ),
        (Estimate(-0.2, -0.3, 0.1), "The judge may know more than the class rates, but these rows cannot show it"),
        (Estimate(-0.2, None, None), "The judge may know more than the class rates, but these rows cannot show it"),
        (
            Estimate(0.2, 0.1, 0.3),
            "The judge knows nothing that the class rates don't say: its log loss is 0.2000 nats h",
        ),
    ],
)
def test_the_sentence_says_whether_the_judge_knows_more_than_class_rates(
    usual: tuple[Evaluation, JudgedRows], over: Estimate, begins: str
) -> None:
    figures = replace(usual[0].figures["all"], over_class_rates=over)
    assert knows(figures).startswith(begins)


def test_the_sentence_says_whether_lengths_explain_it(usual: tuple[Evaluation, JudgedRows]) -> None:
    figures = replace(usual[0].figures["all"], over_class_rates=Estimate(-0.2, -0.3, -0.1))
    more = replace(figures, over_length_baseline=Estimate(-0.1, -0.2, -0.05))
    unsure = replace(figures, over_length_baseline=Estimate(-0.1, -0.2, 0.05))
    undefined = replace(figures, over_length_baseline=Undefined("few"), length_baseline_log_loss=None)
    assert knows(more).endswith("It also knows more than the lengths of the responses say.")
    assert knows(unsure).endswith("than the lengths of the responses say is not shown.")
    assert knows(undefined).endswith("than always giving them.")


def test_a_judge_that_knows_nothing_is_told_so_once_and_other_warnings_are_kept() -> None:
    frame = frame_of(60)
    evaluation, rows = evaluated(frame, stored_for(frame, knowledge=-1.0))
    summary = text_of(evaluation_sections(evaluation, rows, ["the folder is another one"])[0])
    assert summary.count("knows nothing that the class rates") == 1
    assert "The folder is another one." in summary


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_rows_of_one_verdict_without_orders_give_reasons_instead_of_figures(count: int) -> None:
    frame = frame_of(count, winner="tie", prompt="the same", response_a="x", response_b="x")
    stored = stored_for(frame, orders=False, verdict_mass=None, flags=None)
    sections = {s.id: text_of(s) for s in evaluation_sections(*evaluated(frame, stored))}
    assert f"fewer rows ({count}) than bins" in sections["summary"]
    assert "every verdict is tie" in sections["verdicts"]
    assert "not measured" in sections["bias"]
    assert "Not measured:" in sections["agreement"]
    assert "nan" not in " ".join(sections.values()).casefold().replace("nants", "")


def test_names_from_the_table_cannot_become_markup() -> None:
    names = [HOSTILE[i % len(HOSTILE)] for i in range(60)]
    frame = frame_of(60, source=names, model_a=names, model_b=names[1:] + names[:1], language=names)
    for section in evaluation_sections(*evaluated(frame, stored_for(frame))):
        parsed(section)
        assert "<script" not in section.html
        assert "<b onmouseover" not in section.html


def test_trained_rows_are_shown_apart_and_the_rest_is_of_the_others() -> None:
    frame = frame_of(80)
    flags = np.where(np.arange(80) < 40, int(Flag.TRAINED_ON), 0).astype(np.uint32)
    stored = stored_for(frame, flags=flags)
    settings = QUICK.model_copy(update={"trained_rows": "mark"})
    evaluation = evaluate(stored, Table("t.csv", frame=frame), settings)
    assert set(evaluation.figures) == {"all", "trained", "untrained"}
    words = text_of(evaluation_sections(evaluation, join(stored, Table("t.csv", frame=frame)))[0])
    for figures in evaluation.figures.values():
        assert "{} {} to {}".format(*numbers(figures.log_loss, ".4f")) in words
    assert "On 40 rows in 40 prompt groups" in words


# --- the judge's folder


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


def test_the_judges_folder_gives_drift_training_and_settings_without_anybodys_paths(tmp_path: Path) -> None:
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


# --- the command


def written(tmp_path: Path, count: int = 40) -> tuple[Path, Path]:
    frame = frame_of(count)
    table, predictions = tmp_path / "table.csv", tmp_path / "predictions.csv"
    frame.to_csv(table, index=False)
    p = probabilities_for(frame, 1.0)
    columns = {f"p_{name}": p[:, k] for k, name in enumerate(("a", "b", "tie"))}
    pd.DataFrame({"id": frame["id"], **columns}).to_csv(predictions, index=False)
    return predictions, table


def test_the_command_writes_one_page_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    predictions, table = written(tmp_path)
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    lines = list(run_report(predictions, table, one, QUICK))
    assert re.fullmatch(rf"wrote {re.escape(str(one))} \(\d+ kB, 40 rows\)", lines[-1])
    assert any(line.startswith("warning: the predictions have no column flags") for line in lines)
    list(run_report(predictions, table, two, QUICK))
    assert one.read_bytes() == two.read_bytes()
    page = one.read_text(encoding="utf-8")
    assert [f'<section id="{name}"' in page for name in ("summary", "bias", "settings", "rows")] == [True] * 4


def test_rows_are_left_out_evenly(tmp_path: Path) -> None:
    predictions, table = written(tmp_path)
    lines = list(run_report(predictions, table, tmp_path / "r.html", QUICK, most_rows=4))
    assert "4 of 40 rows" in lines[-1]
    index = re.search(r'id="index">(.*?)</script>', (tmp_path / "r.html").read_text(), re.DOTALL)
    assert index is not None
    assert json.loads(index[1])["columns"]["id"] == ["row-9", "row-19", "row-29", "row-39"]


def test_an_output_that_is_none_or_an_input_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    predictions, table = written(tmp_path)
    link = tmp_path / "link.html"
    link.symlink_to(table)
    before = table.read_bytes()
    for output, words in (
        (tmp_path / "report.pdf", "expected a name that ends in .html"),
        (tmp_path / "nowhere" / "report.html", "its folder does not exist"),
        (link, "is an input"),
    ):
        with pytest.raises(JudgeError, match=re.escape(words)):
            list(run_report(predictions, table, output, QUICK))
    with pytest.raises(JudgeError, match="expected 1 or more"):
        list(run_report(predictions, table, tmp_path / "r.html", QUICK, most_rows=0))
    with pytest.raises(JudgeError, match="no such folder"):
        list(run_report(predictions, table, tmp_path / "r.html", QUICK, model=tmp_path / "nowhere"))
    assert table.read_bytes() == before
    assert not (tmp_path / "r.html").exists()


def test_a_folder_without_permission_is_refused_by_the_name_that_was_given() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, closed = Path(name), Path(name) / "closed"
        closed.mkdir(mode=0o555)
        folder.chmod(0o777)
        predictions, table = written(folder)
        user = os.geteuid()
        try:
            if user == 0:  # root may write everywhere
                os.seteuid(65534)
            with pytest.raises(JudgeError) as caught:
                list(run_report(predictions, table, closed / "r.html", QUICK))
        finally:
            os.seteuid(user)
        assert str(caught.value) == f"{closed / 'r.html'}: cannot be written, its folder may not be written to"


def section_text(frame: pd.DataFrame, name: str) -> str:
    found = {section.id: section for section in evaluation_sections(*evaluated(frame, stored_for(frame)))}
    return text_of(found[name])


def test_where_every_verdict_is_a_tie_no_share_of_decided_rows_is_made_up() -> None:
    text = section_text(frame_of(20, winner="tie"), "verdicts")
    assert "No row tells whether the judge prefers what the human prefers: every verdict is tie." in text
    assert "more than the other in" not in text


def test_macro_f1_is_written_as_on_the_command_line() -> None:
    text = section_text(frame_of(60), "agreement")
    assert re.search(r"macro F1.*?\d\.\d%", text[: text.index("Auto-J agreement")], re.DOTALL)
