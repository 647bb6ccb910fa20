"""What a demanding user expects of the voice page: privacy shows, nothing is lost, one state everywhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, expect
from support.browser.actions import AT_WORK, expect_call_loaded, expect_phase, open_panel, start, stop
from support.browser.chromium import CUT_OFF, Visit, launch, visiting
from support.browser.servers import ROOT, Server, serving

ZEROS = """
globalThis.packetVoiceSource = (context) => {
  const source = context.createConstantSource();
  source.offset.value = 0;
  source.start();
  return source;
};
"""
BLANK = """(id) => {
  const canvas = document.getElementById(id);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const colours = new Set();
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 0) colours.add(data.slice(i, i + 3).join());
  return colours.size <= 2;  // the middle line only
}"""
SIZES = [(320, 640), (390, 844), (844, 390), (640, 400), (768, 1024), (1280, 800)]
LOW_PX = 480
FIVE_LINES_PX = 5 * 24
# Of the latest notice: whether its last pixels are seen.
IS_WHOLE = """(button) => {
  const { right, bottom } = button.getBoundingClientRect();
  return button.contains(document.elementFromPoint(right - 12, bottom - 12));
}"""


def violations(page: Page) -> list[str]:
    return [
        f"{one['id']}: {[node['html'] for node in one['nodes']]}"
        for one in Axe().run(page).response["violations"]
    ]


def until_text(page: Page) -> None:
    page.wait_for_function("() => document.querySelector('#lines .agent p')?.textContent.length > 5")


def test_after_stop_nothing_looks_like_an_open_microphone(visit: Visit) -> None:
    """Meters at their lowest, no waveform, no ring, and the title says that nothing runs."""
    page = visit()
    start(page)
    expect(page).to_have_title(re.compile("^● (Listening|Answering) · packet-voice$"))
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("icon-live"))
    page.wait_for_function("() => document.getElementById('user-meter').value > -60")
    stop(page)
    for who in ("user", "agent"):
        expect(page.locator(f"#{who}-meter")).to_have_js_property("value", -60)
        page.wait_for_function(BLANK, arg=f"{who}-wave")
    expect(page).to_have_title("Talk · packet-voice")
    expect(page.locator("#call[data-muted=false]")).to_be_visible()


def test_leaving_asks_first_while_the_transcript_is_not_saved(visit: Visit) -> None:
    page = visit()
    start(page)
    until_text(page)
    stop(page)
    asked: list[str] = []

    def on_dialog(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", on_dialog)
    page.evaluate("location.reload()")
    page.wait_for_load_state()
    expect(page.locator("#lines-empty")).to_be_visible()
    assert asked == ["beforeunload"]
    start(page)
    until_text(page)
    stop(page)
    with page.expect_download():
        page.get_by_role("button", name="Save as TXT").click()
    page.evaluate("location.reload()")
    page.wait_for_load_state()
    expect(page.locator("#lines-empty")).to_be_visible()
    assert asked == ["beforeunload"]


def test_the_transcript_is_saved_and_copied_without_a_recording(visit: Visit) -> None:
    """TXT, JSON and the clipboard; sentences begin with a capital on the page."""
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write", "microphone"])
    expect(page.locator("#copy-lines")).to_be_disabled()
    start(page)
    until_text(page)
    stop(page)
    with page.expect_download() as text:
        page.get_by_role("button", name="Save as TXT").click()
    with page.expect_download() as data:
        page.get_by_role("button", name="Save as JSON").click()
    saved = json.loads(Path(data.value.path()).read_text(encoding="utf-8"))
    assert saved["lines"][0]["who"] == "agent"
    assert "Agent: " in Path(text.value.path()).read_text(encoding="utf-8")
    page.get_by_role("button", name="Copy transcript").click()
    expect(page.locator("#transcript-status")).to_contain_text("Copied.")
    assert "Agent: " in page.evaluate("navigator.clipboard.readText()")


def test_a_dead_microphone_is_a_notice_with_the_remedy(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=ZEROS) as visit:
        page = visit()
        start(page)
        notice = page.locator(".notice[data-key=condition]")
        expect(notice).to_contain_text("No signal from the microphone", timeout=20_000)
        expect(notice).to_contain_text("mute switch")
        expect(page.locator("#call-status")).to_have_text("Your microphone is silent.")
        notice.get_by_role("button", name="Help: No signal from the microphone").click()
        expect(page.locator("#help-microphone")).to_be_focused()
        expect(page.locator("#close-help")).to_be_in_viewport()
        page.locator("#close-help").click()
        stop(page)
        expect(notice).to_have_count(0)


def test_the_reaction_to_interruptions_works_as_shipped(visit: Visit) -> None:
    """Without any setting, speech lowers the agent; without detection the reaction cannot be chosen."""
    page = visit()
    open_panel(page, "diagnostics")
    start(page)
    expect(page.locator("#waveforms[data-speaking=true]")).to_be_visible(timeout=30_000)
    expect(page.locator("#checks")).to_contain_text("Turned down because you are speaking.")
    page.get_by_role("button", name="Settings").click()
    expect(page.locator("select[name=bargeIn]")).to_be_enabled()
    page.get_by_label("Notice my speech").select_option("off")
    expect(page.locator("select[name=bargeIn]")).to_be_disabled()
    page.locator("#close-settings").click()
    stop(page)


def test_a_full_server_says_so_everywhere_and_nothing_offers_what_it_cannot(browser: Browser) -> None:
    """Header, status, landing page; in the queue neither mute nor record; the queue in the title."""
    with serving("lanes.max=1") as server, visiting(browser, server.origin) as visit:
        first, second, landing = visit(), visit(), visit("/")
        expect(landing.locator("#state")).to_contain_text("Ready.")
        start(first)
        second.bring_to_front()
        open_panel(second, "stats")
        expect(second.locator("#server-label")).to_have_text("Full", timeout=15_000)
        expect(second.locator("#call-status")).to_contain_text("Press to wait in the queue")
        second.locator("#talk").click()
        expect_phase(second, "queued")
        expect(second.locator("#mute")).to_be_disabled()
        expect(second.locator("#record")).to_be_disabled()
        expect(second).to_have_title("Queue: 1 · packet-voice")
        landing.bring_to_front()
        expect(landing.locator("#state")).to_contain_text("Full.", timeout=15_000)
        expect(landing.locator("#facts")).to_contain_text("1 of 1, 1 queued")
        expect(second.locator("#stat-sessions")).to_have_text("1 of 1, 1 queued")
        second.bring_to_front()
        stop(second)
        first.bring_to_front()
        stop(first)
        landing.bring_to_front()
        expect(landing.locator("#state")).to_contain_text("Ready.", timeout=15_000)


def test_a_silent_server_is_not_listened_to(browser: Browser) -> None:
    """A live call whose server stops answering says so before the connection is given up."""
    with serving("heartbeat.timeout_s=30") as server, visiting(browser, server.origin) as visit:
        page = visit()
        start(page)
        server.freeze()
        expect(page.locator("#call-status")).to_contain_text("No response from the server", timeout=20_000)
        expect(page.locator("#server-label")).to_have_text("Not responding")
        server.thaw()
        expect(page.locator("#call-status")).to_have_text(AT_WORK, timeout=20_000)
        stop(page)


def test_reconnecting_is_not_stopped_but_given_up(browser: Browser) -> None:
    with serving() as server, visiting(browser, server.origin, forgiven=CUT_OFF) as visit:
        page = visit()
        start(page)
        server.kill()
        expect_phase(page, "lost")
        expect(page.locator("#talk")).to_have_text("Give up")
        expect(page.locator("#mute")).to_be_disabled()
        page.locator("#talk").click()
        expect_phase(page, "idle")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_notices_and_messages_move_no_control(
    browser: Browser, server: Server, width: int, height: int
) -> None:
    """Transcript and controls are in view without scrolling; three notices later they are where they were.

    In a low window the transcript has five lines all the same. No button sticks out of its column.
    """
    with visiting(browser, server.origin, viewport={"width": width, "height": height}) as visit:
        page = visit()
        expect(page.locator(".notice[data-key=untrained]")).to_be_visible()
        start(page)
        until_text(page)
        boxes = [page.locator(one).bounding_box() for one in ("#talk", "#mute", "#record")]
        for _ in range(3):
            page.evaluate(
                """() => {
                  const more = document.querySelector(".notice").cloneNode(true);
                  document.getElementById("notices").append(more);
                }"""
            )
        assert [page.locator(one).bounding_box() for one in ("#talk", "#mute", "#record")] == boxes
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for one in ("#talk", "#mute", "#record", "#lines", "#model", "#open-settings", "nav .page"):
            box = page.locator(one).bounding_box()
            assert box is not None, one
            assert box["x"] >= 0, one
            assert box["x"] + box["width"] <= width, one
            assert box["y"] + min(box["height"], 40) <= height, one
        page.locator("#record").click()
        page.locator("#mute").click()
        expect(page.locator("#record")).to_contain_text("Stop recording")
        column = page.locator("#controls").bounding_box()
        assert column is not None
        for one in ("#mute", "#record"):
            box = page.locator(one).bounding_box()
            assert box is not None, one
            assert column["x"] <= box["x"], one
            assert box["x"] + box["width"] <= column["x"] + column["width"], one
        page.locator("#record").click()
        if height < LOW_PX:
            lines = page.locator("#lines").bounding_box()
            assert lines is not None
            assert lines["height"] >= FIVE_LINES_PX
            assert page.locator(".notice .close").last.evaluate(IS_WHOLE)
        page.on("dialog", lambda dialog: dialog.accept())
        stop(page)


def test_a_suggestion_is_asked_without_a_microphone(playwright: Playwright) -> None:
    """The recording reaches the model, which answers; both sides are in the transcript."""
    browser = launch(playwright, "--deny-permission-prompts")
    with serving(config=ROOT / "configs/tiny") as server, visiting(browser, server.origin) as visit:
        page = visit()
        page.get_by_role("button", name="what is three plus four").click()
        expect_phase(page, "live")
        expect(page.locator("#lines .user p")).to_contain_text("What is three plus four")
        expect(page.locator("#lines .agent p").get_by_text("three plus four is seven").first).to_be_visible(
            timeout=60_000
        )
        expect(page.get_by_role("button", name="who are you")).to_be_visible()
        page.get_by_role("button", name="Turn on microphone").click()
        expect(page.locator(".notice.bad")).to_contain_text("Microphone access is blocked")
        stop(page)
    browser.close()


def test_push_to_talk_is_muted_unless_a_key_or_the_button_is_held(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="Settings").click()
    page.locator("select[name=talkMode]").select_option("push")
    page.locator("#close-settings").click()
    start(page)
    expect(page.locator("#call[data-muted=true]")).to_be_visible()
    page.keyboard.down("Space")  # with the focus still on the call button
    expect(page.locator("#call[data-muted=false]")).to_be_visible()
    page.keyboard.up("Space")
    expect(page.locator("#call[data-muted=true]")).to_be_visible()
    page.locator("#hold").hover()
    page.mouse.down()
    expect(page.locator("#hold")).to_have_attribute("aria-pressed", "true")
    page.mouse.up()
    expect(page.locator("#call[data-muted=true]")).to_be_visible()
    page.keyboard.press("Escape")
    expect_phase(page, "idle")


def test_a_refused_connection_is_told_with_what_to_do(browser: Browser) -> None:
    """The upgrade gets 401, which a page cannot read: it finds out, says so, and stops trying."""
    with (
        serving("server.token=correct-horse-battery-staple") as server,
        visiting(browser, server.origin, forgiven=("401",)) as visit,
    ):
        page = visit("/packet-voice#token=correct-horse-battery-staple")
        expect(page.locator("#server-label")).to_have_text("Ready")
        page.context.clear_cookies()
        page.locator("#talk").click()
        expect(page.locator(".notice[data-key=refusal]")).to_contain_text("#token=", timeout=20_000)
        expect_phase(page, "idle")


def test_a_wrong_token_in_the_link_is_told(browser: Browser) -> None:
    with (
        serving("server.token=correct-horse-battery-staple") as server,
        visiting(browser, server.origin, forgiven=("401",)) as visit,
    ):
        page = visit("/packet-voice#token=wrong-wrong-wrong")
        expect(page.locator(".notice[data-key=token]")).to_contain_text("The token in the link is not valid")


def test_past_conversations_are_kept_only_if_asked_and_can_be_deleted(visit: Visit) -> None:
    page = visit()
    start(page)
    until_text(page)
    stop(page)
    assert page.evaluate("localStorage.getItem('packet-voice-history')") is None
    open_panel(page, "history")
    page.get_by_label("Keep every conversation").check()
    expect(page.locator("#history-list > li")).to_have_count(1)
    page.reload()
    open_panel(page, "history")
    expect(page.get_by_label("Keep every conversation")).to_be_checked()
    page.locator("#history-list summary").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete the conversation of").click()
    expect(page.locator("#history-empty")).to_be_visible()


def test_the_diagnostics_report_has_figures_and_no_words(visit: Visit) -> None:
    page = visit()
    open_panel(page, "diagnostics")
    start(page)
    until_text(page)
    words = page.locator("#lines .agent p").first.inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save diagnostics").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    report = json.loads(text)
    assert report["phase"] == "live"
    assert {"ready", "opening"} <= {event["kind"] for event in report["events"]}
    assert report["checks"][0]["name"] == "Microphone"
    assert words[:12] not in text
    assert "Fake" not in text  # the name of the microphone
    stop(page)


@pytest.mark.parametrize("width", [320, 844, 1440])
def test_the_command_of_the_start_page_can_be_pasted(
    browser: Browser, server: Server, tmp_path: Path, width: int
) -> None:
    """One line, whatever the width; copied, it asks the saved question and saves an answer."""
    with visiting(browser, server.origin, viewport={"width": width, "height": 700}) as visit:
        page = visit("/")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        lines = page.evaluate(
            """() => {
              const code = document.getElementById("command");
              return code.getBoundingClientRect().height / parseFloat(getComputedStyle(code).lineHeight);
            }"""
        )
        assert lines < 1.5
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        with page.expect_download() as question:
            page.get_by_role("link", name="question.wav").click()
        question.value.save_as(tmp_path / "question.wav")
        copied = {}
        for name in ("Copy command", "Copy command for a phone", "Copy command for the link"):
            button = page.get_by_role("button", name=name, exact=True)
            button.click()
            expect(button.locator("+ span")).to_have_text("Copied.")
            copied[name] = page.evaluate("navigator.clipboard.readText()")
    command = copied["Copy command"]
    assert shlex.split(command)[1:3] == ["-m", "pipeline"]  # as this server was started
    assert " invite " in copied["Copy command for the link"]
    assert copied["Copy command for a phone"].endswith("--lan")
    if width == 320:
        words = [sys.executable, *shlex.split(command)[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(words, cwd=tmp_path, env=environment, check=True, timeout=60)
        assert (tmp_path / "answer.wav").stat().st_size > 10_000


@pytest.mark.parametrize(
    "look",
    [
        {"color_scheme": "light", "viewport": {"width": 320, "height": 640}},
        {"color_scheme": "dark", "viewport": {"width": 844, "height": 390}},
        {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}, "forced_colors": "active"},
        {"color_scheme": "dark", "viewport": {"width": 768, "height": 1024}, "reduced_motion": "reduce"},
    ],
)
def test_new_states_have_no_axe_violations(browser: Browser, server: Server, look: dict[str, Any]) -> None:
    """With notices, help, history and the recording's panel open."""
    with visiting(browser, server.origin, bypass_csp=True, **look) as visit:
        page = visit()
        expect(page.locator(".notice")).to_be_visible()
        assert violations(page) == []
        open_panel(page, "history")
        start(page)
        until_text(page)
        page.locator("#record").click()
        page.wait_for_function("() => document.getElementById('record-time').textContent > '0:00'")
        page.locator("#record").click()
        expect(page.locator("#recording")).to_be_visible()
        page.evaluate("scrollTo(0, 0)")
        assert violations(page) == []
        page.locator("#open-help").click()
        assert violations(page) == []
        page.locator("#close-help").click()
        stop(page)


