"""The voice page before all of it is loaded: calls, panels and dialogs come after the first screen."""

from playwright.sync_api import Browser, Page, Route, expect
from support.browser.actions import expect_phase, open_panel, stop
from support.browser.chromium import visiting
from support.browser.servers import Server

REST = "**/voice/panels.js"
NOT_LOADED = ("Failed to fetch dynamically imported module", "Failed to load resource", "net::ERR_FAILED")


def visit_without_rest(page: Page, server: Server) -> list[Route]:
    """The requests for the rest of the page, which are not answered."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(REST, hold)
    page.goto(server.origin + "/packet-voice", wait_until="commit")
    expect(page.locator("#server-label")).to_have_text("Ready")
    return held


def deliver(page: Page, held: list[Route]) -> None:
    for route in held:
        route.continue_()
    page.unroute(REST)


def test_a_call_can_be_started_at_once(browser: Browser, server: Server) -> None:
    """It begins when what it needs has arrived, and its panels know all that happened until then."""
    with visiting(browser, server.origin) as visit:
        page = visit("/health/live")
        held = visit_without_rest(page, server)
        page.locator("#talk").click()
        expect_phase(page, "opening")
        deliver(page, held)
        expect_phase(page, "live")
        open_panel(page, "stats")
        expect(page.locator("#stat-server-status")).to_contain_text("ready")
        page.locator("#open-settings").click()
        expect(page.locator("#settings")).to_be_visible()
        page.locator("#close-settings").click()
        stop(page)


def test_nothing_can_be_pressed_that_does_nothing_yet(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin) as visit:
        page = visit("/health/live")
        held = visit_without_rest(page, server)
        for selector in ("#open-settings", "#stats", "#diagnostics", "#history"):
            assert page.locator(selector).evaluate("(one) => one.inert"), selector
        page.keyboard.press("?")  # the help is there at once
        expect(page.locator("#help")).to_be_visible()
        page.locator("#close-help").click()
        deliver(page, held)
        page.locator("#open-settings").click()
        expect(page.locator("#settings")).to_be_visible()


def test_a_page_that_cannot_be_loaded_whole_says_so(browser: Browser, server: Server) -> None:
    """Also when the button is pressed; reloading helps."""
    with visiting(browser, server.origin, forgiven=NOT_LOADED) as visit:
        page = visit("/health/live")
        page.route(REST, lambda route: route.abort())
        page.goto(server.origin + "/packet-voice")
        notice = page.locator(".notice[data-key=loading]")
        expect(notice).to_contain_text("Part of this page could not be loaded")
        page.locator("#talk").click()
        expect_phase(page, "idle")
        expect(notice).to_be_visible()
        page.unroute(REST)
        page.reload()
        page.locator("#open-settings").click()
        expect(page.locator("#settings")).to_be_visible()
        expect(notice).to_have_count(0)
