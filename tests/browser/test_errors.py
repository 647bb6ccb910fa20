"""Errors on the voice page: each has a message, and the page recovers by itself where it can."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Playwright, expect
from support.browser.actions import expect_phase, numbers, open_panel, start, stop, until_played
from support.browser.chromium import CUT_OFF, Visit, launch, visiting
from support.browser.servers import Server, serving

NO_WORKLET = "delete globalThis.AudioWorkletNode;"
WATCH_STATUS = """() => {
  globalThis.seen = { retry: [], status: [], button: [] };
  const watch = (id, texts) => {
    const element = document.getElementById(id);
    const observer = new MutationObserver(() => texts.push(element.textContent));
    observer.observe(element, { childList: true, characterData: true, subtree: true });
  };
  watch("retry", seen.retry);
  watch("call-status", seen.status);
  watch("talk-label", seen.button);
}"""
HAS_LOST_AND_RETRIES = """() =>
  seen.status.includes("Connection lost.") && seen.retry.some((text) => /^Trying again in /.test(text))"""
# Less than before, while waiting for the same attempt.
HAS_COUNTED_DOWN = """() => {
  const seconds = seen.retry.map((text) => Number(/^Trying again in (\\d+) s\\.$/.exec(text)?.[1]));
  return seconds.some((now, i) => now < seconds[i - 1]);
}"""
PRESS_TRY_NOW = """() => {
  seen.retry.length = seen.status.length = 0;
  const button = document.getElementById("try-now");
  button.focus();
  button.click();
}"""


@pytest.fixture
def own_server() -> Iterator[Server]:
    with serving("lanes.max=1", "lanes.queue=1") as started:
        yield started


def test_the_page_reconnects_to_a_restarted_server(browser: Browser, own_server: Server) -> None:
    """It shows the lost connection, reconnects, and marks the new conversation in the transcript."""
    with visiting(browser, own_server.origin, forgiven=CUT_OFF) as visit:
        page = visit()
        open_panel(page, "stats")
        start(page)
        until_played(page, 10)
        page.evaluate(WATCH_STATUS)
        own_server.kill()
        page.wait_for_function(HAS_LOST_AND_RETRIES, timeout=20_000)
        own_server.start()
        expect_phase(page, "live")
        expect(page.locator("#lines .divider")).to_contain_text("New conversation")
        stop(page)


def test_the_time_to_the_next_attempt_is_counted_down(browser: Browser, own_server: Server) -> None:
    """In seconds that are seen, but not announced: the status changes only when something happens."""
    with visiting(browser, own_server.origin, forgiven=CUT_OFF) as visit:
        page = visit()
        start(page)
        page.evaluate(WATCH_STATUS)
        own_server.kill()
        page.wait_for_function(HAS_COUNTED_DOWN, timeout=60_000)
        assert set(page.evaluate("seen.status")) <= {"Connection lost.", "Reconnecting…"}
        assert page.evaluate("seen.button") == ["Give up"]  # not another one during each attempt
        assert page.evaluate("document.getElementById('retry').closest('[role=status]')") is None
        expect(page.get_by_role("timer").and_(page.locator("#retry"))).to_have_attribute("aria-live", "off")
        stop(page)
        expect(page.locator("#retry")).to_be_empty()


def test_the_next_attempt_can_be_made_at_once(browser: Browser, own_server: Server) -> None:
    """Pressed with seconds to go, the page does not count them down; the button stays until it is live."""
    with visiting(browser, own_server.origin, forgiven=CUT_OFF) as visit:
        page = visit()
        start(page)
        page.evaluate(WATCH_STATUS)
        own_server.kill()
        again = page.get_by_role("button", name="Try now")
        expect(page.locator("#retry")).to_have_text(re.compile(r"in ([6-9]|10) s"), timeout=60_000)
        page.evaluate(PRESS_TRY_NOW)
        page.wait_for_function("() => seen.status.includes('Reconnecting…')")
        assert not [text for text in page.evaluate("seen.retry") if re.search(r"in [1-3] s", text)]
        expect(again).to_be_focused()
        own_server.start()
        expect_phase(page, "live")
        expect(again).to_be_hidden()
        expect(page.locator("#talk")).to_be_focused()
        stop(page)


def test_a_session_is_resumed_after_a_silent_connection(browser: Browser) -> None:
    """A server that stops responding and returns within the grace period: same session, no duplicate text."""
    with (
        serving("heartbeat.every_s=0.5", "heartbeat.timeout_s=2") as server,
        visiting(browser, server.origin) as visit,
    ):
        page = visit()
        open_panel(page, "stats")
        start(page)
        until_played(page, 10)
        page.evaluate(WATCH_STATUS)
        server.freeze()
        page.wait_for_function("() => seen.status.includes('Connection lost.')", timeout=20_000)
        server.thaw()
        expect_phase(page, "live")
        expect(page.locator("#lines .divider")).to_have_count(0)
        stop(page)


def test_a_queued_and_a_rejected_page_are_both_served_in_the_end(
    browser: Browser, own_server: Server
) -> None:
    """One session, one place in the queue: the second page shows its position, the third retries."""
    with visiting(browser, own_server.origin) as visit:
        first, second, third = visit(), visit(), visit()
        start(first)
        second.bring_to_front()
        second.locator("#talk").click()
        expect(second.locator("#call-status")).to_contain_text("You are next in the queue.", timeout=20_000)
        third.bring_to_front()
        third.locator("#talk").click()
        expect(third.locator(".status")).to_have_text(
            re.compile(r"All sessions are in use and the queue is full\. Trying again in \d+ s\."),
            timeout=20_000,
        )
        stop(third)
        first.bring_to_front()
        stop(first)
        expect_phase(second, "live")
        second.bring_to_front()
        stop(second)


def test_a_page_that_is_put_back_says_so_and_goes_on(browser: Browser) -> None:
    """In plain words, with its place in the queue; it is the same conversation afterwards."""
    with (
        serving("lanes.max=1", "lanes.admit=1", program=("-m", "tests.support.put_back_server")) as server,
        visiting(browser, server.origin) as visit,
    ):
        page = visit()
        open_panel(page, "stats")
        start(page)
        until_played(page, 10)
        server.put_back()
        expect_phase(page, "paused")
        expect(page.locator("#call-status")).to_have_text(
            "The server is busy. Your conversation is paused; position 1. What you say now is not heard."
        )
        expect(page.locator("#stat-in-flight")).to_have_text("0")
        played = numbers(page, "underruns")[1]
        server.let_run()
        expect_phase(page, "live")
        until_played(page, int(played) + 10)
        expect(page.locator("#lines .divider")).to_have_count(0)
        stop(page)


def test_a_server_shutdown_is_shown(browser: Browser) -> None:
    with serving() as server, visiting(browser, server.origin) as visit:
        page = visit()
        start(page)
        page.evaluate(WATCH_STATUS)
        server.stop()
        page.wait_for_function("() => seen.status.includes('The server shut down.')", timeout=20_000)
        expect(page.locator("#server-label")).to_have_text("Offline", timeout=20_000)
        stop(page)


def test_a_denied_microphone_is_reported(playwright: Playwright, server: Server) -> None:
    browser = launch(playwright, "--deny-permission-prompts")
    with visiting(browser, server.origin) as visit:
        page = visit()
        page.locator("#talk").click()
        expect(page.locator(".notice.bad")).to_contain_text("Microphone access is blocked")
        expect_phase(page, "idle")
    browser.close()


def test_an_insecure_page_shows_where_to_go(playwright: Playwright) -> None:
    """Over plain HTTP on a name other than localhost, browsers offer no microphone."""
    browser = launch(playwright, "--host-resolver-rules=MAP voice.test 127.0.0.1")
    with serving('server.allowed_hosts=["127.0.0.1", "voice.test"]') as server:
        origin = f"http://voice.test:{server.port}"
        with visiting(browser, origin) as visit:
            page = visit()
            expect(page.locator(".notice.bad")).to_contain_text("The microphone requires a secure connection")
            expect(page.locator(".notice.bad")).to_contain_text(
                f"http://localhost:{server.port}/packet-voice"
            )
            page.locator("#talk").click()
            expect_phase(page, "idle")
    browser.close()


def test_a_token_in_the_url_signs_in_and_is_removed_from_the_url(browser: Browser) -> None:
    with (
        serving("server.token=correct-horse-battery-staple") as server,
        visiting(browser, server.origin, forgiven=("401",)) as visit,
    ):
        page = visit()
        expect(page.locator(".notice.bad")).to_contain_text("Token required")
        page = visit("/packet-voice#token=correct-horse-battery-staple")
        expect(page.locator("#server-label")).to_have_text("Ready")
        assert "token" not in page.url
        start(page)
        stop(page)


def test_a_browser_without_audio_worklets_is_reported(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=NO_WORKLET) as visit:
        page = visit()
        page.locator("#talk").click()
        expect(page.locator(".notice.bad")).to_contain_text("Browser not supported")
        expect_phase(page, "idle")


def test_a_machine_that_is_too_slow_is_shown(server: Server, visit: Visit) -> None:
    """With the server's own advice, as long as /health gives it."""
    page = visit("/health/live")
    slow = {
        **server.health(),
        "capacity": {"sessions": 0, "ticksMs": {"1": 300}, "advice": "Use a smaller one."},
    }
    page.route("**/health", lambda route: route.fulfill(json=slow))
    page.goto(server.origin + "/packet-voice")
    notice = page.locator(".notice[data-key=capacity]")
    expect(notice.locator("p")).to_have_text("Too slow for a live conversation. Use a smaller one.")
    page.unroute("**/health")
    expect(notice).to_have_count(0, timeout=20_000)  # the next answer to the page's question


def test_loading_models_are_shown(browser: Browser, server: Server, visit: Visit) -> None:
    """The notice appears while /health is not ready, and disappears afterwards."""
    page = visit("/health/live")
    loading = {**server.health(), "status": "not_ready", "model": None}
    page.route("**/health", lambda route: route.fulfill(json=loading))
    page.goto(server.origin + "/packet-voice")
    expect(page.locator("#notices")).to_contain_text("Loading models")
    page.unroute("**/health")
    expect(page.locator("#server-label")).to_have_text("Ready")
    expect(page.locator("#notices")).not_to_contain_text("Loading models")
    expect(page.locator("#notices")).to_contain_text("Untrained model")
