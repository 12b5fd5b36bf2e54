"""Starts Chromium for tests of pages; they are skipped where it is not installed."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE = "axe-core@4.10.3"
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


def axe_core(folder: Path) -> str:
    """The source of axe-core, which finds mistakes in pages; skips the test if npm can't provide it.

    Args:
        folder: where it is kept, for several processes.
    """
    with FileLock(folder / "axe.lock"):
        if not any(folder.glob("axe-core-*.tgz")):
            try:
                subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"npm can't fetch axe-core: {error}")
    (archive,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(archive) as package:
        return package.extractfile("package/axe.min.js").read().decode()


def check_page(tab, axe: str, what: object = "") -> None:
    """Asserts that axe finds no mistake, and that nothing is wider than the window.

    In dark colours only that is checked which depends on colours.
    """
    tab.evaluate(axe)
    for scheme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast", "link-in-text-block"]})):
        tab.emulate_media(color_scheme=scheme)
        found = tab.evaluate("options => axe.run(options)", options)["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], (what, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= tab.viewport_size["width"], what