def test_the_statistics_are_connected_as_soon_as_the_call_is(visit: Visit) -> None:
    page = visit()
    expect_call_loaded(page)
    page.evaluate(
        """() => {
          const [call, headline] = ["call", "stats-headline"].map((id) => document.getElementById(id));
          new MutationObserver(() => {
            if (call.dataset.phase === "live") globalThis.first ??= headline.textContent;
          }).observe(call, { attributeFilter: ["data-phase"] });
        }"""
    )
    start(page)
    assert page.evaluate("first") == "Measuring…"
    stop(page)


def test_the_page_does_not_count_its_own_session_after_stop(browser: Browser) -> None:
    """Where there is one place, it is free again as soon as the call has ended."""
    watch = """() => {
      const [call, label] = ["call", "server-label"].map((id) => document.getElementById(id));
      globalThis.labels = [];
      new MutationObserver(() => call.dataset.phase === "idle" && labels.push(label.textContent))
        .observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
    }"""
    with serving("lanes.max=1", "lanes.admit=1") as one, visiting(browser, one.origin) as visit:
        page = visit()
        with page.expect_response(lambda answer: answer.url.endswith("/health")):
            start(page)  # and an answer that counts it
        page.wait_for_function("() => document.getElementById('server-label').textContent === 'Connected'")
        with page.expect_response(lambda answer: answer.url.endswith("/health")):
            pass
        page.evaluate(watch)
        stop(page)
        with page.expect_response(lambda answer: answer.url.endswith("/health")):
            pass  # asked again
        expect(page.locator("#server-label")).to_have_text("Ready")
        assert set(page.evaluate("labels")) == {"Ready"}


