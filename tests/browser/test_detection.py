"""Voice detection is the user's choice; where its files are missing, it says so and the page goes on."""

import re

import pytest
from playwright.sync_api import Page, Route, expect
from support.browser.acts import open_panel, start, stop, until_played
from support.browser.visitors import Visit

from web.vendor import read_lock

INSTALLED = all(package.is_installed for package in read_lock())


def choose_detection(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Notice when I speak").check()
    page.get_by_role("button", name="Close the settings").click()


def without_vendored(route: Route) -> None:
    page = route.fetch()
    route.fulfill(response=page, body=re.sub(r'<link rel="vendored"[^>]*>', "", page.text()))


def test_without_its_files_the_toggle_refuses_and_the_page_goes_on(visit: Visit) -> None:
    page = visit("/health/live")
    page.route("**/packet-voice", without_vendored)
    page.goto(page.url.replace("/health/live", "/packet-voice"))
    open_panel(page, "status")
    choose_detection(page)
    start(page)
    expect(page.locator(".notice[data-key=vad]")).to_contain_text("python -m web.vendor")
    until_played(page, 10)
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Notice when I speak")).not_to_be_checked()
    page.get_by_role("button", name="Close the settings").click()
    stop(page)


@pytest.mark.skipif(not INSTALLED, reason="third-party files are not installed: python -m web.vendor")
def test_speech_is_noticed_and_the_agent_yields(visit: Visit) -> None:
    """The recording speaks: the detector hears it, the server is told, the agent turns down."""
    page = visit()
    open_panel(page, "silent")
    choose_detection(page)
    start(page)
    expect(page.locator("#voices[data-speaking=true]")).to_be_visible(timeout=30_000)
    expect(page.locator("#verdicts")).to_contain_text("Turned down, because you are speaking.")
    page.get_by_role("button", name="Settings").click()
    page.locator("select[name=barge]").select_option("flush")
    page.get_by_role("button", name="Close the settings").click()
    expect(page.locator("#agent-meter")).to_have_js_property("value", -60, timeout=20_000)
    page.get_by_role("button", name="Mute").click()  # silence, and the agent is heard again
    expect(page.locator("#agent-meter")).not_to_have_js_property("value", -60, timeout=20_000)
    expect(page.locator(".notice[data-key=server]")).to_have_count(0)
    stop(page)
