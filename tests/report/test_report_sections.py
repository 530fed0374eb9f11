"""The report's sections and its command: every number is the evaluation's, and nothing breaks where figures lack."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from judge.evaluation.evaluate import Evaluation, evaluate
from judge.evaluation.judged_rows import JudgedRows, join
from judge.predictions.file import StoredPredictions
from judge.report.sections import evaluation_sections
from judge.report.summary_section import knows
from judge.stats.resample import Estimate, Undefined
from judge.tables.comparison import Flag
from judge.tables.table import Table
from tests.kit.report_rows import HOSTILE
from tests.kit.reported_tables import QUICK, frame_of, parsed, probabilities_for, text_of


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


def test_that_a_judge_knows_nothing_is_told_once_beside_other_warnings() -> None:
    frame = frame_of(60)
    evaluation, rows = evaluated(frame, stored_for(frame, knowledge=-1.0))
    summary = text_of(evaluation_sections(evaluation, rows, ["the folder is another one"])[0])
    assert summary.count("knows nothing that the class rates") == 1
    assert "The folder is another one." in summary


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_rows_of_one_verdict_without_orders_give_reasons(count: int) -> None:
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