QUESTIONS = [
    "what is three plus four",
    "who are you",
    "how are you",
    "what can you do",
    "how much is nine minus twelve",
]


@pytest.fixture(scope="module")
def asked() -> Iterator[Server]:
    """A server whose model has suggestions."""
    with serving(f"greeting={json.dumps({'about': 'It does sums.', 'suggestions': QUESTIONS})}") as started:
        yield started


def test_what_the_audio_test_waits_for_is_said(visit: Visit) -> None:
    """It cannot be made during a call."""
    page = visit()
    open_panel(page, "diagnostics")
    result = page.locator("#audio-test-result")
    before = result.inner_text()
    start(page)
    expect(page.locator("#audio-test")).to_be_disabled()
    expect(result).to_have_text("Stop the conversation to test audio.")
    stop(page)
    expect(result).to_have_text(before)


def test_the_audio_test_says_one_thing(browser: Browser, server: Server) -> None:
    """Its sentence names the lines that are not well."""
    with visiting(browser, server.origin, script=ZEROS) as visit:
        page = visit()
        open_panel(page, "diagnostics")
        page.locator("#audio-test").click()
        bad = page.locator("#test-results li[data-state=bad]")
        expect(bad.first).to_contain_text("Microphone", timeout=30_000)
        expect(page.locator("#audio-test-result")).to_have_text(
            re.compile("^Audio does not work yet: see Microphone")
        )


