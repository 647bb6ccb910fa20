"""What the user says in a conversation is written down in the browser, shown, and told to the server."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser.acts import expect_phase, figure, open_panel, start, stop
from support.browser.visitors import Visit, visiting
from support.browser.whispering import Whispering, whispering

WORDS_MS = 60_000
FORGIVEN = ("No available adapters", "Failed to load resource")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whispering]:
    with whispering(tmp_path_factory.mktemp("proxy")) as started:
        yield started


@pytest.fixture
def visit(browser: Browser, rig: Whispering) -> Iterator[Visit]:
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as opened:
        yield opened


def received(rig: Whispering) -> dict[str, int]:
    """The server's counters of packets that came, by type."""
    metrics: Any = rig.server.health()["metrics"]
    return dict(metrics["packets"]["received"])


def choose(page: Page, writer: str) -> None:
    page.locator("#open-settings").click()
    page.get_by_label("Written down by").select_option(writer)


def test_the_users_words_stand_beside_the_agents_and_reach_the_server(rig: Whispering, visit: Visit) -> None:
    """Partials as one speaks, finals acknowledged; the last words go ahead of the goodbye."""
    page = visit()
    choose(page, "whisper")
    expect(page.locator("#words-state")).to_contain_text("Whisper tiny listens along", timeout=WORDS_MS)
    page.locator("#close-settings").click()
    open_panel(page, "status")
    assert figure(page, "words") == "–"
    start(page)
    yours = page.locator("#lines .user p")
    expect(yours.first).to_contain_text(re.compile("[a-z]+"), timeout=WORDS_MS)
    expect(page.locator("#lines .agent p").first).not_to_be_empty()
    expect(page.locator("#fig-words")).to_contain_text(re.compile("^[1-9]"), timeout=WORDS_MS)
    stop(page)
    expect(page.locator("#lines .user.open")).to_have_count(0)
    counted = received(rig)
    assert counted["text_partial"] > 0
    assert counted["text_final"] > 0
    assert counted["audio_chunk"] > 0
    metrics: Any = rig.server.health()["metrics"]
    assert metrics["packets"]["ignored"] == {}


def test_finals_are_acknowledged_and_nothing_is_sent_once_it_is_off(rig: Whispering, visit: Visit) -> None:
    """The page counts the server's ACKs; switched off in the middle, the conversation goes on without."""
    page = visit()
    choose(page, "whisper")
    expect(page.locator("#words-state")).to_contain_text("listens along", timeout=WORDS_MS)
    page.locator("#close-settings").click()
    open_panel(page, "status")
    start(page)
    expect(page.locator("#lines .user p").first).to_be_visible(timeout=WORDS_MS)
    choose(page, "off")  # what was open is closed as it stands
    expect(page.locator("#lines .user.open")).to_have_count(0)
    page.locator("#close-settings").click()
    expect(page.locator("#fig-words")).to_contain_text(re.compile(", [1-9]\\d* acknowledged"))
    said = figure(page, "words").split(",")[0]
    before = received(rig)["text_final"]
    frames = received(rig)["audio_chunk"]
    while received(rig)["audio_chunk"] < frames + 25:
        pass
    assert received(rig)["text_final"] == before
    assert figure(page, "words").split(",")[0] == said
    expect_phase(page, "live")
    stop(page)


def test_without_its_files_whisper_says_so_and_the_conversation_goes_on(
    rig: Whispering, visit: Visit
) -> None:
    rig.hub.down = True
    page = visit()
    page.locator("#open-settings").click()
    page.locator("[name=wordsModel]").select_option("small")
    page.get_by_label("Written down by").select_option("whisper")
    expect(page.locator("#words-state")).to_contain_text("Not ready: ", timeout=WORDS_MS)
    page.locator("#close-settings").click()
    start(page)
    expect(page.locator("#lines .agent p").first).not_to_be_empty()
    stop(page)
    rig.hub.down = False
