"""Every state of the voice page in every look: no axe violations, no sideways scrolling, a button in view.

Looks: light, dark, forced colours, reduced motion on a small phone, landscape, 200 % zoom (half the pixels
at twice their density), and a browser whose text is twice as large.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, Route, expect
from support.browser.actions import expect_phase, open_panel, start, stop
from support.browser.chromium import MICROPHONE, Visit, launch, visiting
from support.browser.servers import Server, serving

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "has_touch": True},
    "forced-colours": {"color_scheme": "dark", "forced_colors": "active"},
    "reduced-motion": {"reduced_motion": "reduce", "viewport": {"width": 320, "height": 640}},
    "landscape": {"color_scheme": "dark", "viewport": {"width": 844, "height": 390}, "has_touch": True},
    "zoomed": {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},
}
LARGE_TEXT = "--blink-settings=defaultFontSize=32,defaultFixedFontSize=26"
# The empty page before the first one has no devices.
NEVER_ASKED = "(navigator.mediaDevices ?? {}).getUserMedia = () => new Promise(() => {});"
DENIED = """(navigator.mediaDevices ?? {}).getUserMedia = async () => {
  throw new DOMException("denied", "NotAllowedError");
};"""
COVERED = """() => {
  const talk = document.getElementById("talk");
  const { left, top, width, height } = talk.getBoundingClientRect();
  const hit = document.elementFromPoint(left + width / 2, top + height / 2);
  return hit === null || !talk.contains(hit);
}"""

PLACES = """() => ["talk", "mute", "record"].map((id) => {
  const { top, height } = document.getElementById(id).getBoundingClientRect();
  return Math.round(top + height / 2);
})"""


@pytest.fixture
def server() -> Iterator[Server]:
    options = ("lanes.max=1", "lanes.admit=1", "lanes.queue=1", "heartbeat.timeout_s=30", "drain_s=20")
    with serving(*options, program=("-m", "tests.support.put_back_server")) as started:
        yield started


def problems(page: Page, *, has_dialog: bool = False) -> list[str]:
    found = [
        f"{one['id']}: {[node['html'] for node in one['nodes']]}"
        for one in Axe().run(page).response["violations"]
    ]
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        found.append(f"scrolls sideways: {page.evaluate('document.documentElement.scrollWidth')} px")
    if page.locator("#talk").count() and not has_dialog:
        page.evaluate("scrollTo(0, 0)")
        if page.evaluate(COVERED):
            found.append("the call button is covered, or not in view")
    return found


class Survey:
    """The problems of each state that was looked at, and where the buttons were in it."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self.places: dict[str, list[float]] = {}

    def look(self, state: str, page: Page, *, has_dialog: bool = False) -> None:
        page.bring_to_front()
        self.found[state] = problems(page, has_dialog=has_dialog)
        if page.locator("#talk").count() and not has_dialog:
            self.places[state] = page.evaluate(PLACES)

    def check(self) -> None:
        assert {state: found for state, found in self.found.items() if found} == {}
        usual = self.places["talking"]
        assert {state: place for state, place in self.places.items() if place != usual} == {}


def idle_and_talking(survey: Survey, visit: Visit) -> Page:
    survey.look("landing", visit("/"))
    survey.look("transcription", visit("/whisperx"))
    survey.look("error page", visit("/nothing-here"))
    page = visit()
    expect(page.locator("#server-label")).to_have_text("Ready")
    expect(page.locator(".notice[data-key=untrained]")).to_be_visible()
    survey.look("idle with a notice", page)
    start(page)
    page.wait_for_function("() => document.querySelector('#lines .agent p')?.textContent.length > 5")
    survey.look("talking", page)
    page.locator("#mute").click()
    survey.look("muted", page)
    page.locator("#mute").click()
    for panel in ("stats", "diagnostics", "history"):
        open_panel(page, panel)
        survey.look(f"{panel} open", page)
    page.locator("#record").click()
    page.wait_for_function("() => document.getElementById('record-time').textContent > '0:00'")
    survey.look("recording", page)
    page.locator("#record").click()
    survey.look("a recording to save", page)
    for dialog in ("settings", "help"):
        page.locator(f"#open-{dialog}").click()
        survey.look(dialog, page, has_dialog=True)
        page.locator(f"#close-{dialog}").click()
    return page


def full_and_queued(survey: Survey, visit: Visit) -> None:
    """While another page talks."""
    queued, rejected = visit(), visit()
    queued.bring_to_front()
    expect(queued.locator("#server-label")).to_have_text("Full", timeout=15_000)
    survey.look("full", queued)
    queued.locator("#talk").click()
    expect_phase(queued, "queued")
    survey.look("queued", queued)
    rejected.bring_to_front()
    rejected.locator("#talk").click()
    expect(rejected.locator(".notice[data-key=refusal]")).to_be_visible(timeout=20_000)
    survey.look("queue full", rejected)
    stop(rejected)
    queued.bring_to_front()
    stop(queued)
    queued.close()
    rejected.close()


