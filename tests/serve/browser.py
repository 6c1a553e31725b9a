"""A real browser for the tests of the page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium, such as Debian's package"
)


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Chromium, driven by Playwright; skipped without that package."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Any, port: int) -> Iterator[Any]:
    """The page on a narrow screen; no error in its console, no request to another host."""
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    problems, hosts = [], set()
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: hosts.add(r.url.split("/")[2]) if "://" in r.url else None)
    page.goto(f"http://127.0.0.1:{port}")
    yield page
    assert problems == []
    assert hosts == {f"127.0.0.1:{port}"}
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
