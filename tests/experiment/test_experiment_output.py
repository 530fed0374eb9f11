"""What an experiment shows: the terminal's lines, the page, the file of results; their numbers are the result's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from markupsafe import Markup

from judge.cli.experiment import experiment_settings, write_report
from judge.errors import JudgeError
from judge.experiment.arm_figures import MEASURES, apart, arm_figures, most_disputed, slice_differences, sweep_of
from judge.experiment.arm_scores import ArmScores
from judge.experiment.costs import cost_of
from judge.experiment.plan_text import plan_lines, power_lines
from judge.experiment.racing import scores_of
from judge.experiment.result import ExperimentResult
from judge.experiment.results_file import results_table, write_results
from judge.experiment.settings import ExperimentSettings, parse_experiment
from judge.experiment.statistics import differences
from judge.experiment.text import result_lines, verdict_line
from judge.prompting.template import Template, load_template, template_data
from judge.prompting.verdict import Float
from judge.report.experiment_page import experiment_sections
from judge.report.experiment_plots import ArmPoint, cost_plot, sweep_plot
from judge.stats.metrics import hits, log_losses
from judge.stats.resample import Estimate, group_bootstrap
from judge.tables.comparison import VERDICTS, Flag
from tests.kit.made_rows import rows_of, sampled
from tests.kit.report_rows import HOSTILE

ROWS = 400


def made(
    arms: Sequence[Mapping[str, Any]],
    noise: Mapping[str, float],
    *,
    rows: int = ROWS,
    stop: Mapping[str, int] | None = None,
    table: str = "rows.parquet",
    templates: Mapping[str, Template] | None = None,
    unscored: Mapping[str, Sequence[int]] | None = None,
    **settings: Any,
) -> ExperimentResult:
    """Return the result of arms whose log-odds are the truth's and noise of a size.

    Args:
        stop: after so many rows an arm was dropped.
        unscored: rows for which the engine gave an arm no number.
    """
    rng = np.random.default_rng(0)
    chosen = parse_experiment({"model": "m", "data": table, "arms": list(arms), "resamples": 200, **settings})
    odds = rng.normal(size=(rows, 3))
    labels = sampled(_softmax(odds), rng)
    groups = (np.arange(rows) // 2).astype(np.uint64)
    scores = []
    for arm in chosen.arms:
        for seed in chosen.train_seeds if arm.train else [None]:
            template = (templates or {}).get(arm.name) or load_template(arm.template or "minimal")
            read = np.arange(rows) < (stop or {}).get(arm.name, rows)
            scores.append(_scores(arm.name, seed, odds, noise[arm.name], template, read, arm.swap == "all", rng))
            for i in (unscored or {}).get(arm.name, ()):
                scores[-1].p[i] = 1 / 3
                scores[-1].flags[i] |= int(Flag.NOT_SCORED)
            scores[-1].settings.update(max_tokens=arm.max_tokens or 2048, train_rows=arm.train_rows)
    by_name = {arm.name: [one for one in scores if one.name == arm.name] for arm in chosen.arms}
    values = {
        name: np.stack([scores_of(one, labels, chosen.metric) for one in group]) for name, group in by_name.items()
    }
    base = by_name[chosen.baseline_name][0]
    joined = rows_of(
        base.p, labels, groups=groups, first=base.first, second=base.second, mass=base.mass, cut=base.cut,
        language=np.where(np.arange(rows) % 4 == 0, "de", "en").astype(object),
        turns=np.where(np.arange(rows) % 3 == 0, 2, 1), characters=rng.integers(50, 3000, (rows, 3)),
    )  # fmt: skip
    return ExperimentResult(
        settings=chosen,
        table=table,
        rows=joined,
        arms=scores,
        differences=differences(
            {name: v if by_name[name][0].seed is not None else v[0] for name, v in values.items()},
            chosen.baseline_name,
            groups,
            chosen.metric,
            margin=chosen.smallest_that_matters,
            resamples=200,
            permutations=500,
        ),
        planned_smallest=0.0567,
        dropped=dict(stop or {}),
        warnings=["the rows have few prompts"],
        costs=[cost_of(group) for group in by_name.values()],
        record={"version": "1", "templates": {base.template.digest: template_data(base.template)}, "data": "/a/b.csv"},
        folder=Path("out"),
    )


def _softmax(odds: Float) -> Float:
    p: Float = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    return p


def _scores(
    name: str,
    seed: int | None,
    odds: Float,
    noise: float,
    template: Template,
    read: Any,
    both: bool,
    rng: np.random.Generator,
) -> ArmScores:
    n = len(odds)
    first, second = (_softmax(odds + noise * rng.normal(size=odds.shape)) for _ in range(2))
    if not both:
        second = np.full_like(first, np.nan)
    p = (first + second) / 2 if both else first
    unread = ~read
    for values in (first, second, p):
        values[unread] = np.nan
    lengths = len(template.body) + rng.integers(0, 500, n)
    return ArmScores(
        name=name,
        model="tiny",
        template=template,
        settings={"model": "/home/somebody/models/tiny", "template_digest": template.digest, "swap": "off"},
        p=p,
        first=first,
        second=second,
        mass=np.where(read, 0.75, np.nan),
        tokens=np.where(read, lengths * (2 if both else 1), 0),
        cut=lengths > 900,
        flags=np.zeros(n, dtype=np.uint32),
        read=read,
        rows_read=int(read.sum()),
        tokens_read=int(lengths[read].sum()),
        seconds=12.0,
        seed=seed,
    )


FOUR = [{"name": name, "template": name} for name in ("side-by-side", "rubric", "minimal", "interleaved")]
NOISE = {"side-by-side": 0.5, "rubric": 0.05, "minimal": 1.6, "interleaved": 0.52}


@pytest.fixture(scope="module")
def four() -> ExperimentResult:
    return made(FOUR, NOISE)


@pytest.fixture(scope="module")
def raced() -> ExperimentResult:
    """Return an experiment in which an arm was dropped, one reads both orders, and one has rows without a number."""
    arms = [{"name": "base"}, {"name": "both", "swap": "all"}, {"name": "dropped", "template": "rubric"}]
    noise = {"base": 0.4, "both": 0.4, "dropped": 2.0}
    return made(arms, noise, stop={"dropped": 100}, unscored={"both": (3, 5)}, stop_early=True)


def page(result: ExperimentResult, prompts: Mapping[str, str] | None = None) -> ElementTree.Element:
    """The report's sections as XML, after a check that nothing in them can run, load or be refused."""
    sections = experiment_sections(result, most_disputed(result), prompts or {}, "These rows.")
    assert all(re.fullmatch("[a-z]+", section.id) for section in sections)
    root = ElementTree.fromstring(f"<root>{Markup('').join(section.html for section in sections)}</root>")  # noqa: S314
    for element in root.iter():
        assert element.tag not in ("script", "style", "img", "iframe", "object", "a", "base", "meta", "math")
        assert [k for k in element.attrib if k.startswith("on") or k in ("style", "href", "src", "srcdoc")] == []
    return root


