"""A real browser for tests of pages. A test that needs one is skipped, with the reason, where there is none.

def test_it(browser: Browser) -> None:
    with visited(browser, url, width=400, height=800) as visit:
        visit.page.get_by_role("button", name="Generate").click()
        visit.page.screenshot(path=…)
    assert not visit.complaints and not visit.outside
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

INSTALLED = ("chromium", "chromium-browser", "google-chrome")
HERE = ("127.0.0.1", "localhost", "")
"""Hosts that a page may load from; the empty one is that of `data:`, `blob:` and `file:`."""


@contextmanager
def started() -> "Iterator[Browser]":
    """Start the system's Chromium, else the one that `playwright install chromium` has downloaded; or skip the test."""
    pytest.importorskip("playwright", reason="playwright is not installed; run `make setup`")
    from playwright.sync_api import Error, sync_playwright

    path = next(filter(None, map(shutil.which, INSTALLED)), None)
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # Chromium does not start for root with its sandbox
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=arguments)
        except Error as error:
            if path is not None:
                raise
            pytest.skip(f"no browser is installed; run `playwright install chromium` ({error.message.splitlines()[0]})")
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page in a window of its own, and what went wrong on it."""

    page: "Page"
    complaints: list[str] = field(default_factory=list)
    """Errors in the page's console (of scripts, of the Content-Security-Policy) and exceptions that nothing caught."""
    outside: list[str] = field(default_factory=list)
    """Addresses outside this machine that the page asked for; they are not fetched."""


@contextmanager
def visited(browser: "Browser", url: str, *, width: int = 1400, height: int = 900) -> Iterator[Visit]:
    """Open the address in a window of this size, with cookies and storage of its own."""
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    try:
        visit = Visit(context.new_page())

        def note(request: "Request") -> None:
            if urlsplit(request.url).hostname not in (*HERE, None):
                visit.outside.append(request.url)

        context.on("request", note)
        context.route(lambda address: urlsplit(address).hostname not in (*HERE, None), lambda route: route.abort())
        visit.page.on("console", lambda line: visit.complaints.append(line.text) if line.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.goto(url)
        yield visit
    finally:
        context.close()
