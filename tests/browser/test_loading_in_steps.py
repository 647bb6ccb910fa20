"""The voice page loads what is shown first, then what a call needs, and panels when they are opened."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect
from support.browser.actions import expect_call_loaded, expect_phase, open_panel, start, stop
from support.browser.chromium import Visit, visiting
from support.browser.servers import Server, serving

CALL = "**/voice/call.js"
WORKER = "**/connection-worker.js"
NOT_LOADED = ("Failed to fetch dynamically imported module", "Failed to load resource", "net::ERR_FAILED")
# What the page has asked for at the moment when it first shows that the server is ready.
AT_READY = """
new MutationObserver(() => {
  if (document.getElementById("server")?.dataset.state !== "ready") return;
  globalThis.atReadyElements ??= document.querySelectorAll("*").length;
  globalThis.atReady ??= performance.getEntriesByType("resource").map(({ name }) => name);
}).observe(document, { subtree: true, attributeFilter: ["data-state"] });
"""
FIRST_REQUESTS = 36  # 75ae221 had 40
FIRST_MODULES = 32
FIRST_ELEMENTS = 350  # with those of the settings and the statistics there were 456
PANELS = {
    "open-settings": "ui/settings-dialog.js",
    "diagnostics": "ui/diagnostics-panel.js",
    "history": "ui/history.js",
    "record": "ui/recording.js",
}


def is_prefetch(request: Request) -> bool:
    """Whether it only fills the cache: a notice that a slow machine asks for needs the same files at once."""
    return request.headers.get("sec-purpose") == "prefetch"


def hold(page: Page, pattern: str, *, only: Callable[[Request], bool] = lambda _: True) -> list[Route]:
    """The requests for these files, which are not answered."""
    held: list[Route] = []

    def on_request(route: Route) -> None:
        if only(route.request):
            held.append(route)
        else:
            route.continue_()

    page.route(pattern, on_request)
    return held


def visit_holding(page: Page, server: Server, pattern: str) -> list[Route]:
    """Visit the page without this part of it."""
    held = hold(page, pattern)
    page.goto(server.origin + "/packet-voice", wait_until="commit")
    expect(page.locator("#server-label")).to_have_text("Ready")
    return held


def later_names(page: Page, server: Server) -> list[str]:
    """The files that the page has fetched into the cache, in their order."""
    document = page.request.get(server.origin + "/packet-voice").text()
    (names,) = re.findall(r'<meta name="later" content="([^"]+)">', document)
    return str(names).split()


def until_held(page: Page, held: list[Route]) -> None:
    while not held:
        page.wait_for_timeout(20)


def deliver(page: Page, held: list[Route], pattern: str) -> None:
    until_held(page, held)
    for route in held:
        route.continue_()
    page.unroute(pattern)


def evaluated(page: Page) -> set[str]:
    """The modules that the page runs or has been told to run soon, not those that are only fetched."""
    names = page.evaluate(
        """() => performance.getEntriesByType("resource")
          .filter(({ initiatorType }) => initiatorType === "script" || initiatorType === "other")
          .map(({ name }) => name)"""
    )
    return {urlsplit(name).path.split("/", 3)[3] for name in names if name.endswith(".js")}


def test_little_is_asked_for_before_the_page_is_ready(browser: Browser, server: Server) -> None:
    """The page brings the server's state along, and its modules at once: nothing waits for an answer."""
    with visiting(browser, server.origin, script=AT_READY) as visit:
        page = visit()
        page.wait_for_function("() => globalThis.atReady !== undefined")
        asked = [urlsplit(name).path for name in page.evaluate("atReady")]
        elements = page.evaluate("atReadyElements")
        document = page.content()
    preloaded = re.findall(r'rel="modulepreload" href="\.(/[^"]+)"', document)
    soon = re.findall(r'(?:fetchpriority="low"|rel="prefetch") href="\.(/[^"]+)"', document)
    asked = [path for path in asked if path not in soon]  # those only if the browser had the time
    modules = [path for path in asked if path.endswith(".js")]
    assert "/health" not in asked
    assert {path for path in modules if not path.endswith("/main.js")} <= set(
        preloaded
    )  # a chain of two requests
    assert len(modules) <= FIRST_MODULES
    assert len(asked) <= FIRST_REQUESTS
    assert elements <= FIRST_ELEMENTS


def test_what_is_drawn_during_a_call_is_not_painted_twice(visit: Visit) -> None:
    """Only the page itself is a layer of its size: what lies around a canvas needs no second one."""
    page = visit()
    open_panel(page, "stats")
    start(page)
    layers: list[dict[str, float]] = []
    session = page.context.new_cdp_session(page)
    session.on("LayerTree.layerTreeDidChange", lambda event: layers.extend(event.get("layers", [])))
    session.send("DOM.enable")
    session.send("LayerTree.enable")
    while not any(layer["drawsContent"] for layer in layers):
        page.wait_for_timeout(20)
    areas = {one["layerId"]: one["width"] * one["height"] for one in layers if one["drawsContent"]}
    largest = sorted(areas.values())
    assert sum(largest[:-1]) < largest[-1] / 4
    stop(page)


