"""The report in a real headless Chromium: no text of a table runs, and each is shown as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from markupsafe import Markup
from playwright.sync_api import Browser, expect

from judge.report.page import Section, write_page
from tests.kit.browser import opened, opened_row, started
from tests.kit.report_rows import HOSTILE, report_row

pytestmark = pytest.mark.slow

PHONE = {"width": 375, "height": 700}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


def as_shown(text: str) -> str:
    """Return how a text with characters that are not visible stands in the page."""
    return re.sub(
        "[\u0000-\u0008\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]", lambda m: f"U+{ord(m[0]):04X}", text
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a report in which every text of every row tries to run."""
    rows = [
        report_row(
            id=f"{i} {text}",
            prompt=(text, text),
            response_a=(text, None),
            response_b=(f"```html\n{text}\n```", text),
            models=(text, f"{text}{text}"),
            language=text,
            source=text,
        )
        for i, text in enumerate(HOSTILE)
    ]
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    sections = [Section("s", text, Markup("<p>{}</p>").format(text)) for text in HOSTILE]
    write_page(path, " ".join(HOSTILE), sections, rows)
    return path.as_uri()


def test_no_text_of_a_table_runs_and_each_is_shown_as_it_is(browser: Browser, hostile: str) -> None:
    with opened(browser, hostile) as visit:
        page = visit.page
        assert page.title() == " ".join(HOSTILE)
        page.locator("#more summary").click()
        for i, text in enumerate(HOSTILE):
            page.keyboard.press("j")
            row = opened_row(page, as_shown(f"{i} {text}"))
            want = [text, text, f"```html\n{text}\n```", text, "null: the table has no text here", text]
            # turn by turn: the prompt, A, B
            assert row.locator(".text").all_text_contents() == [as_shown(want[k]) for k in (0, 1, 2, 3, 4, 5)]
            assert row.locator("h4 .model").all_text_contents() == [as_shown(text), as_shown(text + text)] * 2
            facts = row.locator(".facts dd").all_text_contents()
            assert facts.count(as_shown(text)) == 2  # language and source
            visit.assert_harmless()
        page.locator("#search").fill("<script>")
        page.keyboard.press("Enter")
        expect(page.locator("#search-note")).to_contain_text("all texts searched")
        page.get_by_label("Language").select_option(index=3)
        page.wait_for_timeout(100)  # what an event handler or a timer would need
        visit.assert_harmless()


def test_an_address_that_is_not_a_rows_is_shown_as_text(browser: Browser, hostile: str) -> None:
    for text in HOSTILE[:3]:
        with opened(browser, f"{hostile}#row={quote(text, safe='')}") as visit:
            expect(visit.page.locator("#row .problem bdi")).to_have_text(text)
            visit.assert_harmless()


# In a task of its own: the call from outside may do more than a page may.
ATTEMPTS = """() => new Promise((resolve) => setTimeout(() => {
    const tried = {};
    const attempt = (name, act) => {
        try { act(); tried[name] = "done"; } catch (error) { tried[name] = error.name; }
    };
    const add = (name, set) => { const e = document.createElement(name); set(e); document.body.append(e); };
    attempt("script text", () => add("script", (e) => { e.textContent = "window.pwned = 1"; }));
    attempt("script child", () => add("script", (e) => e.append("window.pwned = 2")));
    attempt("script from data", () => add("script", (e) => { e.src = "data:text/javascript,pwned=3"; }));
    attempt("inner html", () => { document.body.innerHTML = "<img src=x onerror='pwned = 4'>"; });
    attempt("eval", () => eval("window.pwned = 5"));
    attempt("handler", () => add("p", (e) => { e.setAttribute("onclick", "pwned = 6"); e.click(); }));
    attempt("link", () => add("a", (e) => { e.href = "javascript:window.pwned = 7"; e.click(); }));
    attempt("image", () => add("img", (e) => { e.src = "https://evil.example/x.png"; }));
    attempt("style", () => add("style", (e) => { e.textContent = "body { color: rgb(1, 2, 3) }"; }));
    attempt("style attribute", () => document.body.setAttribute("style", "color: rgb(1, 2, 3)"));
    resolve(tried);
}))"""


