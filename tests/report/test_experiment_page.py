"""The page of an experiment: its numbers are the result's, and nothing in it can run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from judge.cli.experiment_text import result_lines
from judge.experiment.arm_figures import apart, most_disputed, slice_differences, sweep_of
from judge.experiment.result import ExperimentResult
from judge.experiment.settings import ExperimentSettings
from judge.prompting.template import load_template
from judge.report.experiment_page import verdict_line, write_experiment_page
from judge.report.experiment_plots import ArmPoint, cost_plot, sweep_plot
from judge.stats.metrics import MEASURES, log_losses
from judge.stats.resample import Estimate
from tests.kit.made_experiment import FOUR, NOISE, ROWS, made_experiment, page, words
from tests.kit.report_rows import HOSTILE


@pytest.fixture(scope="module")
def four() -> ExperimentResult:
    return made_experiment(FOUR, NOISE)


@pytest.fixture(scope="module")
def mixed() -> ExperimentResult:
    """Return an experiment in which one arm reads both orders, and two arms have rows without a number."""
    arms = [{"name": "base"}, {"name": "both", "swap": "all"}, {"name": "failing", "template": "rubric"}]
    noise = {"base": 0.4, "both": 0.4, "failing": 2.0}
    return made_experiment(arms, noise, not_scored={"both": (3, 5), "failing": range(100, ROWS)})


def test_the_lead_says_each_arms_call(four: ExperimentResult) -> None:
    calls: list[Any] = ["better", "equivalent", "undecided"]
    said = [replace(one, call=call) for one, call in zip(four.differences, calls, strict=True)]
    assert verdict_line(replace(four, differences=said)) == (
        "“rubric” is better than “side-by-side”; “minimal” is equivalent to “side-by-side” within 0.0100 nats; "
        "“interleaved” is undecided on these rows."
    )
    none = verdict_line(replace(four, differences=[replace(one, call="worse") for one in four.differences]))
    assert none.startswith("No arm is shown to be better than “side-by-side”. ")
    assert "“rubric”, “minimal” and “interleaved” are worse" in none


def test_the_forest_shows_every_difference_at_its_place(four: ExperimentResult) -> None:
    root = page(four)
    plot = next(root.iter("table"))
    rows = plot.findall("tbody/tr")
    assert [words(row[0]).split()[0] for row in rows] == four.names
    for row, one in zip(rows[1:], four.differences, strict=True):
        assert row.findall(".//span[@class='call " + one.call + "']")
        assert f"{one.estimate.value:+.4f}".replace("-", "\N{MINUS SIGN}") in words(row[2])
    band = next(e for e in rows[0].iter("rect") if e.get("class") == "band")
    assert float(band.get("width", "nan")) > 0
    dots = [float(next(row.iter("circle")).get("cx", "nan")) for row in rows]
    values = [0.0, *(one.estimate.value for one in four.differences)]
    assert np.argsort(dots).tolist() == np.argsort(values).tolist()
    assert np.corrcoef(dots, values)[0, 1] == pytest.approx(1, abs=1e-5)


def test_slices_are_paired_differences_of_their_rows(four: ExperimentResult) -> None:
    found = slice_differences(four, "rubric")
    labels, german = four.rows.labels, four.rows.facts.language == "de"
    change = log_losses(four.arms[1].p, labels) - log_losses(four.arms[0].p, labels)
    one = next(part for part in found if part.name == "de")
    assert (one.dimension, one.rows, one.groups, one.few) == ("language", 100, 100, False)
    assert one.difference.value == pytest.approx(change[german].mean())
    assert one.difference.low is not None
    assert one.difference.high is not None
    error = change[german].std() / 10
    assert one.difference.high - one.difference.low == pytest.approx(2 * 1.96 * error, rel=0.25)
    assert {part.dimension for part in found} >= {"language", "turns", "length", "budget"}
    assert "de 100 rows, 100 groups" in words(page(four))


def test_the_most_disputed_rows_are_where_two_arms_are_furthest_apart(mixed: ExperimentResult) -> None:
    base, both, failing = (arm.p for arm in mixed.arms)
    distance = apart(mixed)
    pairs = [np.abs(p - other).sum(axis=1) / 2 for p, other in ((base, both), (base, failing), (both, failing))]
    assert distance == pytest.approx(np.max(pairs, axis=0))
    disputed = most_disputed(mixed, 5)
    assert [row.apart for row in disputed] == sorted(distance, reverse=True)[:5]
    text = words(page(mixed, {disputed[0].id: "What is it?\x1b[31m"}))
    assert f"{disputed[0].id} What is it?\\x1b[31m" in text
    assert " ".join(f"{p:.2f}" for p in disputed[0].p["base"]) in text


def test_arms_that_agree_have_no_disputed_rows(four: ExperimentResult) -> None:
    same = replace(four, arms=[replace(arm, p=four.arms[0].p) for arm in four.arms])
    assert most_disputed(same) == []
    assert "The arms say the same of every row." in words(page(same))


def test_prompts_show_what_each_template_changes(four: ExperimentResult) -> None:
    root = page(four)
    bodies = [pre for pre in root.iter("pre") if "turn.response_a" in words(pre)]
    base, rubric = load_template("side-by-side"), load_template("rubric")
    assert "".join(bodies[0].itertext()) == base.body
    without = {"del": rubric.body, "ins": base.body}
    for left_out, body in without.items():
        texts = ["".join(piece.itertext()) for piece in bodies[1] if piece.tag != left_out]
        assert "".join(texts).replace("\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "") == body


def test_one_template_for_all_is_shown_once() -> None:
    arms = [{"name": f"{n}", "template": "minimal", "max_tokens": n} for n in (100, 200)]
    root = page(made_experiment(arms, {"100": 0.5, "200": 0.4}))
    assert len([pre for pre in root.iterfind(".//dl//pre") if "turn.response_a" in words(pre)]) == 1
    assert not list(root.iter("del"))


def test_hostile_names_and_texts_stay_text() -> None:
    hostile = ["</b><script>alert(1)</script>", "<img src=x onerror='alert(2)'> \"&"]
    template = replace(
        load_template("minimal"), name="<script>t</script>", body="{{ turn.prompt }}</pre><script>x</script>\x1b[0m"
    )
    table = "</title><script>rows</script>.csv"
    arms = [{"name": name} for name in hostile]
    result = made_experiment(arms, {hostile[0]: 0.5, hostile[1]: 0.7}, table=table, templates={hostile[1]: template})
    result = replace(result, warnings=["<b>bold</b> & more"], record={"<script>": "</pre><script>y</script>"})
    names = np.array([HOSTILE[i % len(HOSTILE)] for i in range(ROWS)], dtype=object)
    facts = replace(result.rows.facts, source=names)
    result = replace(
        result, rows=replace(result.rows, ids=np.array([f"{i:04} {n}" for i, n in enumerate(names)]), facts=facts)
    )
    disputed = most_disputed(result)
    root = page(result, {row.id: HOSTILE[i % len(HOSTILE)] for i, row in enumerate(disputed)})
    text = words(root)
    for name in (*hostile, "<script>t</script>", "<b>bold</b> & more"):
        assert name in text
    assert all(line.isprintable() for line in result_lines(result))


def test_settings_to_repeat_name_no_folders(four: ExperimentResult) -> None:
    import yaml

    result = replace(four, settings=four.settings.model_copy(update={"data": "/home/me/rows.parquet", "model": "/x/m"}))
    root = page(result)
    shown = [pre for pre in root.iter("pre") if "data: rows.parquet" in words(pre)]
    assert len(shown) == 1
    values = yaml.safe_load("".join(shown[0].itertext()))
    given = result.settings.model_dump(mode="json", exclude_defaults=True) | {"data": "rows.parquet", "model": "m"}
    assert values == given
    assert ExperimentSettings(**values).arms == result.settings.arms
    assert not re.search("/home|/x/m|/a/", words(root))


def test_names_of_arms_with_strokes_are_repeated_as_they_are() -> None:
    import yaml

    arms = [{"name": "A/B", "template": "minimal"}, {"name": "[b]x[/b]", "template": "rubric"}]
    result = made_experiment(arms, {"A/B": 0.5, "[b]x[/b]": 0.7}, baseline="[b]x[/b]", table="/home/me/rows.parquet")
    (shown,) = [pre for pre in page(result).iter("pre") if "data: rows.parquet" in words(pre)]
    values = yaml.safe_load("".join(shown.itertext()))
    assert values["baseline"] == "[b]x[/b]"
    assert [arm["name"] for arm in values["arms"]] == ["A/B", "[b]x[/b]"]


def test_long_words_of_a_prompt_may_break_and_short_ones_stay_whole(four: ExperimentResult) -> None:
    disputed = most_disputed(four)
    text = "an ordinary prompt of short words, then " + "x" * 50
    root = page(four, {disputed[0].id: text})
    (preview,) = [one for one in root.iter("small") if "".join(one.itertext()) == text]
    pieces = [preview.text or "", *(one.tail or "" for one in preview)]
    assert max(len(word) for piece in pieces for word in piece.split()) == 20
    assert "".join(pieces) == text
    assert all(piece[-1:] in (" ", "x") for piece in pieces)


def test_a_sweep_has_its_curve() -> None:
    budgets = {"short": 128, "middle": 512, "long": 2048}
    arms = [{"name": name, "max_tokens": budget} for name, budget in budgets.items()]
    result = made_experiment(arms, {"short": 1.5, "middle": 0.9, "long": 0.5}, baseline="long")
    sweep = sweep_of(result)
    assert sweep is not None
    assert sweep.of == "max_tokens"
    assert sweep.points == [(128.0, "short"), (512.0, "middle"), (2048.0, "long")]
    assert "Log loss by token budget" in words(page(result))
    mixed = [*arms[:2], {"name": "long", "max_tokens": 2048, "template": "rubric"}]
    assert sweep_of(made_experiment(mixed, {"short": 1.5, "middle": 0.9, "long": 0.5})) is None
    rows = [{"name": str(n), "train": "c.yaml", "train_rows": n} for n in (1000, 100)]
    curve = sweep_of(made_experiment(rows, {"1000": 0.5, "100": 1.5}))
    assert curve is not None
    assert (curve.of, curve.points) == ("train_rows", [(100.0, "100"), (1000.0, "1000")])


POINTS = [
    ArmPoint("a", 100.0, Estimate(1.0, 0.9, 1.1), "tie"),
    ArmPoint("b", 1000.0, Estimate(0.9, 0.8, 1.0), "good"),
    ArmPoint("</text><script>c", 10000.0, Estimate(0.8, None, None), "bad"),
]


def test_a_sweeps_points_lie_at_their_numbers_on_a_logarithmic_axis() -> None:
    root = ElementTree.fromstring(f"{sweep_plot(POINTS, MEASURES['log_loss'], 'Curve', 'rows', 0.9)}")  # noqa: S314
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter("circle")]
    assert dots[1][0] - dots[0][0] == pytest.approx(dots[2][0] - dots[1][0], abs=0.02)
    assert dots[1][1] - dots[0][1] == pytest.approx(dots[2][1] - dots[1][1], abs=0.02)
    assert len([e for e in root.iter("line") if "whisker" in e.get("class", "")]) == 2
    assert "With 90% intervals. The horizontal axis is logarithmic." in words(root)


def test_names_on_the_cost_plot_do_not_cover_each_other() -> None:
    crowd = [ArmPoint(f"an arm called {i}", 100.0 + i, Estimate(1 + i / 50, None, None)) for i in range(6)]
    root = ElementTree.fromstring(f"{cost_plot(crowd, MEASURES['log_loss'], 'tokens', [('bad', 'worse')])}")  # noqa: S314
    names = [e for e in root.iter("text") if (e.text or "").startswith("an arm")]
    assert 0 < len(names) <= 6
    places = [(float(e.get("x", "")), float(e.get("y", ""))) for e in names]
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[:i]:
            assert abs(y - other_y) >= 10 or abs(x - other_x) >= 80
    assert [t.text for t in root.iter("title")][1:] == [
        f"an arm called {i}: {1 + i / 50:.4f} nats at {100 + i} tokens" for i in range(6)
    ]
    assert cost_plot([], MEASURES["accuracy"], "tokens", [])


def test_the_report_is_one_page_with_the_rows_of_the_table(four: ExperimentResult, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    header = "id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie"
    ids = np.array([f"row {row_id}" for row_id in four.rows.ids], dtype=object)
    lines = [
        f"{row_id},Why {row_id}?,yes,no,{label == 0:d},{label == 1:d},{label == 2:d}"
        for row_id, label in zip(ids, four.rows.labels, strict=True)
    ]
    table.write_text("\n".join([header, *lines]), encoding="utf-8")
    result = replace(
        four, rows=replace(four.rows, ids=ids), settings=four.settings.model_copy(update={"data": str(table)})
    )
    write_experiment_page(tmp_path / "report.html", result)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>4 arms on rows.parquet</title>" in html
    index = json.loads(re.findall('<script type="application/json" id="index">(.*?)</script>', html)[0])
    assert index["rows"] == ROWS
    assert index["columns"]["id"] == ids.tolist()
    assert index["columns"]["p_a"] == [round(p * index["scale"]) for p in four.arms[0].p[:, 0].tolist()]
    assert f"Why {most_disputed(result)[0].id}?" in html
    assert str(tmp_path) not in html
