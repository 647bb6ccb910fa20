"""One Chromium and one server for all browser tests; the microphone is a recording."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright
from support.browser.chromium import CHROMIUM, MICROPHONE, Visit, launch, visiting
from support.browser.servers import Server, serving

expect.set_options(timeout=30_000)  # no guarantee depends on it: it turns a hang into a failure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if CHROMIUM is None and "CI" not in os.environ and here in item.path.parents:
            item.add_marker(pytest.mark.skip("no Chromium (Debian: apt-get install chromium)"))


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """The microphone is a recording, with permission granted."""
    started = launch(playwright, *MICROPHONE)
    yield started
    started.close()


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    with serving() as started:
        yield started


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visit]:
    with visiting(browser, server.origin) as visit:
        yield visit
