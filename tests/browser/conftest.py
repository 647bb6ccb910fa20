"""One Chromium and one server for all tests of the page; its microphone is a recording."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright
from support.browser.servers import Server, serving
from support.browser.visitors import CHROMIUM, MICROPHONE, Visit, launch, visiting


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
    """Its microphone is a recording, and is granted without asking."""
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
