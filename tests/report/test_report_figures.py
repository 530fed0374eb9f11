"""The report's charts: valid, inert markup, and every mark where its number belongs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from judge.evaluation.reliability import Bin
from judge.report.figures import (
    Curve,
    confusion,
    distribution,
    figure,
    loss_chart,
    loss_figure,
    loss_picture,
    mass_bar,
    reliability,
    share_curves,
    shift_histogram,
)
from judge.report.forest import ForestRow, forest
from judge.report.html import estimate, number, signed, table, tag
from judge.report.svg import Chart, Scale, log_ticks, nice_ticks, plain, span
from judge.stats.resample import Estimate, Undefined

unhurried = settings(deadline=None, max_examples=60)  # the cores are shared
HOSTILE = "</title><script>alert(1)</script><img src=x onerror='alert(2)'>\x00\x1b[31m\ud800\uffff&\"'"
RNG = np.random.default_rng(0)


def parsed(markup: Markup) -> ElementTree.Element:
    """The markup as XML, after a check that nothing in it can run, load or be refused by the policy."""
    root = ElementTree.fromstring(f"<root>{markup}</root>")  # noqa: S314 - our own
    for element in root.iter():
        assert element.tag not in ("script", "style", "img", "iframe", "object", "a")
        bad = [k for k in element.attrib if k.startswith("on") or k in ("style", "href", "src", "xlink:href")]
        assert bad == []
    return root


def marks(root: ElementTree.Element, name: str, css: str) -> list[dict[str, str]]:
    return [e.attrib for e in root.iter(name) if css in e.attrib.get("class", "").split()]


def bins(shares: list[float], rows: int = 10) -> list[Bin]:
    return [
        Bin(i / 10, (i + 1) / 10, rows, (i + 0.5) / 10, Estimate(share, None, None)) for i, share in enumerate(shares)
    ]


CHARTS: dict[str, Callable[[str], Markup]] = {
    "reliability": lambda words: reliability(words, bins([0.1, 0.2]), words, words),
    "empty reliability": lambda words: reliability(words, [], words, words),
    "distribution": lambda _: distribution(2, RNG.random(30), RNG.integers(0, 3, 30)),
    "empty distribution": lambda _: distribution(0, np.empty(0), np.empty(0, dtype=np.int64)),
    "shifts": lambda _: shift_histogram(RNG.uniform(-1, 1, 30), 0.01),
    "no shifts": lambda _: shift_histogram(np.full(3, np.nan)),
    "curves": lambda words: share_curves(
        words, [Curve(words, "accent", [Estimate(0.4, None, None), None])], words, words, [words, "b"], [10, 0]
    ),
    "empty curves": lambda words: share_curves(words, [], words, words, [], []),
    "loss": lambda words: loss_figure(loss_chart([(1, 9.0), (2, 1.0)], [(0, 3.0), (2, 0.9)], [(words, 1.1)], 2)),
    "empty loss": lambda _: loss_figure(loss_chart([], [], [])),
    "mass": lambda words: mass_bar((0.5, 0.5, 0.0), words),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_inert_markup_for_screen_readers_and_phones(name: str) -> None:
    root = parsed(CHARTS[name](HOSTILE))
    (picture,) = root.iter("svg")
    assert picture.attrib["role"] == "img"
    assert picture.attrib["viewBox"].startswith("0 0 340 ")
    assert picture.find("title") is not None
    assert picture.find("desc") is not None
    assert not {"width", "height"} & picture.attrib.keys()
    assert "alert" not in {e.tag for e in root.iter()}


def test_hostile_text_is_shown_as_text() -> None:
    root = parsed(tag("p", HOSTILE, title=HOSTILE))
    (element,) = root
    shown = HOSTILE.translate({0: "\ufffd", 0x1B: "\ufffd", 0xD800: "\ufffd", 0xFFFF: "\ufffd"})
    assert element.text == shown
    assert element.attrib["title"] == shown
    assert len(element) == 0


@given(st.text(), st.text())
@unhurried
def test_any_text_becomes_one_element_without_children(inside: str, attribute: str) -> None:
    (element,) = parsed(tag("p", inside, title=attribute))
    assert len(element) == 0


@pytest.mark.parametrize("name", ["style", "onclick", "href", "src", "srcdoc"])
def test_attributes_that_run_or_load_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="attributes that the report never has"):
        tag("p", **{name: "x"})


def test_points_lie_off_the_diagonal_by_their_calibration_gap() -> None:
    root = parsed(reliability("t", bins([(i + 0.5) / 10 for i in range(10)]), "x", "y"))
    (diagonal,) = marks(root, "path", "reference")
    x0, y0, x1, y1 = map(float, re.findall(r"[\d.]+", diagonal["d"]))
    dots = marks(root, "circle", "dot")
    assert len(dots) == 10
    for dot in dots:
        along = (float(dot["cx"]) - x0) / (x1 - x0)
        assert float(dot["cy"]) == pytest.approx(y0 + along * (y1 - y0), abs=0.02)
    (off,) = marks(
        parsed(reliability("t", [Bin(0.5, 0.6, 4, 0.55, Estimate(0.35, None, None))], "x", "y")), "circle", "dot"
    )
    assert float(off["cy"]) == pytest.approx(y0 + 0.35 * (y1 - y0), abs=0.02)


def test_a_reliability_diagram_shows_intervals_and_counts_to_scale() -> None:
    some = [
        Bin(0.4, 0.5, 30, 0.45, Estimate(0.4, 0.3, 0.5)),
        Bin(0.5, 0.6, 10, 0.55, Estimate(0.6, None, None)),
        Bin(0.6, 0.7, 0, 0.65, Estimate(0.0, None, None)),
    ]
    root = parsed(reliability("t", some, "x", "y"))
    (whisker,) = marks(root, "line", "whisker")
    (axis,) = [e for e in marks(root, "line", "axis") if e["y1"] == e["y2"]][:1]
    left, right = float(axis["x1"]), float(axis["x2"])
    assert float(whisker["x1"]) == pytest.approx(left + 0.45 * (right - left), abs=0.02)
    first, second = marks(root, "rect", "count")
    assert float(first["height"]) == pytest.approx(3 * float(second["height"]), abs=0.05)


def test_a_confusion_matrix_has_counts_and_shares_of_the_humans_rows() -> None:
    root = parsed(confusion([[8, 2, 0], [1, 2.5, 1.5], [0, 0, 0]]))
    cells = ["".join(e.itertext()) for e in root.iter("td")]
    assert cells == ["8 80%", "2 20%", "0 0%", "1 20%", "2.5 50%", "1.5 30%", "0 no rows", "0 no rows", "0 no rows"]
    kinds = [e.attrib["class"].split()[1:] for e in root.iter("td")]
    assert kinds[0] == ["right", "heat-8"]
    assert kinds[1] == ["wrong", "heat-2"]


def test_a_distribution_holds_each_row_once_scaled_by_human_verdict() -> None:
    labels = np.array([0] * 6 + [1] * 2)
    p = np.array([0.12, 0.12, 0.13, 0.52, 0.52, 1 + 1e-12, 0.12, 0.0])
    root = parsed(distribution(0, p, labels))
    boxes = {css: marks(root, "rect", css) for css in ("a", "b", "tie")}
    assert [len(boxes[css]) for css in ("a", "b", "tie")] == [3, 2, 0]
    notes = [e.text or "" for e in root.iter("title")][1:]
    assert sum(int(note.split(": ")[1].split()[0]) for note in notes) == 8
    # 3 of A's 6 rows and 1 of B's 2 are the same share
    assert boxes["a"][0]["height"] == boxes["b"][1]["height"]


def test_shifts_beyond_the_ends_are_kept_rows_of_one_order_are_not() -> None:
    root = parsed(shift_histogram(np.array([-1.0, 1.0, 0.21, np.nan]), 0.07))
    notes = [e.text or "" for e in root.iter("title")][1:]
    assert [note.split(": ")[1] for note in notes] == ["1 row"] * 3


def test_the_loss_curve_is_logarithmic_and_marks_the_kept_weights() -> None:
    root = parsed(loss_figure(loss_chart([], [(0, 4.0), (10, 2.0), (20, 1.0)], [("uniform", 1.1)], best=20)))
    heights = [float(dot["cy"]) for dot in marks(root, "circle", "dot")]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.02)
    assert [dot["r"] for dot in marks(root, "circle", "dot")] == ["4", "4", "5"]
    assert "these weights were kept" in str(loss_figure(loss_chart([], [(0, 4.0), (20, 1.0)], [], best=20)))


def rows_of_forest(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [lane for lane in root.iter("svg") if lane.attrib.get("viewBox") == "0 0 240 24"][:-1]


def test_a_forest_plot_has_one_scale_and_points_at_what_lies_beyond_it() -> None:
    given_ = [
        ForestRow(HOSTILE, Estimate(1.0, 0.5, 1.5), "one", group="g"),
        ForestRow("two", Estimate(9.0, 8.0, 10.0), "two", group="g"),
        ForestRow("three", None, estimate(Undefined(HOSTILE)), HOSTILE),
        ForestRow("four", Estimate(2.0, None, None), "four"),
    ]
    root = parsed(forest(given_, ("a", "b", "c"), reference=1.0, limit=1.8, band=(0.5, 1.5), within=(0.0, 2.0)))
    one, two, three, four = rows_of_forest(root)
    (dot,), (whisker,) = one.findall("circle"), one.findall("line")
    assert float(dot.attrib["cx"]) == 120  # the middle of 240
    assert (float(whisker.attrib["x1"]), float(whisker.attrib["x2"])) == (66, 174)
    assert two.findall("circle") == []
    assert len(two.findall("polygon")) == 1
    assert len(three) == 0
    assert [float(e.attrib["cx"]) for e in four.findall("circle")] == [228]
    assert len([e for e in root.iter("tr") if e.attrib.get("class") == "group"]) == 1
    grounds = [e for e in root.iter("svg") if e.attrib.get("class") == "ground"]
    assert len(grounds) == 4
    assert {float(e.attrib["x1"]) for e in grounds[0].iter("line") if e.attrib["class"] == "reference"} == {120.0}


def test_a_forest_plot_without_any_figure_does_not_break() -> None:
    assert len(rows_of_forest(parsed(forest([ForestRow("x", None, "none")], ("a", "b", "c"))))) == 1
    assert rows_of_forest(parsed(forest([], ("a", "b", "c")))) == []


def test_figures_are_written_with_interval_or_reason() -> None:
    def words(markup: Markup) -> str:
        return "".join(parsed(markup).itertext())

    assert words(estimate(Estimate(-0.5, -1.0, 0.25), "+.2f")) == "−0.50 −1.00 to +0.25"
    assert words(estimate(Estimate(0.5, None, None))) == "0.5000 no interval"
    assert words(estimate(Undefined("one class only"))) == "one class only"
    assert words(estimate(None)) == "no rows"
    assert signed(-1e-9, "+.4f") == "+0.0000"
    assert signed(-1e-9, ".1%") == "0.0%"
    assert signed(-0.01, ".1%") == "−1.0%"
    assert words(figure("t", table(("a", "b"), [(HOSTILE, 1)]))).startswith("tab")


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6), st.integers(2, 8))
@unhurried
def test_ticks_are_round_evenly_spaced_and_within_the_range(low: float, width: float, about: int) -> None:
    high = low + width
    ticks = nice_ticks(low, high, about)
    assert len(ticks) <= about * 2.5 + 1
    room = width * 1e-6
    assert all(low - room <= tick <= high + room for tick in ticks)
    steps = np.diff(ticks)
    if len(steps):
        assert steps == pytest.approx(np.full(len(steps), steps[0]), rel=1e-3)
        mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0] * 1.001))
        assert round(mantissa, 3) in (1, 2, 5)


def test_known_ticks_and_their_labels() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert nice_ticks(-0.25, 1.1, 3) == [0, 0.5, 1]
    assert nice_ticks(3, 3) == [3]
    assert log_ticks(0.8, 11) == [1, 2, 5, 10]
    assert log_ticks(1.01, 1.4) == nice_ticks(1.01, 1.4, 4)
    assert [plain([-0.5, 0])(value) for value in (-0.5, 0, 2000)] == ["−0.5", "0.0", "2,000.0"]


def test_a_scale_holds_its_ends_and_a_range_its_values() -> None:
    scale = Scale(1, 100, 0, 200, log=True)
    assert [scale(v) for v in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert scale.holds(1)
    assert not scale.holds(0.9)
    assert Scale(2, 2, 0, 10)(2) == 5
    low, high = span([1.0, None, 3.0], [0.0])
    assert low < 0
    assert high > 3
    assert span([]) == (0.0, 1.0)


def test_a_number_that_has_no_place_is_an_error_instead_of_a_broken_chart() -> None:
    with pytest.raises(ValueError, match="a coordinate is nan"):
        Chart("t", "d", (0, 1), (0, 1)).dot(float("nan"), 0.5, "accent")
    assert [number(v) for v in (1.0, -0.001, 2.345, 10.0)] == ["1", "0", "2.35", "10"]


def test_the_loss_curve_is_an_svg_file_by_itself_too() -> None:
    chart = loss_chart([(1, 9.0), (2, 1.0)], [(0, 3.0), (2, 0.9)], [("class rates & <more>", 1.1)], 2)
    root = ElementTree.fromstring(loss_picture(chart))  # noqa: S314 - our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "class rates & <more>" in names
    assert "blue: held-out log loss, grey: training loss" in names