def words(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def lines_of(result: ExperimentResult) -> list[str]:
    return list(result_lines(result))


def test_an_arms_score_is_that_of_the_rows_it_read(raced: ExperimentResult) -> None:
    base, both, dropped = arm_figures(raced)
    labels = raced.rows.labels
    by_name = {arm.name: arm for arm in raced.arms}
    assert base.score is not None
    assert both.score is not None
    assert dropped.score is not None
    assert base.score.value == pytest.approx(log_losses(by_name["base"].p, labels).mean())
    scored = np.delete(np.arange(ROWS), [3, 5])
    assert both.score.value == pytest.approx(log_losses(by_name["both"].p[scored], labels[scored]).mean())
    assert dropped.score.value == pytest.approx(log_losses(by_name["dropped"].p[:100], labels[:100]).mean())
    assert [arm.rows for arm in (base, both, dropped)] == [ROWS, ROWS - 2, 100]
    assert [arm.dropped for arm in (base, both, dropped)] == [None, None, 100]
    for arm in (base, both, dropped):
        assert arm.score is not None
        assert arm.score.low is not None
        assert arm.score.high is not None
        assert arm.score.low < arm.score.value < arm.score.high
    assert base.difference is None


def test_a_trained_arms_interval_holds_the_spread_of_its_seeds() -> None:
    from scipy.stats import t

    arms = [{"name": name, "train": f"{name}.yaml"} for name in ("one", "two")]
    result = made(arms, {"one": 0.3, "two": 0.5})
    labels, groups = result.rows.labels, result.rows.groups
    scores = [log_losses(arm.p, labels) for arm in result.arms]
    means = np.array([one.mean() for one in scores]).reshape(2, 2)
    figures = arm_figures(result)[0]
    assert figures.seeds == pytest.approx({0: means[0, 0], 1: means[0, 1]})
    (rows_alone,) = group_bootstrap(((scores[0] + scores[1]) / 2)[:, np.newaxis], groups, resamples=200)
    error = t.ppf(0.975, 2) * np.sqrt(means.var(axis=1, ddof=1).mean() / 2)
    assert figures.score is not None
    assert rows_alone.low is not None
    assert rows_alone.high is not None
    assert vars(figures.score) == pytest.approx(
        {
            "value": means[0].mean(),
            "low": means[0].mean() - np.hypot(means[0].mean() - rows_alone.low, error),
            "high": means[0].mean() + np.hypot(rows_alone.high - means[0].mean(), error),
        }
    )


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "brier"])
def test_the_terminals_table_has_the_results_numbers(metric: str) -> None:
    result = made(FOUR, NOISE, metric=metric)
    measure, lines = MEASURES[result.settings.metric], lines_of(result)
    for arm in arm_figures(result):
        line = next(line for line in lines if line.startswith(f"{arm.name} "))
        assert arm.score is not None
        assert f"{arm.score.value:{measure.form}}  {arm.score.low:{measure.form}} to " in line
        if arm.difference is None:
            assert line.endswith("(baseline)")
            continue
        value, low, high = (f"{v:{measure.signed_form}}" for v in vars(arm.difference.estimate).values())
        assert re.search(rf"{re.escape(value)}  {re.escape(low)} to {re.escape(high)} ", line)
        assert line.endswith(f"{arm.difference.p_holm:.4f}  {arm.difference.call}")
        assert " ".join(arm.difference.sentence.split()) in " ".join(" ".join(lines).split())


