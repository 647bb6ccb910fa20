"""Voice activity detection: optional, and reported if its files are missing."""

import re

import pytest
from playwright.sync_api import Page, Route, expect
from support.browser.actions import open_panel, start, stop, until_played
from support.browser.chromium import Visit

from web.vendor import read_lock

INSTALLED = all(package.is_installed for package in read_lock())


def enable_vad(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Notice my speech").select_option("silero")
    page.get_by_role("button", name="Close settings").click()


def without_vendored(route: Route) -> None:
    page = route.fetch()
    route.fulfill(response=page, body=re.sub(r'<link rel="vendored"[^>]*>', "", page.text()))


def test_speech_is_noticed_by_its_level_without_a_worker(visit: Visit) -> None:
    """As shipped, switched off and on in a call."""
    page = visit()
    workers: list[str] = []
    page.on("worker", lambda worker: workers.append(worker.url))
    start(page)
    speaking = page.locator("#waveforms[data-speaking=true]")
    expect(speaking).to_be_visible(timeout=30_000)
    page.locator("#open-settings").click()
    page.locator("select[name=vad]").select_option("off")
    expect(speaking).to_have_count(0)
    page.locator("select[name=vad]").select_option("level")
    expect(speaking).to_be_visible(timeout=30_000)
    page.locator("#close-settings").click()
    stop(page)
    assert [url.rsplit("/", 1)[-1] for url in workers] == ["connection-worker.js"]


def test_without_its_files_the_level_decides_and_the_call_works(visit: Visit) -> None:
    page = visit("/health/live")
    page.route("**/packet-voice", without_vendored)
    page.goto(page.url.replace("/health/live", "/packet-voice"))
    open_panel(page, "stats")
    enable_vad(page)
    start(page)
    expect(page.locator(".notice[data-key=vad]")).to_contain_text("python -m web.vendor")
    until_played(page, 10)
    expect(page.locator("#waveforms[data-speaking=true]")).to_be_visible(timeout=30_000)
    stop(page)


@pytest.mark.skipif(not INSTALLED, reason="third-party files are not installed: python -m web.vendor")
def test_speech_is_detected_and_the_agent_is_turned_down(visit: Visit) -> None:
    """With recorded speech as the microphone; muted, the agent is audible again."""
    page = visit()
    open_panel(page, "diagnostics")
    enable_vad(page)
    start(page)
    expect(page.locator("#waveforms[data-speaking=true]")).to_be_visible(timeout=30_000)
    expect(page.locator("#checks")).to_contain_text("Turned down because you are speaking.")
    page.get_by_role("button", name="Settings").click()
    page.locator("select[name=bargeIn]").select_option("flush")
    page.get_by_role("button", name="Close settings").click()
    expect(page.locator("#agent-meter")).to_have_js_property("value", -60, timeout=20_000)
    page.get_by_role("button", name="Mute").click()  # silence: the agent is audible again
    expect(page.locator("#agent-meter")).not_to_have_js_property("value", -60, timeout=20_000)
    expect(page.locator(".notice[data-key=server]")).to_have_count(0)
    stop(page)