def silent_and_paused(survey: Survey, server: Server, page: Page) -> None:
    page.bring_to_front()
    server.freeze()
    expect(page.locator("#call-status")).to_contain_text("No response from the server", timeout=20_000)
    survey.look("not responding", page)
    server.thaw()
    expect(page.locator("#call-status")).to_contain_text("Listening", timeout=20_000)
    server.put_back()
    expect_phase(page, "paused")
    survey.look("paused", page)
    server.let_run()
    expect_phase(page, "live")
    stop(page)
    survey.look("ended", page)


def answering(content: dict[str, object]) -> Callable[[Route], None]:
    return lambda route: route.fulfill(json=content)


def before_a_call(
    survey: Survey, server: Server, visit: Visit, visit_denied: Visit, visit_asked: Visit
) -> None:
    denied, asked, page = visit_denied(), visit_asked(), visit()
    for one, phase in ((denied, "idle"), (asked, "opening")):
        one.bring_to_front()
        one.locator("#talk").click()
        expect_phase(one, phase)
    expect(denied.locator(".notice[data-key=audio]")).to_be_visible()
    survey.look("permission denied", denied)
    survey.look("asking for permission", asked)
    page.bring_to_front()
    server.freeze()
    page.locator("#talk").click()
    expect_phase(page, "connecting")
    survey.look("connecting", page)
    server.thaw()
    expect_phase(page, "live")
    stop(page)
    health = server.health()
    for state, change in {
        "too slow": {"capacity": {"sessions": 0, "advice": "Use a smaller model. " * 4}},
        "loading": {"status": "not_ready", "model": None},
        "draining": {"status": "draining"},
    }.items():
        page.route("**/health", answering({**health, **change}))
        page.reload()
        page.wait_for_function("() => document.getElementById('server-label').textContent !== 'Connecting…'")
        survey.look(state, page)
        page.unroute("**/health")


def gone(survey: Survey, server: Server, visit: Visit) -> None:
    page = visit()
    start(page)
    server.kill()
    expect_phase(page, "lost")
    survey.look("reconnecting", page)
    page.locator("#talk").click()
    expect(page.locator("#server-label")).to_have_text("Offline", timeout=20_000)
    survey.look("offline", page)


FORGIVEN = ("404", "No available adapters", "net::ERR", "Failed to load resource")


def survey_all(browser: Browser, server: Server, look: dict[str, Any]) -> None:
    survey = Survey()

    def visiting_with(script: str | None = None) -> Any:
        # axe is injected from outside, which the page's content security policy forbids.
        return visiting(browser, server.origin, script=script, bypass_csp=True, forgiven=FORGIVEN, **look)

    with visiting_with() as visit, visiting_with(DENIED) as denied, visiting_with(NEVER_ASKED) as asked:
        page = idle_and_talking(survey, visit)
        full_and_queued(survey, visit)
        silent_and_paused(survey, server, page)
        before_a_call(survey, server, visit, denied, asked)
        gone(survey, server, visit)
        survey.check()


@pytest.mark.parametrize("look", LOOKS)
def test_every_state_is_accessible(browser: Browser, server: Server, look: str) -> None:
    survey_all(browser, server, LOOKS[look])


def test_every_state_is_accessible_with_large_text(playwright: Playwright, server: Server) -> None:
    """The browser's text size is respected, not only its zoom."""
    browser = launch(playwright, *MICROPHONE, LARGE_TEXT)
    try:
        with visiting(browser, server.origin) as visit:
            assert visit().evaluate("getComputedStyle(document.documentElement).fontSize") == "32px"
        survey_all(browser, server, LOOKS["light"])
    finally:
        browser.close()


def test_with_reduced_motion_nothing_moves(browser: Browser, server: Server) -> None:
    """No animation or transition runs: while it connects, talks, and after it."""
    moving: Callable[[Page], int] = lambda page: page.evaluate("document.getAnimations().length")  # noqa: E731
    with visiting(browser, server.origin, reduced_motion="reduce", forgiven=FORGIVEN) as visit:
        page = visit()
        page.locator("#talk").click()
        assert moving(page) == 0
        expect_phase(page, "live")
        assert moving(page) == 0
        assert page.evaluate("getComputedStyle(document.querySelector('.agent-ring')).transform") == "none"
        server.kill()
        expect_phase(page, "lost")
        assert moving(page) == 0
        page.locator("#talk").click()


def test_in_forced_colours_states_are_told_by_more_than_colour(browser: Browser, server: Server) -> None:
    """Pressed buttons have the system's highlight; the checks have words for their icons."""
    with visiting(browser, server.origin, forced_colors="active") as visit:
        page = visit()
        start(page)
        page.locator("#mute").click()
        colour = "(id) => getComputedStyle(document.getElementById(id)).backgroundColor"
        assert page.evaluate(colour, "mute") != page.evaluate(colour, "record")
        open_panel(page, "diagnostics")
        expect(page.locator("#checks .icon").first).to_have_attribute("aria-label", "Warning")
        stop(page)
