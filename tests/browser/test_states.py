"""Every state of the voice page in every look: no axe violations, no sideways scrolling, a button in view.

Each state is reached once, and looked at in each look: light, dark, forced colours, reduced motion on a small
phone, landscape, 200 % zoom (half the pixels at twice their density), and text twice as large.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, CDPSession, Page, Route, expect
from support.browser.actions import AT_WORK, expect_call_loaded, expect_phase, open_panel, start, stop
from support.browser.chromium import Visit, visiting
from support.browser.servers import Server, serving


@dataclass(frozen=True)
class Look:
    width: int = 1440
    height: int = 900
    density: int = 1
    has_touch: bool = False
    text_px: int = 16
    colours: str = "light"
    forced_colours: str = "none"
    motion: str = "no-preference"

    @property
    def media(self) -> dict[str, str]:
        return {
            "prefers-color-scheme": self.colours,
            "forced-colors": self.forced_colours,
            "prefers-reduced-motion": self.motion,
        }

    @property
    def as_seen(self) -> dict[str, Any]:
        """By the page."""
        text = f"{self.text_px}px"
        return {"media": self.media, "width": self.width, "density": self.density, "text": text}


LOOKS = {  # those that share the most beside each other
    "dark": Look(390, 844, has_touch=True, colours="dark"),
    "landscape": Look(844, 390, has_touch=True, colours="dark"),
    "forced colours": Look(1280, colours="dark", forced_colours="active"),
    "reduced motion": Look(320, 640, motion="reduce"),
    "zoomed": Look(640, 450, density=2),
    "large text": Look(text_px=32),
    "light": Look(),  # the last: the page is used in it
}
# One look at the page: wait until it has the size, the colours and the text that it was told to have, end the
# transitions of colours (between two neither's contrast holds), find problems and where the buttons are.
LOOK = """async ({ media, width, density, text, hasDialog }) => {
  const rem = width / parseFloat(text);
  const isWorn = () =>
    Object.entries(media).every(([name, value]) => matchMedia(`(${name}: ${value})`).matches) &&
    innerWidth === width && devicePixelRatio === density &&
    getComputedStyle(document.documentElement).fontSize === text &&
    matchMedia(`(max-width: ${rem}rem)`).matches && matchMedia(`(min-width: ${rem}rem)`).matches;
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  for (let frames = 0; !isWorn(); frames += 1) {
    if (frames === 1200) return { found: ["the page does not take this look"], places: null };
    await frame();
  }
  for (const one of document.getAnimations()) if (one.transitionProperty?.endsWith("color")) one.finish();
  await frame();
  const { violations } = await axe.run(document, { resultTypes: ["violations"], preload: false });
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(", ")}`);
  const { scrollWidth } = document.documentElement;
  if (scrollWidth > innerWidth) found.push(`scrolls sideways: ${scrollWidth} px`);
  const talk = document.getElementById("talk");
  if (talk === null || hasDialog) return { found, places: null };
  scrollTo(0, 0);
  const middle = ({ left, top, width, height }) => [left + width / 2, top + height / 2];
  const hit = document.elementFromPoint(...middle(talk.getBoundingClientRect()));
  if (hit === null || !talk.contains(hit)) found.push("the call button is covered, or not in view");
  const buttons = ["talk", "mute", "record"].map((id) => document.getElementById(id));
  return { found, places: buttons.map((button) => middle(button.getBoundingClientRect())[1]) };
}"""
# The empty page before the first one has no devices.
NEVER_ASKED = "(navigator.mediaDevices ?? {}).getUserMedia = () => new Promise(() => {});"
DENIED = """(navigator.mediaDevices ?? {}).getUserMedia = async () => {
  throw new DOMException("denied", "NotAllowedError");
};"""
BAR_HEIGHTS = """() => ["Ready", "Connected", "Token required"].flatMap((state) =>
  ["tiny", "a model with a very long name, and more of it"].map((model) => {
    document.getElementById("server-label").textContent = state;
    document.getElementById("model").textContent = model;
    return document.querySelector(".bar").getBoundingClientRect().height;
  }))"""
ROUNDING_PX = 0.5  # lines of text are not whole pixels high


@pytest.fixture
def server() -> Iterator[Server]:
    options = ("lanes.max=1", "lanes.admit=1", "lanes.queue=1", "heartbeat.timeout_s=30", "drain_s=20")
    with serving(*options, program=("-m", "tests.support.put_back_server")) as started:
        yield started


class Survey:
    """The problems of each state in each look, and where the buttons were in it."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self.places: dict[str, dict[str, list[float]]] = {name: {} for name in LOOKS}
        self._devtools: dict[Page, CDPSession] = {}
        self._worn: dict[Page, Look] = {}

    def look(self, state: str, page: Page, *, has_dialog: bool = False) -> None:
        page.bring_to_front()
        if not page.evaluate("'axe' in globalThis"):
            page.evaluate(AXE_SCRIPT)
        for name, look in LOOKS.items():
            self._wear(page, look)
            seen = page.evaluate(LOOK, {**look.as_seen, "hasDialog": has_dialog})
            self.found[f"{state}, {name}"] = seen["found"]
            if seen["places"] is not None:
                self.places[name][state] = seen["places"]

    def _wear(self, page: Page, look: Look) -> None:
        """As Playwright's contexts do, which keep the look that they were made with."""
        if page not in self._devtools:
            self._devtools[page] = page.context.new_cdp_session(page)
        send: Callable[[str, dict[str, Any]], object] = self._devtools[page].send
        worn, self._worn[page] = self._worn.get(page), look
        size = {"width": look.width, "height": look.height, "deviceScaleFactor": look.density}
        features = [{"name": name, "value": value} for name, value in look.media.items()]
        send("Emulation.setDeviceMetricsOverride", {**size, "mobile": False})
        if worn is None or worn.has_touch != look.has_touch:
            send("Emulation.setTouchEmulationEnabled", {"enabled": look.has_touch})
        if worn is None or worn.media != look.media:
            send("Emulation.setEmulatedMedia", {"features": features})
        if worn is None or worn.text_px != look.text_px:
            send("Page.setFontSizes", {"fontSizes": {"standard": look.text_px}})

    def check(self) -> None:
        assert {state: found for state, found in self.found.items() if found} == {}
        moved = {
            f"{state}, {name}": (place, places["talking"])
            for name, places in self.places.items()
            for state, place in places.items()
            if any(
                abs(y - talking) > ROUNDING_PX for y, talking in zip(place, places["talking"], strict=True)
            )
        }
        assert moved == {}


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
    expect(page.locator("#call-status")).to_have_text(AT_WORK, timeout=20_000)
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
    expect_call_loaded(page)
    server.freeze()
    page.locator("#talk").click()
    expect_phase(page, "connecting")
    survey.look("connecting", page)
    server.thaw()
    expect_phase(page, "live")
    stop(page)
    health = server.health()
    for state, change, shown in (
        (
            "too slow",
            {"capacity": {"sessions": 0, "advice": "Use a smaller model. " * 4}},
            "[data-key=capacity]",
        ),
        ("loading", {"status": "not_ready", "model": None}, "#server[data-state=not_ready]"),
        ("draining", {"status": "draining"}, "#server[data-state=draining]"),
    ):
        page.route("**/health", answering({**health, **change}))
        page.reload()
        expect(page.locator(shown)).to_be_visible()  # with the first answer after the one in the page
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


def test_every_state_is_accessible_in_every_look(browser: Browser, server: Server) -> None:
    survey = Survey()

    def visiting_with(script: str | None = None) -> Any:
        # axe is injected from outside, which the page's content security policy forbids.
        return visiting(browser, server.origin, script=script, bypass_csp=True, forgiven=FORGIVEN)

    with visiting_with() as visit, visiting_with(DENIED) as denied, visiting_with(NEVER_ASKED) as asked:
        page = idle_and_talking(survey, visit)
        full_and_queued(survey, visit)
        silent_and_paused(survey, server, page)
        before_a_call(survey, server, visit, denied, asked)
        gone(survey, server, visit)
        survey.check()


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


@pytest.mark.parametrize("width", [320, 390, 640, 768, 1024, 1440])
def test_the_bar_has_one_line_whatever_it_says(browser: Browser, server: Server, width: int) -> None:
    """Long states and names of models move nothing below it and make nothing wider, in any size of text."""
    with visiting(browser, server.origin, viewport={"width": width, "height": 800}) as visit:
        page = visit()
        expect(page.locator("#model")).to_be_visible()
        devtools = page.context.new_cdp_session(page)
        for text_px in (16, 32):
            devtools.send("Page.setFontSizes", {"fontSizes": {"standard": text_px}})
            page.wait_for_function(
                "(size) => getComputedStyle(document.documentElement).fontSize === size", arg=f"{text_px}px"
            )
            heights = page.evaluate(BAR_HEIGHTS)
            assert len(set(heights)) == 1, (text_px, heights)
            assert page.locator(".bar").evaluate("(bar) => bar.scrollWidth <= innerWidth"), text_px
