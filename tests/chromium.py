"""Starts Chromium for tests of pages; they are skipped where it is not installed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATH = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium(*arguments: str) -> Iterator:
    """A browser, with further command-line arguments."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not PATH:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=PATH, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()
