"""Everybody can use the page: axe finds nothing in light, in dark, on a phone, idle or talking."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from support.browser.acts import open_panel, start, stop, until_played
from support.browser.servers import Server
from support.browser.visitors import visiting

PHONE = {"width": 390, "height": 844}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": PHONE, "has_touch": True},
    "dark-phone": {"color_scheme": "dark", "viewport": PHONE, "reduced_motion": "reduce"},
}


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(browser: Browser, server: Server, look: str) -> None:
    # axe is put into the page from outside, which the page's own policy rightly forbids.
    with visiting(browser, server.origin, bypass_csp=True, **LOOKS[look]) as visit:
        landing = visit("/")
        assert violations(landing) == []
        page = visit()
        expect(page.locator("#server-label")).to_have_text("Ready")
        assert violations(page) == []
        for panel in ("status", "silent"):
            open_panel(page, panel)
        start(page)
        until_played(page, 20)
        assert violations(page) == []
        page.locator("#open-settings").click()
        assert violations(page) == []
        page.locator("#close-settings").click()
        stop(page)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_cut_off_at_any_width(browser: Browser, server: Server, width: int) -> None:
    with visiting(browser, server.origin, viewport={"width": width, "height": 800}) as visit:
        for path in ("/", "/packet-voice"):
            page = visit(path)
            if path != "/":
                open_panel(page, "status")
                open_panel(page, "silent")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_is_used_without_a_mouse(browser: Browser, server: Server) -> None:
    """Space starts and stops, from the button and from anywhere else; focus is always seen."""
    with visiting(browser, server.origin) as visit:
        page = visit()
        page.keyboard.press("Space")
        expect(page.locator("#stage[data-phase=live]")).to_be_visible(timeout=20_000)
        page.locator("#talk").focus()
        page.keyboard.press("Space")
        expect(page.locator("#stage[data-phase=idle]")).to_be_visible()
