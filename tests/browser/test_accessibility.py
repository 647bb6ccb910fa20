"""Accessibility: no axe violations in light, dark, on desktop and phone; width; keyboard use."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from support.browser.actions import open_panel, start, stop, until_played
from support.browser.chromium import visiting
from support.browser.servers import Server

PHONE = {"width": 390, "height": 844}
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": PHONE, "has_touch": True},
    "dark-phone": {"color_scheme": "dark", "viewport": PHONE, "reduced_motion": "reduce"},
}


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("view", VIEWS)
def test_there_are_no_axe_violations(browser: Browser, server: Server, view: str) -> None:
    # axe is injected from outside, which the page's content security policy forbids.
    with visiting(browser, server.origin, bypass_csp=True, **VIEWS[view]) as visit:
        landing = visit("/")
        assert violations(landing) == []
        page = visit()
        expect(page.locator("#server-label")).to_have_text("Ready")
        assert violations(page) == []
        for panel in ("stats", "diagnostics"):
            open_panel(page, panel)
        start(page)
        until_played(page, 20)
        assert violations(page) == []
        page.locator("#open-settings").click()
        assert violations(page) == []
        page.locator("#close-settings").click()
        stop(page)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_any_width(browser: Browser, server: Server, width: int) -> None:
    with visiting(browser, server.origin, viewport={"width": width, "height": 800}) as visit:
        for path in ("/", "/packet-voice"):
            page = visit(path)
            if path != "/":
                open_panel(page, "stats")
                open_panel(page, "diagnostics")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_works_without_a_mouse(browser: Browser, server: Server) -> None:
    """Space starts and stops, with or without focus on the button."""
    with visiting(browser, server.origin) as visit:
        page = visit()
        page.keyboard.press("Space")
        expect(page.locator("#call[data-phase=live]")).to_be_visible(timeout=20_000)
        page.locator("#talk").focus()
        page.keyboard.press("Space")
        expect(page.locator("#call[data-phase=idle]")).to_be_visible()