def test_the_terminals_costs_are_the_results(raced: ExperimentResult) -> None:
    lines = lines_of(raced)
    start = next(i for i, line in enumerate(lines) if line.startswith("cost"))
    assert lines[start].split()[-2:] == ["not", "scored"]
    for line, cost in zip(lines[start + 1 :], raced.costs, strict=False):
        assert cost.rows_per_second is not None
        consistent = "-" if cost.consistency is None else f"{cost.consistency:.1%}"
        assert line.split() == [
            cost.arm, f"{cost.tokens_per_row:,.0f}", f"{cost.rows_per_second:.3g}", f"{cost.cut_share:.1%}",
            "0.7500", consistent, str(cost.not_scored),
        ]  # fmt: skip
    assert [cost.consistency is None for cost in raced.costs] == [True, False, True]
    assert "dropped was dropped after 100 of 400 rows: clearly worse than base" in lines
    assert "warning: the rows have few prompts" in lines


def test_what_is_not_known_is_said_and_not_drawn(four: ExperimentResult) -> None:
    costs = [replace(cost, rows_per_second=None, median_mass=None) for cost in four.costs]
    alone = Estimate(0.1, None, None)
    one, two, three = four.differences
    differences = [
        replace(one, estimate=Estimate(float("nan"), None, None), call="undecided"),
        replace(two, estimate=alone, call="undecided"),
        three,
    ]
    result = replace(four, costs=costs, differences=differences, planned_smallest=float("inf"), warnings=[])
    lines = lines_of(result)
    assert any(re.fullmatch(r"rubric +\d+ +cached +[0-9.]+% +- +-", line) for line in lines)
    assert any(re.search(r"minimal .* \+0\.1000  none ", line) for line in lines)
    assert not any("warning" in line for line in lines)
    root = page(result)
    assert "cached" in words(root)
    assert "no interval" in words(root)
    assert "nan" not in words(root)


def test_an_arm_without_any_score_is_shown_without_one() -> None:
    result = made([{"name": "a"}, {"name": "b", "template": "rubric"}], {"a": 0.4, "b": 0.5}, stop={"b": 0})
    assert arm_figures(result)[1].score is None
    assert any(re.match(r"b +-  +", line) for line in lines_of(result))
    assert "no rows" in words(page(result))
    assert slice_differences(result, "b") == []


