"""The page's voice and role: chosen before a call, had by the session, remembered; absent without voices."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from support.browser.actions import expect_phase, open_panel, start, stop, until_played
from support.browser.chromium import visiting
from support.browser.servers import Server, serving
from support.personas import write_persona_folder

LOW_PX = 480
FIVE_LINES_PX = 5 * 24
NO_MICROPHONE = """(navigator.mediaDevices ?? {}).getUserMedia = () => {
  throw new Error("it was asked for");
};"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    homes = {name: str(tmp_path_factory.mktemp("home")) for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME")}
    folder = write_persona_folder(tmp_path_factory.mktemp("persona"))
    with serving("lanes.max=2", config=folder, environment=homes) as server:
        yield server


def choose(page: Page, voice: str, role: str) -> None:
    expect(page.locator("#persona")).to_be_visible()
    page.get_by_label("Voice", exact=True).select_option(voice)
    page.get_by_label("Role", exact=True).fill(role)
    page.get_by_label("Role", exact=True).blur()


def test_a_call_has_the_chosen_voice_and_role(browser: Browser, server: Server) -> None:
    """Shown during the call; remembered for the next visit."""
    with visiting(browser, server.origin) as visit:
        page = visit()
        choose(page, "NATF0", "be kind")
        open_panel(page, "stats")
        start(page)
        expect(page.locator("#persona-current")).to_have_text(
            "Voice: Natural, female 1 (NATF0) · Role: be kind"
        )
        expect(page.locator("#persona-form")).to_be_hidden()
        until_played(page, 5)
        stop(page)
        page.reload()
        expect(page.get_by_label("Voice", exact=True)).to_have_value("NATF0")
        expect(page.get_by_label("Role", exact=True)).to_have_value("be kind")


def test_a_phone_shows_both_during_a_call(browser: Browser, server: Server) -> None:
    """Within its width."""
    with visiting(browser, server.origin, viewport={"width": 320, "height": 844}) as visit:
        page = visit()
        role = "be kind be kind"
        page.evaluate(
            f"localStorage.setItem('packet-voice', JSON.stringify({{voice: 'NATF0', role: '{role}'}}))"
        )
        page.reload()
        open_panel(page, "stats")
        start(page)
        current = page.locator("#persona-current")
        expect(current).to_contain_text("NATF0")
        expect(current).to_contain_text(role)
        assert current.evaluate("line => line.scrollWidth <= line.clientWidth && line.clientWidth <= 320")
        until_played(page, 5)
        stop(page)


def test_an_impossible_role_is_told_and_the_call_goes_on(browser: Browser, server: Server) -> None:
    """Without it."""
    with visiting(browser, server.origin) as visit:
        page = visit()
        choose(page, "", "be kind " * 60)
        open_panel(page, "stats")
        start(page)
        expect(page.locator("#persona-current")).to_contain_text("shorten the role")
        until_played(page, 5)
        stop(page)


def test_an_example_fills_the_role(browser: Browser, server: Server) -> None:
    """And nothing of the panel is inaccessible or too wide for a phone."""
    with visiting(browser, server.origin, bypass_csp=True, viewport={"width": 320, "height": 844}) as visit:
        page = visit()
        page.locator("#persona-form > summary").click()
        page.get_by_role("button", name="Teacher").click()
        expect(page.get_by_label("Role", exact=True)).to_have_value(
            re.compile("^You are a wise and friendly teacher")
        )
        assert not Axe().run(page, "#persona").response["violations"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize(("width", "height"), [(320, 640), (390, 844), (844, 390), (640, 450), (1440, 900)])
def test_the_form_leaves_the_controls_where_they_are(
    browser: Browser, server: Server, width: int, height: int
) -> None:
    """Open or closed, with the longest role; nothing scrolls sideways.

    It scrolls where there is no room; in a low window the page does, and the transcript keeps its lines.
    """
    with visiting(browser, server.origin, viewport={"width": width, "height": height}) as visit:
        page = visit()
        form = page.locator("#persona-form")
        expect(form).to_be_visible()
        boxes = [page.locator(one).bounding_box() for one in ("#talk", "#mute", "#record")]
        if form.get_attribute("open") is None:
            page.locator("#persona-form > summary").click()
        page.get_by_role("button", name="Restaurant").click()
        page.evaluate("scrollTo(0, 0)")
        assert [page.locator(one).bounding_box() for one in ("#talk", "#mute", "#record")] == boxes
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        form_box, lines_box = form.bounding_box(), page.locator("#transcript").bounding_box()
        assert form_box is not None
        assert lines_box is not None
        if height < LOW_PX:
            assert lines_box["height"] >= FIVE_LINES_PX
        else:
            assert lines_box["y"] + lines_box["height"] <= height
        page.locator("#persona-listen").scroll_into_view_if_needed()
        page.locator("#persona-listen").click(trial=True)


def test_each_voice_can_be_listened_to(browser: Browser, server: Server) -> None:
    """The agent answers with the chosen voice and no role, without a microphone and without a transcript."""
    with visiting(browser, server.origin, script=NO_MICROPHONE) as visit:
        page = visit()
        choose(page, "NATF0", "be kind")
        open_panel(page, "stats")
        page.get_by_role("button", name="Listen").click()
        expect_phase(page, "live")
        expect(page.locator("#call-status")).to_contain_text("A sample of the voice")
        expect(page.locator("#persona-current")).to_have_text("Voice: Natural, female 1 (NATF0)")
        expect(page.locator("#mute")).to_be_disabled()
        expect(page.locator("#record")).to_be_disabled()
        until_played(page, 20)
        expect_phase(page, "idle")  # by itself, after the answer
        expect(page.get_by_role("button", name="Listen")).to_be_focused()
        expect(page.locator("#lines li")).to_have_count(0)
        expect(page.get_by_label("Role", exact=True)).to_have_value("be kind")
        page.get_by_role("button", name="Listen").click()
        expect(page.locator("#persona-listen")).to_have_text("Stop")
        page.locator("#persona-listen").click()
        expect_phase(page, "idle")


def test_a_model_without_voices_shows_no_chooser(browser: Browser, checkpoint: Path) -> None:
    """Nor does a choice made for another server matter."""
    with serving(config=checkpoint) as server, visiting(browser, server.origin) as visit:
        page = visit()
        page.evaluate(
            "localStorage.setItem('packet-voice', JSON.stringify({voice: 'NATF0', role: 'be kind'}))"
        )
        page.reload()
        expect(page.locator("#model")).to_be_visible()
        expect(page.locator("#persona")).to_be_hidden()
        open_panel(page, "stats")
        start(page)
        until_played(page, 5)
        stop(page)
