"""A real browser for the tests of what people see."""

import os
import shutil

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and "FITB_CI" not in os.environ, reason="needs chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser():
    """Chromium, started once for all tests of a module that import this."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


def screenshot(page, name, folder, **options):
    """Save a picture of the page in $FITB_SCREENSHOTS, or else in the folder."""
    page.screenshot(path=f"{os.environ.get('FITB_SCREENSHOTS', folder)}/{name}.png", **options)