def test_the_terminal_fits_in_100_columns(four: ExperimentResult, raced: ExperimentResult) -> None:
    long = [{"name": f"{i} " + "long name " * 5, "template": name} for i, name in enumerate(("rubric", "minimal"))]
    wide = made(long, {str(arm["name"]).strip(): 0.5 + i for i, arm in enumerate(long)}, metric="brier")
    for result in (four, raced, wide):
        plan = [*plan_lines(result.settings), *power_lines(result.settings, 1_000_000, 900_000, 0.0123, 0.3)]
        assert max(map(len, [*plan, *lines_of(result)])) <= 100


def test_before_the_run_it_is_said_what_the_rows_can_show(four: ExperimentResult) -> None:
    said = " ".join(" ".join([*power_lines(four.settings, 2000, 1900, 0.0234, 0.3)]).split())
    assert "2,000 rows in 1,900 prompt groups" in said
    assert "differences under 0.0234 nats cannot be shown with 80% power" in said
    assert "(assumed spread of a row's difference: 0.3000 nats)" in said
    assert "more than the margin of 0.0100 nats" in said
    enough = " ".join(power_lines(four.settings, 10**6, 10**6, 0.001, 0.3))
    assert "margin" not in enough
    assert "no difference can be shown" in " ".join(power_lines(four.settings, 3, 1, float("inf"), 0.3))
    plan = " ".join(plan_lines(four.settings))
    assert "4: side-by-side; rubric; minimal; interleaved" in plan


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


def test_the_most_disputed_rows_are_those_where_two_arms_are_furthest_apart(raced: ExperimentResult) -> None:
    base, both, dropped = (arm.p for arm in raced.arms)
    distance = apart(raced)
    expected = np.abs(base - both).sum(axis=1) / 2
    assert distance[100:] == pytest.approx(expected[100:])
    assert (distance[:100] >= expected[:100] - 1e-12).all()
    assert distance[7] == pytest.approx(max(expected[7], *(np.abs(p[7] - dropped[7]).sum() / 2 for p in (base, both))))
    disputed = most_disputed(raced, 5)
    assert [row.apart for row in disputed] == sorted(distance, reverse=True)[:5]
    text = words(page(raced, {disputed[0].id: "What is it?\x1b[31m"}))
    assert f"{disputed[0].id} What is it?\\x1b[31m" in text
    shown = disputed[0].p["base"]
    assert shown is not None
    assert " ".join(f"{p:.2f}" for p in shown) in text
    assert sum(row.p["dropped"] is None for row in most_disputed(raced, ROWS)) == ROWS - 100


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
    root = page(made(arms, {"100": 0.5, "200": 0.4}))
    assert len([pre for pre in root.iterfind(".//dl//pre") if "turn.response_a" in words(pre)]) == 1
    assert not list(root.iter("del"))


def test_hostile_names_and_texts_stay_text() -> None:
    hostile = ["</b><script>alert(1)</script>", "<img src=x onerror='alert(2)'> \"&"]
    template = replace(
        load_template("minimal"), name="<script>t</script>", body="{{ turn.prompt }}</pre><script>x</script>\x1b[0m"
    )
    table = "</title><script>rows</script>.csv"
    arms = [{"name": name} for name in hostile]
    result = made(arms, {hostile[0]: 0.5, hostile[1]: 0.7}, table=table, templates={hostile[1]: template})
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
    assert all(line.isprintable() for line in lines_of(result))


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
    result = made(arms, {"A/B": 0.5, "[b]x[/b]": 0.7}, baseline="[b]x[/b]", table="/home/me/rows.parquet")
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
    result = made(arms, {"short": 1.5, "middle": 0.9, "long": 0.5}, baseline="long")
    sweep = sweep_of(result)
    assert sweep is not None
    assert sweep.of == "max_tokens"
    assert sweep.points == [(128.0, "short"), (512.0, "middle"), (2048.0, "long")]
    assert "Log loss by token budget" in words(page(result))
    mixed = [*arms[:2], {"name": "long", "max_tokens": 2048, "template": "rubric"}]
    assert sweep_of(made(mixed, {"short": 1.5, "middle": 0.9, "long": 0.5})) is None
    rows = [{"name": str(n), "train": "c.yaml", "train_rows": n} for n in (1000, 100)]
    curve = sweep_of(made(rows, {"1000": 0.5, "100": 1.5}))
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