def test_the_policy_is_in_force(browser: Browser, hostile: str) -> None:
    with opened(browser, hostile) as visit:
        page = visit.page
        refused = page.evaluate(ATTEMPTS)
        for name in ("script text", "script from data", "inner html"):
            assert refused[name] == "TypeError", name  # not a trusted type
        assert refused["eval"] == "EvalError"
        fetched = page.evaluate("fetch('https://evil.example/').then(() => 'fetched', (e) => e.name)")
        assert fetched == "TypeError"
        page.wait_for_timeout(100)
        assert page.evaluate("typeof window.pwned") == "undefined"
        assert page.evaluate("getComputedStyle(document.body).color") != "rgb(1, 2, 3)"
        assert visit.refused == visit.requests == ["https://evil.example/x.png"]
        assert len(set(visit.addresses)) == 1
        assert any("Content Security Policy" in text for text in visit.console)


def test_without_the_policy_all_of_that_would_run(browser: Browser, hostile: str, tmp_path: Path) -> None:
    html = Path(hostile.removeprefix("file://")).read_text(encoding="utf-8")
    (tmp_path / "open.html").write_text(html.replace("Content-Security-Policy", "Nothing"), encoding="utf-8")
    with opened(browser, (tmp_path / "open.html").as_uri()) as visit:
        visit.page.evaluate(ATTEMPTS)
        visit.page.wait_for_function("window.pwned")
        visit.page.wait_for_function("getComputedStyle(document.body).color === 'rgb(1, 2, 3)'")
        assert visit.refused == []


def test_what_is_not_visible_is_shown_and_directions_are_kept_apart(browser: Browser, tmp_path: Path) -> None:
    override = "safe \u202egnp.exe\u202c end"
    arabic = "مرحبا بالعالم"
    joined = "👨\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f می\u200cخواهم"
    row = report_row(
        id="1\u202e2",
        prompt=(override, arabic, joined),
        response_a=("a\x00b\x1b[31m\u2066c", "line\r\nnext\u0007", ""),
        response_b=("tag\U000e0041", "\u200bzero", "x"),
    )
    write_page(tmp_path / "r.html", "Report", [], [row])
    with opened(browser, (tmp_path / "r.html").as_uri()) as visit:
        visit.page.keyboard.press("j")
        texts = opened_row(visit.page, "1U+202E2").locator(".text")
        assert texts.all_text_contents() == [
            "safe U+202Egnp.exeU+202C end",
            "aU+0000bU+001B[31mU+2066c",
            "tagU+E0041",
            arabic,
            "line\nnextU+0007",
            "U+200Bzero",
            joined,
            "empty text",
            "x",
        ]
        direction = "nodes => nodes.map((node) => getComputedStyle(node).direction)"
        assert texts.evaluate_all(direction)[:4] == ["ltr", "ltr", "ltr", "rtl"]
        visit.assert_harmless()


def test_all_fits_a_phone_and_the_back_button_leads_to_the_list(browser: Browser, hostile: str) -> None:
    for colours in ("light", "dark"):
        with opened(browser, hostile, viewport=PHONE, color_scheme=colours, is_mobile=True, has_touch=True) as visit:
            page = visit.page
            page.locator("#more summary").tap()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            page.locator(".entry").first.tap()
            row = opened_row(page, f"0 {HOSTILE[0]}")
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            expect(page.locator("#list")).to_be_hidden()
            above, below = (row.locator(f".turn.{side}").first.bounding_box() for side in "ab")
            assert above is not None
            assert below is not None
            assert above["y"] + above["height"] <= below["y"]
            page.go_back()
            expect(page.locator("#list")).to_be_visible()
            visit.assert_harmless()
