"""The report's browser of rows in a real headless Chromium: filters, search, keys, addresses, screens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from markupsafe import Markup
from playwright.sync_api import Browser, Page, expect

from judge.report.page import Section, write_page
from judge.report.row_data import CHUNK_ROWS, CONFIDENT, ReportRow
from judge.tables.comparison import Flag
from tests.kit.browser import Visit, opened, opened_row, started
from tests.kit.report_rows import report_row

pytestmark = pytest.mark.slow

ROWS = 2 * CHUNK_ROWS + 50
LANGUAGES = ("en", "de", "ar")
SECTIONS = [Section("headline", "Headline", Markup("<p>Fine.</p>"))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


def plain_row(i: int) -> ReportRow:
    """Return one of the rows that differ in everything that can be filtered by."""
    rng = np.random.default_rng(i)
    first, second = ((p[0], p[1], p[2]) for p in rng.dirichlet([0.6, 0.6, 0.4], 2).tolist())
    two = i % 3 == 0
    p = tuple((a + b) / 2 for a, b in zip(first, second, strict=True)) if two else first
    return report_row(
        id=f"row {i}",
        prompt=tuple(f"Question {i} of turn {turn}?" for turn in range(1 + (i % 7 == 0))),
        response_a=tuple(f"a{i} " * (30 * (i % 50)) for _ in range(1 + (i % 7 == 0))),
        response_b=(f"  two  spaces\n\tand a tab {i}", None)[: 1 + (i % 7 == 0)],
        label=int(rng.integers(-1, 3)),
        p=p,
        first=first,
        second=second if two else None,
        flags=Flag.IDENTICAL if i % 40 == 1 else Flag.NOT_SCORED if i % 90 == 2 else Flag(0),
        cut=i % 11 == 0,
        verdict_mass=0.5,
        language=LANGUAGES[i % 3],
        source=("arena", "")[i % 2],
        models=(f"left-{i % 4}", "right"),
    )


TABLE = [plain_row(i) for i in range(ROWS)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a report on `TABLE`."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, "A report", SECTIONS, TABLE)
    return path.as_uri()


@pytest.fixture
def visit(browser: Browser, report: str) -> Iterator[Visit]:
    with opened(browser, report, viewport={"width": 1200, "height": 800}) as visit:
        yield visit
        visit.assert_harmless()


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def shown_ids(page: Page) -> list[str]:
    """Return the ids at the top of the list."""
    return page.locator(".entry .id").all_text_contents()


def assert_listed(page: Page, wanted: Sequence[ReportRow]) -> None:
    """Assert that just these rows are in the list, in this order."""
    amount = f"{len(wanted)} of {ROWS} rows" if len(wanted) < ROWS else f"{ROWS} rows"
    expect(page.locator("#count")).to_have_text(amount)
    ids = shown_ids(page)
    assert ids == [row.id for row in wanted][: len(ids)]
    assert len(ids) >= min(len(wanted), 8)


def decoded(page: Page) -> int:
    """Return how many chunks of texts were unpacked so far."""
    return int(page.evaluate("document.documentElement.dataset.decoded || 0"))


def test_texts_are_unpacked_only_when_a_row_is_opened(page: Page) -> None:
    assert decoded(page) == 0
    assert page.locator(".entry").count() < 30  # of 450
    page.locator(".entry").first.click()
    opened_row(page, "row 0")
    assert decoded(page) == 1
    page.locator("#list").press("End")
    opened_row(page, f"row {ROWS - 1}")
    assert decoded(page) == 2
    page.locator("#list").press("Home")
    opened_row(page, "row 0")
    assert decoded(page) == 2  # kept


def test_an_opened_row_shows_its_texts_verdicts_and_probabilities(browser: Browser, report: str) -> None:
    row = TABLE[21]  # two turns, both orders
    with opened(browser, f"{report}#row=row%2021") as visit:
        article = opened_row(visit.page, "row 21")
        texts = article.locator(".text").all_text_contents()
        assert texts == [
            row.prompt[0], row.response_a[0], row.response_b[0],
            row.prompt[1], row.response_a[1], "null: the table has no text here",
        ]  # fmt: skip
        assert article.locator("h4").nth(1).text_content() == "A 1 left-1"
        assert (
            article.locator(".text").nth(2).evaluate("node => getComputedStyle(node).whiteSpaceCollapse") == "preserve"
        )
        figures = article.locator("tbody tr").evaluate_all(
            "rows => rows.map((row) => [...row.querySelectorAll('.figure')].map((figure) => figure.textContent))"
        )
        assert row.first is not None
        assert row.second is not None
        want = [[f"{p[i] * 100:.1f}%" for p in (row.p, row.first, row.second)] for i in range(3)]
        assert figures == want
        widths = article.locator("tbody .bar").evaluate_all(
            """bars => {
                const width = (node) => node.getBoundingClientRect().width;
                return bars.map((bar) => width(bar.firstChild) / width(bar));
            }"""
        )
        assert widths == pytest.approx([p[i] for i in range(3) for p in (row.p, row.first, row.second)], abs=0.01)
        facts = article.locator(".facts").inner_text().replace("\n", " ")
        assert row.loss is not None
        assert f"Loss {row.loss:.3f} nats" in facts
        assert f"A {row.characters[1]:,}, B {row.characters[2]:,} characters" in facts
        assert "Verdict mass 50.0%" in facts
        said = article.locator(".said").inner_text()
        assert ("wrong" in said) == (row.verdict != row.label)
        left, right = (article.locator(f".turn.{side}").first.bounding_box() for side in "ab")
        assert left is not None
        assert right is not None
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        visit.assert_harmless()


def wrong(row: ReportRow) -> bool:
    return row.label >= 0 and row.verdict != row.label


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("Wrong and confident", lambda row: wrong(row) and max(row.p) >= CONFIDENT),
        ("Ties", lambda row: 2 in (row.label, row.verdict)),
        ("Flips under swap", lambda row: row.flips is True),
        ("Cut", lambda row: row.cut),
        ("Identical", lambda row: Flag.IDENTICAL in row.flags),
        ("Not scored", lambda row: Flag.NOT_SCORED in row.flags),
    ],
)
def test_quick_filters(shared: Page, name: str, belongs: Callable[[ReportRow], bool]) -> None:
    wanted = [row for row in TABLE if belongs(row)]
    assert 0 < len(wanted) < ROWS
    chip = shared.get_by_role("button", name=re.compile(f"^{name} {len(wanted)}$"))
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    assert_listed(shared, wanted)
    chip.click()
    assert_listed(shared, TABLE)


@pytest.mark.parametrize(
    ("facet", "option", "belongs"),
    [
        ("Judge is", "wrong", wrong),
        ("Judge is", "without a label", lambda row: row.label < 0),
        ("Human's verdict", "B", lambda row: row.label == 1),
        ("Judge's verdict", "tie", lambda row: row.verdict == 2),
        ("Language", "ar", lambda row: row.language == "ar"),
        ("Length", "2,000 to 3,999 characters", lambda row: 2000 <= sum(row.characters) < 4000),
        ("Length", "under 1,000 characters", lambda row: sum(row.characters) < 1000),
        ("Turns", "2", lambda row: row.turn_count == 2),
        ("Swap", "read in one order", lambda row: row.flips is None),
        ("Flag", "not scored", lambda row: Flag.NOT_SCORED in row.flags),
        ("Source", "not known", lambda row: row.source == ""),
    ],
)
def test_more_filters(shared: Page, facet: str, option: str, belongs: Callable[[ReportRow], bool]) -> None:
    wanted = [row for row in TABLE if belongs(row)]
    assert 0 < len(wanted) < ROWS
    select = shared.get_by_label(facet, exact=True)
    label = next(text for text in select.locator("option").all_text_contents() if text.startswith(option))
    assert label.endswith(f"({len(wanted)})")
    select.select_option(label=label)
    assert_listed(shared, wanted)
    shared.get_by_role("button", name="Clear filters").click()
    assert_listed(shared, TABLE)
    assert select.input_value() == ""


@pytest.fixture(scope="module")
def shared(browser: Browser, report: str) -> Iterator[Page]:
    """Return one page for many filters."""
    with opened(browser, report, viewport={"width": 1200, "height": 800}) as visit:
        visit.page.locator("#more summary").click()
        yield visit.page
        visit.assert_harmless()


def test_filters_join(shared: Page) -> None:
    shared.get_by_role("button", name="Ties").click()
    shared.get_by_role("button", name="Flips under swap").click()
    shared.get_by_label("Language", exact=True).select_option(index=1)
    first = shared.get_by_label("Language", exact=True).locator("option:checked").text_content() or ""
    wanted = [r for r in TABLE if 2 in (r.label, r.verdict) and r.flips and r.language == first.split()[0]]
    assert_listed(shared, wanted)
    shared.get_by_role("button", name="Clear filters").click()
    assert_listed(shared, TABLE)


def test_rows_can_be_ordered_by_loss_and_by_doubt(shared: Page) -> None:
    def doubt(row: ReportRow) -> float:
        p = np.round(np.array(row.p), 4)
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    shared.get_by_label("Order").select_option("loss")
    assert_listed(shared, sorted(TABLE, key=lambda row: -round(-1 if row.loss is None else row.loss, 4)))
    shared.get_by_label("Order").select_option("unsure")
    best = sorted(TABLE, key=doubt, reverse=True)[:8]
    assert shown_ids(shared)[:8] == [row.id for row in best]
    shared.get_by_label("Order").select_option("table")
    assert_listed(shared, TABLE)


def test_ids_are_found_while_typing_and_texts_on_demand(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("ROW 44")
    assert_listed(page, [row for row in TABLE if "row 44" in row.id])
    assert decoded(page) == 0
    page.locator("#search").fill("and a tab 12")
    expect(page.locator("#count")).to_have_text(f"0 of {ROWS} rows")
    page.keyboard.press("Enter")
    wanted = [row for row in TABLE if "and a tab 12" in (row.response_b[0] or "")]
    assert len(wanted) > 8
    expect(page.locator("#search-note")).to_have_text(f"all texts searched, {len(wanted)} rows have it")
    assert_listed(page, wanted)
    assert decoded(page) == 3
    expect(page.locator("#search-progress")).to_be_hidden()
    page.locator("#search").fill("")
    assert_listed(page, TABLE)


def test_a_search_can_be_cancelled(page: Page) -> None:
    # unpacking waits until it is told to go on
    page.evaluate(
        """() => {
            const Real = DecompressionStream;
            window.goOn = new Promise((resolve) => { window.release = resolve; });
            window.DecompressionStream = function (format) {
                const real = new Real(format);
                const wait = async (chunk, out) => { await window.goOn; out.enqueue(chunk); };
                const gate = new TransformStream({ transform: wait });
                return { writable: real.writable, readable: real.readable.pipeThrough(gate) };
            };
        }"""
    )
    page.locator("#search").fill("tab")
    page.get_by_role("button", name="Search all texts").click()
    expect(page.locator("#search-progress")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#search-progress")).to_be_hidden()
    page.evaluate("window.release()")
    page.wait_for_timeout(50)
    assert decoded(page) == 1
    expect(page.locator("#search-note")).to_have_text("")


def test_keys_walk_through_the_rows_that_are_listed(page: Page) -> None:
    page.get_by_role("button", name="Cut").click()
    cut = [row.id for row in TABLE if row.cut]
    for key, at in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        opened_row(page, cut[at])
    page.locator("#list").focus()
    for key, at in (("ArrowDown", 2), ("ArrowUp", 1), ("End", len(cut) - 1), ("ArrowDown", len(cut) - 1), ("Home", 0)):
        page.keyboard.press(key)
        opened_row(page, cut[at])
    page.keyboard.press("k")  # there is none before the first
    opened_row(page, cut[0])
    option = page.locator("#list [aria-selected='true']")
    assert option.locator(".id").text_content() == cut[0]
    assert page.locator("#list").get_attribute("aria-activedescendant") == option.get_attribute("id")
    assert option.get_attribute("aria-posinset") == "1"
    assert option.get_attribute("aria-setsize") == str(len(cut))
    page.keyboard.press("Escape")
    expect(page.locator("#row .conversation")).to_have_count(0)


def test_help_lists_the_keys_and_letters_can_be_switched_off(page: Page) -> None:
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    for key in ("j", "k", "/", "?", "Esc"):
        expect(dialog.locator("kbd").get_by_text(key, exact=True).first).to_be_visible()
    dialog.get_by_role("checkbox").uncheck()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("j")
    page.wait_for_timeout(50)
    assert page.locator("#row .conversation").count() == 0
    page.locator("#list").press("ArrowDown")  # that is no letter
    opened_row(page, "row 0")


def test_keys_typed_into_the_search_are_text(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("j?/k")
    assert page.locator("#search").input_value() == "j?/k"
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#search")).not_to_be_focused()


def test_each_row_has_an_address(page: Page) -> None:
    page.keyboard.press("j")
    opened_row(page, "row 0")
    assert page.url.endswith("#row=row%200")
    page.keyboard.press("j")
    row = opened_row(page, "row 1")
    page.wait_for_url("**#row=row%201")
    assert row.get_by_role("link", name="Link to this row").get_attribute("href") == "#row=row%201"
    page.evaluate("location.hash = '#row=row%20300'")
    opened_row(page, "row 300")
    assert page.locator("[aria-selected='true'] .id").text_content() == "row 300"


# ---- screens -------------------------------------------------------------------------------------------------------


def luminance(page: Page, what: str) -> float:
    """Return the mean of red, green and blue of a colour of the page, 0 to 255."""
    colour = page.evaluate(f"getComputedStyle(document.body).{what}")
    return float(np.mean([float(v) for v in re.findall(r"\d+", colour)[:3]]))


def test_dark_where_the_system_is_dark(browser: Browser, report: str) -> None:
    for scheme, is_dark in (("light", False), ("dark", True)):
        with opened(browser, report, color_scheme=scheme) as visit:
            assert (luminance(visit.page, "backgroundColor") < 50) == is_dark
            assert (luminance(visit.page, "color") > 200) == is_dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_of_text_stand_out_as_accessibility_asks(browser: Browser, report: str, scheme: str) -> None:
    with opened(browser, report, color_scheme=scheme) as visit:
        names = ["ink", "muted", "a", "b", "tie", "accent", "bad", "good", "paper", "card", "sunk", "on"]
        style = "getComputedStyle(document.documentElement)"
        found = visit.page.evaluate(f"names => names.map((n) => {style}.getPropertyValue('--' + n))", names)
    light = {name: relative_luminance(colour) for name, colour in zip(names, found, strict=True)}
    pairs = [(text, ground) for text in names[:8] for ground in ("paper", "card", "sunk")]
    pairs += [("on", ground) for ground in ("a", "b", "tie", "accent", "bad")]
    for one, two in pairs:
        low, high = sorted((light[one], light[two]))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (one, two)


def relative_luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    channels = np.array([int(colour.strip()[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