def test_the_latest_answer_stays_in_sight_when_a_notice_takes_room(visit: Visit) -> None:
    page = visit()
    start(page)
    until_text(page)
    stop(page)
    page.evaluate(
        """() => {
          const list = document.getElementById("lines");
          const line = list.querySelector(".line");
          for (let i = 0; i < 40; i += 1) list.append(line.cloneNode(true));
          list.scrollTop = list.scrollHeight;
        }"""
    )
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    height = page.locator("#lines").evaluate("(list) => list.clientHeight")
    page.evaluate(
        """() => {
          const notice = document.querySelector("#notices .notice");
          for (let i = 0; i < 3; i += 1) notice.after(notice.cloneNode(true));
        }"""
    )
    page.wait_for_function("(height) => document.getElementById('lines').clientHeight < height", arg=height)
    page.wait_for_function(
        """() => {
          const { scrollHeight, clientHeight, scrollTop } = document.getElementById("lines");
          return scrollHeight - clientHeight - scrollTop < 2;
        }"""
    )


PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}


def share_of_questions(page: Page) -> float:
    """Of the height of the transcript's card."""
    questions, card = (
        page.locator(one).evaluate("(one) => one.getBoundingClientRect().height")
        for one in ("#suggestions", "#transcript")
    )
    return float(questions / card)


