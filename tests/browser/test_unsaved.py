"""Nothing that was said is lost by accident: recordings, transcripts, past conversations, on both pages."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect
from support.browser.actions import expect_phase, open_panel, start, stop
from support.browser.chromium import Visit, visiting
from support.browser.servers import Server
from support.browser.whisper_server import WhisperServer, serving_whisper

FULL_STORAGE = """
const setItem = Storage.prototype.setItem;
Storage.prototype.setItem = function (key, value) {
  if (key === "packet-voice-history") throw new DOMException("full", "QuotaExceededError");
  setItem.call(this, key, value);
};
"""
FORGIVEN = ("No available adapters", "Failed to load resource")


class Answers:
    """Answers the page's questions; `asked` has their types and words."""

    def __init__(self, page: Page, *, accept: bool = True) -> None:
        self.asked: list[tuple[str, str]] = []
        self.accept = accept
        page.on("dialog", self._answer)

    def _answer(self, dialog: Dialog) -> None:
        self.asked.append((dialog.type, dialog.message))
        if self.accept:
            dialog.accept()
        else:
            dialog.dismiss()


def until_text(page: Page) -> None:
    page.wait_for_function("() => document.querySelector('#lines .agent p')?.textContent.length > 5")


def record(page: Page) -> None:
    page.locator("#record").click()
    page.wait_for_function("() => document.getElementById('record-time').textContent > '0:00'")
    page.locator("#record").click()
    expect(page.locator("#recording")).to_be_visible()


def test_a_recording_is_not_replaced_without_asking(visit: Visit) -> None:
    """Declined, the old one is kept; saved, nothing is asked."""
    page = visit()
    start(page)
    record(page)
    kept = page.locator("#recording-summary").inner_text()
    answers = Answers(page, accept=False)
    page.locator("#record").click()
    assert [kind for kind, _ in answers.asked] == ["confirm"]
    expect(page.locator("#record")).to_have_text("Record")
    expect(page.locator("#recording-summary")).to_have_text(kept)
    with page.expect_download():
        page.get_by_role("button", name="Save audio").click()
    record(page)
    assert len(answers.asked) == 1
    answers.accept = True
    stop(page)


def test_a_recording_is_asked_for_before_the_conversation(visit: Visit) -> None:
    """It begins with it, and can be called off. What was saved as a file is not said to be lost."""
    page = visit()
    button = page.locator("#record")
    button.click()
    expect(button).to_have_text("Will record")
    button.click()
    expect(button).to_have_text("Record")
    button.click()
    start(page)
    expect(button).to_contain_text("Stop recording")
    until_text(page)
    stop(page)
    summary = page.locator("#recording-summary")
    expect(summary).to_contain_text("kept only in this page")
    with page.expect_download():
        page.get_by_role("button", name="Save audio").click()
    expect(summary).to_contain_text("saved as a file")
    with page.expect_download():
        page.get_by_role("button", name="Save as TXT").click()
    expect(page.locator("#keeping-text")).to_have_text("Saved as a file.")


def test_leaving_asks_first_while_a_recording_is_not_saved(visit: Visit) -> None:
    page = visit()
    start(page)
    record(page)
    stop(page)
    answers = Answers(page)
    page.evaluate("location.reload()")
    page.wait_for_load_state()
    expect(page.locator("#recording")).to_be_hidden()
    assert [kind for kind, _ in answers.asked] == ["beforeunload"]


def test_a_transcript_that_the_browser_cannot_keep_is_not_taken_for_kept(
    browser: Browser, server: Server
) -> None:
    """The page says so, and asks before it is left."""
    with visiting(browser, server.origin, script=FULL_STORAGE) as visit:
        page = visit()
        open_panel(page, "history")
        page.get_by_label("Keep every conversation").check()
        start(page)
        until_text(page)
        stop(page)
        expect(page.locator("#history-current")).to_contain_text("does not store")
        expect(page.locator("#keeping")).to_contain_text("does not store")
        answers = Answers(page)
        page.evaluate("location.reload()")
        page.wait_for_load_state()
        expect(page.locator("#lines-empty")).to_be_visible()
        assert [kind for kind, _ in answers.asked] == ["beforeunload"]