def test_the_file_of_results_has_a_row_for_each_arm_and_row(raced: ExperimentResult, tmp_path: Path) -> None:
    write_results(tmp_path / "results.parquet", raced)
    table = pq.read_table(tmp_path / "results.parquet")
    assert table.column_names == [
        "id", "arm", "seed", "p_a", "p_b", "p_tie", "tokens", "cut", "log_loss", "label", "prompt_group",
    ]  # fmt: skip
    assert len(table) == 3 * ROWS
    frame = table.to_pandas()
    for arm in raced.arms:
        mine = frame[frame.arm == arm.name].reset_index()
        assert mine.id.tolist() == raced.rows.ids.tolist()
        assert mine.label.tolist() == [VERDICTS[label] for label in raced.rows.labels]
        np.testing.assert_array_equal(mine[["p_a", "p_b", "p_tie"]].to_numpy(), arm.p)
        scores = scores_of(arm, raced.rows.labels, "log_loss")
        np.testing.assert_array_equal(mine.log_loss.to_numpy(), scores)
        read = mine[arm.read]
        assert read.tokens.tolist() == arm.tokens[arm.read].tolist()
        assert read.cut.tolist() == arm.cut[arm.read].tolist()
        assert mine[~arm.read].tokens.isna().all()
        assert mine.seed.isna().all()
        assert mine.prompt_group.tolist() == raced.rows.groups.tolist()
    assert table["p_a"].null_count == ROWS - 100
    assert table["log_loss"].null_count == ROWS - 100 + 2
    write_results(tmp_path / "again.parquet", raced)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "results.parquet").read_bytes()


def test_seeds_have_rows_of_their_own() -> None:
    arms = [{"name": "plain"}, {"name": "taught", "train": "c.yaml"}]
    result = made(arms, {"plain": 0.5, "taught": 0.4}, metric="accuracy")
    frame = results_table(result).to_pandas()
    assert frame.groupby("arm").size().to_dict() == {"plain": ROWS, "taught": 2 * ROWS}
    assert sorted(frame[frame.arm == "taught"].seed.unique()) == [0, 1]
    first = frame[(frame.arm == "taught") & (frame.seed == 0)]
    np.testing.assert_array_equal(first.accuracy, hits(result.arms[1].p, result.rows.labels))


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
    write_report(tmp_path / "report.html", result)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>4 arms on rows.parquet</title>" in html
    index = json.loads(re.findall('<script type="application/json" id="index">(.*?)</script>', html)[0])
    assert index["rows"] == ROWS
    assert index["columns"]["id"] == ids.tolist()
    assert index["columns"]["p_a"] == [round(p * index["scale"]) for p in four.arms[0].p[:, 0].tolist()]
    assert f"Why {most_disputed(result)[0].id}?" in html
    assert str(tmp_path) not in html


def test_a_command_line_is_a_file_or_models_and_a_table(tmp_path: Path) -> None:
    found = experiment_settings(["m", "t.csv"], {"templates": ["minimal", "rubric"]}, {"seed": 3, "rows": None})
    assert [arm.template for arm in found.arms] == ["minimal", "rubric"]
    assert (found.model, found.data, found.seed, found.rows) == ("m", "t.csv", 3, None)
    two = experiment_settings(["m", "n", "t.csv"], {}, {})
    assert [arm.model for arm in two.arms] == ["m", "n"]
    file = tmp_path / "e.yaml"
    file.write_text("model: m\ndata: t.csv\narms: [{template: minimal}, {template: rubric}]\n", encoding="utf-8")
    assert experiment_settings([str(file)], {}, {"seed": 5}).seed == 5
    with pytest.raises(JudgeError, match=r"--template makes arms, and .* names them"):
        experiment_settings([str(file)], {"templates": ["minimal"]}, {})
    with pytest.raises(JudgeError, match="give an experiment file"):
        experiment_settings(["m"], {"templates": ["minimal", "rubric"]}, {})
    with pytest.raises(JudgeError, match="give a table"):
        experiment_settings([], {"train": ["a.yaml", "b.yaml"]}, {})