def test_a_call_can_be_started_at_once(browser: Browser, server: Server) -> None:
    """It begins when what it needs has arrived, and its panels know all that happened until then."""
    with visiting(browser, server.origin) as visit:
        page = visit("/health/live")
        held = visit_holding(page, server, CALL)
        page.locator("#talk").click()
        expect_phase(page, "opening")
        deliver(page, held, CALL)
        expect_phase(page, "live")
        open_panel(page, "stats")
        expect(page.locator("#stat-server-status")).to_contain_text("ready")
        page.locator("#open-settings").click()
        expect(page.locator("#settings")).to_be_visible()
        page.locator("#close-settings").click()
        stop(page)


def test_nothing_is_fetched_for_later_while_a_call_is_started(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin) as visit:
        page = visit("/health/live")
        first, *_ = later = later_names(page, server)
        held_first = hold(page, f"**/{first}", only=is_prefetch)
        held = visit_holding(page, server, WORKER)
        until_held(page, held_first)
        prefetched: list[str] = []

        def on_request(request: Request) -> None:
            if is_prefetch(request):
                prefetched.append(urlsplit(request.url).path.split("/", 3)[-1])

        page.on("request", on_request)
        page.locator("#talk").click()
        expect_phase(page, "opening")
        deliver(page, held_first, f"**/{first}")
        expect(page.locator(f"link[href$='{first}']")).to_have_count(0)
        assert not {name for name in later if page.locator(f"link[rel=prefetch][href$='{name}']").count()}
        assert not prefetched
        deliver(page, held, WORKER)
        expect_phase(page, "live")
        expect_call_loaded(page)
        assert prefetched == later[1:]
        stop(page)


def test_panels_are_loaded_when_they_are_opened(visit: Visit) -> None:
    """A call needs none of them."""
    page = visit()
    expect_call_loaded(page)
    start(page)
    loaded = evaluated(page)
    assert "voice/main.js" in loaded
    assert not {f"voice/{name}" for name in PANELS.values()} & loaded
    assert "voice/captions/whisper-captions.js" not in loaded
    stop(page)


@pytest.mark.parametrize("name", ["settings-dialog", "diagnostics-panel"])
def test_whatever_is_pressed_before_it_is_loaded_happens_then(
    browser: Browser, server: Server, name: str
) -> None:
    pattern = f"**/{name}.js"
    with visiting(browser, server.origin) as visit:
        page = visit("/health/live")
        held = visit_holding(page, server, pattern)
        page.keyboard.press("?")  # the help is there at once
        expect(page.locator("#help")).to_be_visible()
        page.locator("#close-help").click()
        if name == "settings-dialog":
            page.locator("#open-settings").click()
            deliver(page, held, pattern)
            expect(page.locator("#settings")).to_be_visible()
            return
        open_panel(page, "diagnostics")
        assert page.locator("#audio-test").evaluate("(one) => one.closest('[inert]') !== null")
        deliver(page, held, pattern)
        expect(page.locator("#checks li")).to_have_count(5)
        assert page.locator("#audio-test").evaluate("(one) => one.closest('[inert]') === null")


def test_captions_that_are_chosen_before_they_are_loaded_are_prepared_then(
    browser: Browser, server: Server
) -> None:
    pattern = "**/captions/captions.js"
    with visiting(browser, server.origin, forgiven=("Failed to load resource",)) as visit:
        page = visit("/health/live")
        held = visit_holding(page, server, pattern)
        page.locator("#open-settings").click()
        page.get_by_label("Captions").select_option("whisper")
        state = page.locator("#captions-state")
        before = state.inner_text()
        deliver(page, held, pattern)
        expect(state).not_to_have_text(before)


def test_panels_and_notices_open_although_the_server_has_gone(browser: Browser) -> None:
    """They were fetched when nothing else was to be done."""
    with serving() as own, visiting(browser, own.origin) as visit:
        page = visit()
        expect_call_loaded(page)
        own.kill()
        expect(page.locator("#server[data-state=unreachable]")).to_be_visible()
        expect(page.locator(".notice[data-key=health]")).to_contain_text("Cannot reach the server")
        open_panel(page, "diagnostics")
        expect(page.locator("#checks li")).to_have_count(5)
        page.locator("#open-settings").click()
        expect(page.locator("#settings")).to_be_visible()


def test_a_page_that_cannot_be_loaded_whole_says_so(browser: Browser, server: Server) -> None:
    """Also when the button is pressed; reloading helps."""
    with visiting(browser, server.origin, forgiven=NOT_LOADED) as visit:
        page = visit("/health/live")
        page.route(CALL, lambda route: route.abort())
        page.goto(server.origin + "/packet-voice")
        notice = page.locator(".notice[data-key=loading]")
        expect(notice).to_contain_text("Part of this page could not be loaded")
        page.locator("#talk").click()
        expect_phase(page, "idle")
        expect(notice).to_be_visible()
        page.unroute(CALL)
        page.reload()
        page.locator("#open-settings").click()
        expect(page.locator("#settings")).to_be_visible()
        expect(notice).to_have_count(0)