def test_fingers_find_what_they_press(browser: Browser, server: Server) -> None:
    """Buttons and check boxes with their labels are 44 px high on a touch screen."""
    with visiting(browser, server.origin, **PHONE) as visit:
        page = visit()
        assert page.evaluate("matchMedia('(pointer: coarse)').matches")
        open_panel(page, "history")
        for selector in ("#copy-lines", "#save-lines-txt", ".notice .close", "label:has(#history-keep)"):
            box = page.locator(selector).first.bounding_box()
            assert box is not None
            assert round(box["height"], 1) >= 44, selector
        assert page.locator("#history-keep").evaluate("(box) => box.clientWidth") >= 24
        expect(page.locator("#transcript .actions")).to_contain_text("Save as")


def test_the_questions_leave_the_answers_their_room_on_a_phone(browser: Browser, asked: Server) -> None:
    """They say that the microphone stays off; after the first answer they stay, in one row."""
    with visiting(browser, asked.origin, bypass_csp=True, **PHONE) as visit:
        page = visit()
        expect(page.locator("#suggestions")).to_contain_text("without your microphone")
        page.locator("#suggestions .ask").first.click()
        until_text(page)
        assert share_of_questions(page) < 0.25
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert violations(page) == []
        stop(page)
        assert share_of_questions(page) < 0.25


def test_before_a_call_the_questions_follow_the_first_sentence(browser: Browser, asked: Server) -> None:
    """On a desktop, too, where the transcript is tall."""
    with visiting(browser, asked.origin, viewport={"width": 1440, "height": 900}) as visit:
        page = visit()
        expect(page.locator("#suggestions")).to_be_visible()
        sentence, questions = (page.locator(one).bounding_box() for one in ("#lines-empty", "#suggestions"))
        assert sentence is not None
        assert questions is not None
        assert questions["y"] - (sentence["y"] + sentence["height"]) < 40


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_a_notice_does_not_move_the_questions(
    browser: Browser, asked: Server, width: int, height: int
) -> None:
    """The first one comes when a visitor may be about to press a question."""
    with visiting(browser, asked.origin, viewport={"width": width, "height": height}) as visit:
        page = visit()
        expect(page.locator(".notice[data-key=untrained]")).to_be_visible()
        place = page.locator("#suggestions .ask").first.bounding_box()
        page.locator(".notice[data-key=untrained] .close").click()
        expect(page.locator(".notice")).to_have_count(0)
        assert page.locator("#suggestions .ask").first.bounding_box() == place
