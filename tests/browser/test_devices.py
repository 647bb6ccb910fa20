"""Microphones in the middle of a call: unplugged, changed, taken back, gone and back again, quiet."""

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser.actions import expect_phase, numbers, open_panel, start, stop, until_played
from support.browser.chromium import visiting
from support.browser.servers import Server

# A test can unplug the page's microphones, as a browser reports it; `refusal`: the answer from then on.
UNPLUG = """
globalThis.opened = [];
globalThis.refusal = null;
const devices = navigator.mediaDevices ?? {};  // none in the empty page before the first one
const ask = devices.getUserMedia?.bind(devices);
devices.getUserMedia = async (constraints) => {
  if (refusal !== null) throw new DOMException("no", refusal);
  const stream = await ask(constraints);
  opened.push({ track: stream.getAudioTracks()[0], deviceId: constraints.audio?.deviceId });
  return stream;
};
globalThis.unplug = () => {
  const { track } = opened.at(-1);
  track.stop();
  track.dispatchEvent(new Event("ended"));
};
"""
# The browser asks, and a test answers.
PROMPT = """
const devices = navigator.mediaDevices ?? {};
const ask = devices.getUserMedia?.bind(devices);
globalThis.asked = [];
devices.getUserMedia = (constraints) => new Promise((resolve, reject) => asked.push({
  allow: async () => {
    globalThis.granted = await ask(constraints);
    resolve(granted);
  },
  deny: () => reject(new DOMException("denied", "NotAllowedError")),
}));
"""
TAKE_BACK = """() => {
  refusal = "NotAllowedError";
  navigator.permissions.query = async () => ({ state: "denied" });
  unplug();
}"""
WHISPER = """
globalThis.packetVoiceSource = (context) => {
  const source = context.createOscillator();
  const gain = context.createGain();
  gain.gain.value = 0.0005;  // -66 dB
  source.connect(gain);
  source.start();
  return gain;
};
"""
FORGIVEN = ("DOMException",)


def frames_go_on(page: Page) -> None:
    until_played(page, 1)
    until_played(page, int(numbers(page, "underruns")[1]) + 15)


def test_an_unplugged_microphone_is_replaced_and_told(browser: Browser, server: Server) -> None:
    """The call goes on with another one; the notice ends by itself or by its button."""
    with visiting(browser, server.origin, script=UNPLUG) as visit:
        page = visit()
        open_panel(page, "stats")
        start(page)
        until_played(page, 5)
        page.evaluate("unplug()")
        notice = page.locator(".notice[data-key=microphone]")
        expect(notice).to_contain_text("The other one was disconnected.")
        assert page.evaluate("opened.length") == 2
        frames_go_on(page)
        expect_phase(page, "live")
        stop(page)


def test_the_last_microphone_is_missed_until_one_is_connected(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=UNPLUG, forgiven=FORGIVEN) as visit:
        page = visit()
        start(page)
        page.evaluate("refusal = 'NotFoundError'; unplug()")
        notice = page.locator(".notice[data-key=audio]")
        expect(notice).to_contain_text("Microphone disconnected")
        page.evaluate("refusal = null; navigator.mediaDevices.dispatchEvent(new Event('devicechange'))")
        expect(notice).to_have_count(0)
        expect_phase(page, "live")
        stop(page)


def test_a_permission_that_is_taken_back_is_told(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=UNPLUG, forgiven=FORGIVEN) as visit:
        page = visit()
        open_panel(page, "diagnostics")
        start(page)
        page.evaluate(TAKE_BACK)
        expect(page.locator(".notice[data-key=audio]")).to_contain_text(
            "Microphone permission was taken back"
        )
        expect(page.locator("#checks")).to_contain_text("Microphone permission was taken back")
        expect_phase(page, "live")
        stop(page)


def test_the_microphone_is_changed_during_a_call(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=UNPLUG) as visit:
        page = visit()
        open_panel(page, "stats")
        start(page)
        page.locator("#open-settings").click()
        options = page.locator("select[name=deviceId] option")
        expect(options.nth(1)).to_be_attached()
        if options.count() < 2:
            pytest.skip("this browser offers one microphone")
        chosen = options.last.get_attribute("value")
        page.locator("select[name=deviceId]").select_option(chosen)
        page.locator("#close-settings").click()
        page.wait_for_function("() => opened.length === 2")
        assert chosen in str(page.evaluate("opened.at(-1).deviceId"))
        frames_go_on(page)
        stop(page)


def test_a_very_quiet_microphone_is_a_notice_with_the_remedy(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=WHISPER) as visit:
        page = visit()
        start(page)
        notice = page.locator(".notice[data-key=condition]")
        expect(notice).to_contain_text("You have not been heard yet", timeout=30_000)
        expect(notice).to_contain_text("raise the input level")
        stop(page)
        expect(notice).to_have_count(0)


def test_the_check_before_a_call_has_one_line_for_each_link(browser: Browser, server: Server) -> None:
    """Microphone, loudspeaker, network, machine; also without a microphone."""
    with visiting(browser, server.origin, script=UNPLUG, forgiven=FORGIVEN) as visit:
        page = visit()
        open_panel(page, "diagnostics")
        rows = page.locator("#test-results li")
        page.locator("#audio-test").click()
        expect(rows).to_have_count(4, timeout=20_000)
        for row, name in enumerate(("Microphone", "Loudspeaker", "Network", "Machine")):
            expect(rows.nth(row).locator("strong")).to_have_text(name)
        page.evaluate("refusal = 'NotFoundError'")
        page.locator("#audio-test").click()
        expect(rows.first).to_contain_text("No microphone found")
        expect(rows.nth(2)).to_contain_text("ms to the server and back")


def test_settings_can_be_changed_while_audio_is_tested(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin) as visit:
        page = visit()
        open_panel(page, "diagnostics")
        page.locator("#audio-test").click()
        expect(page.locator("#audio-test-result")).to_contain_text("Say something")
        page.locator("#open-settings").click()
        page.locator("input[name=seed]").fill("7")
        page.locator("select[name=vad]").select_option("off")
        page.locator("#close-settings").click()
        expect(page.locator("#audio-test-result")).to_contain_text("Audio works", timeout=30_000)


@pytest.mark.parametrize("answer", ["allow", "deny"])
def test_a_start_can_be_cancelled_while_the_browser_asks(
    browser: Browser, server: Server, answer: str
) -> None:
    """The page is idle at once. The answer comes later: the microphone is released, nothing is reported."""
    with visiting(browser, server.origin, script=PROMPT) as visit:
        page = visit()
        page.locator("#talk").click()
        expect_phase(page, "opening")
        page.wait_for_function("() => asked.length === 1")
        page.locator("#talk").click()
        expect_phase(page, "idle")
        page.evaluate(f"asked[0].{answer}()")
        if answer == "allow":
            page.wait_for_function("() => granted.getTracks()[0].readyState === 'ended'")
        page.locator("#talk").click()
        page.wait_for_function("() => asked.length === 2")
        page.evaluate("asked[1].allow()")
        expect_phase(page, "live")
        expect(page.locator(".notice[data-key=audio]")).to_have_count(0)
        stop(page)
