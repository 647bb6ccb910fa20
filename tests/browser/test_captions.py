"""Captions of the user's speech: transcribed in the browser, shown, and sent to the server."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser.actions import expect_phase, open_panel, start, stat, stop
from support.browser.chromium import Visit, visiting
from support.browser.whisper_server import WhisperServer, serving_whisper

WORDS_MS = 60_000
FORGIVEN = ("No available adapters", "Failed to load resource")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperServer]:
    with serving_whisper(tmp_path_factory.mktemp("proxy")) as started:
        yield started


@pytest.fixture
def visit(browser: Browser, rig: WhisperServer) -> Iterator[Visit]:
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as opened:
        yield opened


def received(rig: WhisperServer) -> dict[str, int]:
    """The server's counters of received packets, by type."""
    metrics: Any = rig.server.health()["metrics"]
    return dict(metrics["packets"]["received"])


def select_captions(page: Page, value: str) -> None:
    page.locator("#open-settings").click()
    page.get_by_label("Captions").select_option(value)


def test_captions_are_shown_and_reach_the_server(rig: WhisperServer, visit: Visit) -> None:
    """Partial captions while speaking, then final ones; the last one is sent before `bye`."""
    page = visit()
    select_captions(page, "whisper")
    expect(page.locator("#captions-state")).to_contain_text("Whisper tiny is ready", timeout=WORDS_MS)
    page.locator("#close-settings").click()
    open_panel(page, "stats")
    assert stat(page, "captions") == "–"
    start(page)
    yours = page.locator("#lines .user p")
    expect(yours.first).to_contain_text(re.compile("[a-z]+"), timeout=WORDS_MS)
    expect(page.locator("#lines .agent p").first).not_to_be_empty()
    expect(page.locator("#stat-captions")).to_contain_text(re.compile("^[1-9]"), timeout=WORDS_MS)
    stop(page)
    expect(page.locator("#lines .user.open")).to_have_count(0)
    counted = received(rig)
    assert counted["text_partial"] > 0
    assert counted["text_final"] > 0
    assert counted["audio_chunk"] > 0
    metrics: Any = rig.server.health()["metrics"]
    assert metrics["packets"]["ignored"] == {}


def test_final_captions_are_acknowledged_and_none_is_sent_after_switching_off(
    rig: WhisperServer, visit: Visit
) -> None:
    """The page counts the server's ACKs; the conversation continues without captions."""
    page = visit()
    select_captions(page, "whisper")
    expect(page.locator("#captions-state")).to_contain_text("is ready", timeout=WORDS_MS)
    page.locator("#close-settings").click()
    open_panel(page, "stats")
    start(page)
    expect(page.locator("#lines .user p").first).to_be_visible(timeout=WORDS_MS)
    select_captions(page, "off")  # the open caption becomes final
    expect(page.locator("#lines .user.open")).to_have_count(0)
    page.locator("#close-settings").click()
    expect(page.locator("#stat-captions")).to_contain_text(re.compile(", [1-9]\\d* acknowledged"))
    sent = stat(page, "captions").split(",")[0]
    before = received(rig)["text_final"]
    frames = received(rig)["audio_chunk"]
    while received(rig)["audio_chunk"] < frames + 25:
        pass
    assert received(rig)["text_final"] == before
    assert stat(page, "captions").split(",")[0] == sent
    expect_phase(page, "live")
    stop(page)


def test_a_model_that_cannot_be_downloaded_is_reported_and_the_conversation_continues(
    rig: WhisperServer, visit: Visit
) -> None:
    rig.hub.down = True
    page = visit()
    page.locator("#open-settings").click()
    page.locator("[name=captionsModel]").select_option("small")
    page.get_by_label("Captions").select_option("whisper")
    expect(page.locator("#captions-state")).to_contain_text("cannot download the model", timeout=WORDS_MS)
    page.locator("#close-settings").click()
    start(page)
    expect(page.locator(".notice[data-key=captions]")).to_contain_text("cannot download the model")
    expect(page.locator("#lines .agent p").first).not_to_be_empty()
    stop(page)
    rig.hub.down = False


def test_captions_are_on_by_default_once_a_model_is_stored(visit: Visit) -> None:
    page = visit("/whisperx")
    page.locator("#load").click()
    expect(page.locator("#model-state")).to_contain_text("Ready", timeout=WORDS_MS)
    page.goto(page.url.replace("/whisperx", "/packet-voice"))
    start(page)
    expect(page.locator("#lines .user p").first).to_contain_text(re.compile("[A-Za-z]+"), timeout=WORDS_MS)
    stop(page)
