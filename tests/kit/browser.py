"""The real browser that the report's tests open it in: headless Chromium, cut off from any network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Page, Request

COMMANDS = ("chromium", "chromium-browser", "google-chrome")
MISSING = (
    "no browser for the report's tests: run `bash requirements/browser.sh`, install chromium, or set JUDGE_BROWSER "
    "to a Chromium's path"
)
# Nothing that Chromium would like to fetch for itself; pages are refused a network by `opened`.
_QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


def executable() -> str | None:
    """Return the path of a Chromium; None for the one that playwright has downloaded.

    Fails the test where there is none: a skipped test would not show that a report is safe.
    """
    named = os.environ.get("JUDGE_BROWSER")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, COMMANDS)), None)
    if found is None and (named or not _downloaded()):
        pytest.fail(MISSING, pytrace=False)
    return found


def _downloaded() -> bool:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path).exists()


# Elements that only a text taken for markup could bring into a report's body.
FOREIGN = (
    "script, style, img, iframe, object, embed, base, meta, link, video, audio, b, math, template, svg, "
    "a:not([href^='#']), [style*='background'], [onclick], [onerror], [onload], [src], [srcdoc]"
)
ELEMENTS_OF_ITS_OWN = 1 + 1 + 5 + 1  # the script, the style sheet, five meta and the title


@contextmanager
def started() -> Iterator[Browser]:
    """Start the browser, without a window."""
    path = executable()
    from playwright.sync_api import sync_playwright

    # root has no sandbox; what is opened here are files of the tests' own
    arguments = [*_QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that was opened from disk, and what it did that a report must not do.

    Attributes:
        page: the page.
        requests: addresses that it asked for besides its own file.
        dialogs: texts of alerts and the like.
        errors: of scripts.
        refused: those of them that the page's policy refused.
        addresses: that it and frames in it went to, without what follows #.
        console: warnings and errors in the console, where the browser tells what its policy refused.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.refused: list[str] = []
        self.addresses: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        self.console: list[str] = []
        page.on("dialog", self._dismiss)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)
        page.on("request", self._count)
        page.on("requestfailed", self._fail)
        page.on("framenavigated", lambda frame: self.addresses.append(frame.url.partition("#")[0]))

    def _dismiss(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(message.text)

    def _count(self, request: Request) -> None:
        if not request.is_navigation_request():
            self.requests.append(request.url)

    def _fail(self, request: Request) -> None:
        if request.failure == "csp":
            self.refused.append(request.url)

    def assert_harmless(self) -> None:
        """Assert that nothing of a table's text ran, was fetched or became an element of the page."""
        assert [self.requests, self.dialogs, self.errors, self.console] == [[], [], [], []]
        assert len(set(self.addresses)) == 1
        assert self.page.evaluate("typeof window.pwned") == "undefined"
        assert self.page.locator(f":is(main, dialog, header, nav) :is({FOREIGN})").count() == 0
        assert self.page.locator("script:not([type]), style, meta, title").count() == ELEMENTS_OF_ITS_OWN


@contextmanager
def opened(browser: Browser, address: str, **settings: object) -> Iterator[Visit]:
    """Open a report in a context of its own, wait until its rows are there, and give the visit.

    Args:
        browser: what `started` gave.
        address: a file's, `#row=…` included.
        settings: of playwright's `new_context`, such as `viewport`.
    """
    context = browser.new_context(offline=True, **settings)  # type: ignore[arg-type]
    context.set_default_timeout(10_000)
    try:
        visit = Visit(context.new_page())
        visit.page.goto(address)
        visit.page.wait_for_selector("html[data-ready]")
        yield visit
    finally:
        context.close()


def opened_row(page: Page, row_id: str) -> Locator:
    """Return the opened row, once it is that one."""
    from playwright.sync_api import expect

    row = page.locator("#row")
    expect(row.locator("h3 bdi")).to_have_text(row_id)
    expect(row.locator(".conversation")).to_be_attached()
    return row
