"""Suggestions: shown as plain text while the user may need them, and only if the model has any."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from support.browser.actions import expect_phase, open_panel, start, stop, until_played
from support.browser.chromium import visiting
from support.browser.servers import serving

SUGGESTIONS = ["what is <b>three</b> plus four", "who are you", "a" * 80, "good morning & good-bye", "…"]
ABOUT = "It answers <i>sums</i> of small numbers."
GREETING = f"greeting={json.dumps({'about': ABOUT, 'suggestions': SUGGESTIONS})}"
SILENT = "sampling.padding_bias=100"  # the agent's text is padding only
LOOKS = [("light", 1280), ("dark", 1280), ("light", 320), ("dark", 390)]


def expect_suggestions(page: Page) -> None:
    expect(page.locator("#suggestions")).to_be_visible()
    expect(page.get_by_role("list", name="Try asking:").get_by_role("listitem")).to_have_text(
        [f"“{suggestion}”" for suggestion in SUGGESTIONS]
    )
    expect(page.locator("#suggestions p")).to_have_text(ABOUT)
    expect(page.locator("#suggestions").locator("b, i")).to_have_count(0)


def test_suggestions_are_shown_until_the_first_text(browser: Browser, checkpoint: Path) -> None:
    """Before a call and in the queue; hidden with the agent's first text; shown again after the call."""
    with (
        serving(GREETING, "lanes.max=1", config=checkpoint) as server,
        visiting(browser, server.origin) as visit,
    ):
        first, second = visit(), visit()
        expect_suggestions(first)
        start(first)
        expect(first.locator("#lines .agent p")).not_to_be_empty()
        expect(first.locator("#suggestions")).to_be_hidden()
        second.bring_to_front()
        second.locator("#talk").click()
        expect_phase(second, "queued")
        expect_suggestions(second)
        stop(second)
        first.bring_to_front()
        stop(first)
        expect_suggestions(first)


def test_a_model_without_suggestions_shows_none(browser: Browser, checkpoint: Path) -> None:
    """Neither before nor during a call, and without an empty heading."""
    with serving(SILENT, config=checkpoint) as server, visiting(browser, server.origin) as visit:
        page = visit()
        expect(page.locator("#model")).to_be_visible()  # the model is known by now
        expect(page.locator("#suggestions")).to_be_hidden()
        open_panel(page, "stats")
        start(page)
        until_played(page, 5)
        expect(page.locator("#suggestions")).to_be_hidden()
        expect(page.locator("#suggestions *")).to_have_count(0)
        stop(page)


@pytest.fixture(scope="module")
def silent_origin(checkpoint: Path) -> Iterator[str]:
    with serving(GREETING, SILENT, config=checkpoint) as server:
        yield server.origin


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_suggestions_are_accessible_and_fit(
    browser: Browser, silent_origin: str, scheme: str, width: int
) -> None:
    """No axe violations and no overflow, before a call and before the first text."""
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    # axe is injected from outside, which the page's content security policy forbids.
    with visiting(browser, silent_origin, bypass_csp=True, **look) as visit:
        page = visit()
        expect_suggestions(page)
        assert Axe().run(page).response["violations"] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        open_panel(page, "stats")
        start(page)
        until_played(page, 10)
        expect_suggestions(page)
        assert Axe().run(page).response["violations"] == []
        stop(page)