def test_a_conversation_is_kept_when_the_page_is_closed_during_it(visit: Visit) -> None:
    page = visit()
    open_panel(page, "history")
    page.get_by_label("Keep every conversation").check()
    start(page)
    until_text(page)
    answers = Answers(page)
    page.reload()
    open_panel(page, "history")
    expect(page.locator("#history-list > li")).to_have_count(1)
    assert len(answers.asked) <= 1
    page.locator("#history-list summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON: the conversation of").click()
    assert json.loads(Path(download.value.path()).read_text())["lines"]
    page.locator("#history-clear").click()
    expect(page.locator("#history-empty")).to_be_visible()
    assert answers.asked[-1][0] == "confirm"


def test_a_conversation_is_kept_after_it_and_read_again(visit: Visit) -> None:
    """The page says that it would be gone, and keeps this one only; deleting it asks first."""
    page = visit()
    answers = Answers(page, accept=False)
    start(page)
    until_text(page)
    stop(page)
    said = page.locator("#lines .agent p").first.inner_text()
    expect(page.locator("#keeping-text")).to_contain_text("Gone when this page is closed")
    page.get_by_role("button", name="Keep on this device").click()
    expect(page.locator("#keeping-text")).to_contain_text("Kept on this device")
    page.reload()
    assert answers.asked == []
    open_panel(page, "history")
    expect(page.get_by_label("Keep every conversation")).not_to_be_checked()
    page.locator("#history-list summary").click()
    expect(page.locator("#history-list .agent p").first).to_have_text(said)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as TXT: the conversation of").click()
    assert f"Agent: {said.removesuffix(' – interrupted')}" in Path(download.value.path()).read_text(
        encoding="utf-8"
    )
    delete = page.get_by_role("button", name="Delete the conversation of")
    delete.click()
    expect(page.locator("#history-list > li")).to_have_count(1)
    answers.accept = True
    delete.click()
    expect(page.locator("#history-empty")).to_be_visible()
    assert [kind for kind, _ in answers.asked] == ["confirm", "confirm"]


def test_a_link_asks_once_before_it_ends_the_conversation(browser: Browser, server: Server) -> None:
    """Declined, the conversation goes on; without a conversation, a link just leads there."""
    with visiting(browser, server.origin, forgiven=FORGIVEN) as visit:
        page = visit()
        start(page)
        until_text(page)
        answers = Answers(page, accept=False)
        page.get_by_role("link", name="Transcribe", exact=True).click()
        assert [kind for kind, _ in answers.asked] == ["confirm"]
        assert "ends the conversation" in answers.asked[0][1]
        expect_phase(page, "live")
        answers.accept = True
        page.get_by_role("link", name="Transcribe", exact=True).click()
        page.wait_for_url("**/whisperx")
        assert [kind for kind, _ in answers.asked] == ["confirm", "confirm"]
        page.get_by_role("link", name="packet-voice home").click()
        page.wait_for_url("**/")
        assert len(answers.asked) == 2


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperServer]:
    with serving_whisper(tmp_path_factory.mktemp("proxy")) as started:
        yield started


def test_a_transcript_of_the_microphone_is_not_replaced_without_asking(
    browser: Browser, rig: WhisperServer
) -> None:
    """Nor lost by a reload; once copied it may be. The title says what the page does."""
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as visit:
        page = visit("/whisperx")
        page.context.grant_permissions(["clipboard-read", "clipboard-write", "microphone"])
        page.locator("#load").click()
        expect(page.locator("#model-state")).to_contain_text("Ready", timeout=60_000)
        expect(page.locator("#copy-transcript")).to_be_disabled()
        page.locator("#microphone").click()
        expect(page).to_have_title("● Listening · packet-voice")
        expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("icon-live"))
        expect(page.locator("#segments .word").first).to_be_visible(timeout=60_000)
        page.locator("#microphone").click()
        expect(page.locator("#summary")).to_contain_text("of speech", timeout=60_000)
        expect(page).to_have_title("Transcribe · packet-voice")
        answers = Answers(page, accept=False)
        page.locator("#microphone").click()
        assert [kind for kind, _ in answers.asked] == ["confirm"]
        words = page.locator("#segments .word").all_text_contents()
        page.get_by_role("button", name="Copy transcript").click()
        expect(page.locator("#exports-status")).to_have_text("Copied.")
        copied: Any = page.evaluate("navigator.clipboard.readText()")
        assert copied.split() == words
        answers.accept = True
        page.reload()
        expect(page.locator("#segments .word")).to_have_count(0)
        assert len(answers.asked) == 1
