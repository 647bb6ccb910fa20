"""A conversation in a real browser with the real server: it flows, it is measured, it is the user's."""

import itertools
import wave
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, expect
from support.browser.acts import expect_phase, figure, numbers, open_panel, start, stop, until_played
from support.browser.servers import Server
from support.browser.visitors import Visit, visiting

# Noise that repeats after two seconds; what the microphone hears is known to the last bit.
BIT_EXACT = """
globalThis.sourceSamples = Float32Array.from({ length: 48000 }, (_, i) => {
  const x = Math.imul(i + 1, 2654435761) >>> 0;
  return ((x ^ (x >>> 15)) % 20001 - 10000) / 32768;
});
globalThis.packetVoiceSource = (context) => {
  const buffer = context.createBuffer(1, sourceSamples.length, context.sampleRate);
  buffer.copyToChannel(sourceSamples, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.loop = true;
  source.start();
  return source;
};
"""
BLOCK = """() => setInterval(() => {
  const end = performance.now() + 200;
  while (performance.now() < end);
}, 700)"""
# As Firefox does beside a microphone of another rate.
REFUSES_24_KHZ = """
const Native = globalThis.AudioContext;
globalThis.AudioContext = class extends Native {
  createMediaStreamSource(stream) {
    if (this.sampleRate === 24000) throw new DOMException("another rate", "NotSupportedError");
    return super.createMediaStreamSource(stream);
  }
};
"""


def test_frames_flow_both_ways_and_the_panel_is_live(visit: Visit) -> None:
    """Started by a click; the panel shows measurements, and the agent's words appear as it speaks."""
    page = visit()
    open_panel(page, "status")
    start(page)
    until_played(page, 40)
    expect(page.locator("#lines .agent p")).not_to_be_empty()
    for name in ("latency", "encode", "step", "decode", "buffer", "round-trip", "added", "rate"):
        assert all(value > 0 for value in numbers(page, name)), f"{name}: {figure(page, name)}"
        assert numbers(page, name) != []
    assert numbers(page, "lanes")[0] >= 1
    expect(page.locator("#fig-server-health")).to_contain_text("ready")
    expect(page.locator("#fig-granted")).to_contain_text("echo cancellation")
    stop(page)
    start(page)
    until_played(page, 5)
    stop(page)
    expect(page.locator("#lines .divider")).to_have_count(1)


def test_what_is_recorded_is_what_was_said_bit_for_bit(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    """User left, agent right, saved by the user only; mic→speaker is measured by the echoed timestamps."""
    with visiting(browser, server.origin, script=BIT_EXACT) as visit:
        page = visit()
        open_panel(page, "status")
        start(page)
        page.get_by_role("button", name="Record").click()
        until_played(page, 50)
        expect(page.locator("html")).to_have_attribute("data-recording", "true")
        page.get_by_role("button", name="Record").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save sound").click()
        download.value.save_as(tmp_path / "saved.wav")
        with page.expect_download() as text:
            page.get_by_role("button", name="Save text").click()
        text.value.save_as(tmp_path / "saved.txt")
        half, nineteen = numbers(page, "latency")
        stop(page)
        assert 80 < half <= nineteen  # a frame lasts 80 ms before it can leave
        said = page.evaluate("Array.from(sourceSamples)")
    with wave.open(str(tmp_path / "saved.wav")) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, 24000)
        user, agent = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T
    expected = np.floor(32767 * np.float64(np.float32(said)) + 0.5).astype(np.int16)  # as Math.round does
    first = int(np.flatnonzero(user)[0])
    starts = [
        s for s in np.flatnonzero(expected == user[first]) if expected[(s + 1) % 48000] == user[first + 1]
    ]
    length = len(user) - first - 3840  # the two sides end up to two frames apart
    assert length > 24000
    rolled = (np.resize(np.roll(expected, -s), length) for s in starts)
    assert any(np.array_equal(user[first : first + length], one) for one in rolled)
    assert np.abs(agent).max() > 0


def marks_after(page: Page, frames: int) -> float:
    """How many underruns there were by then."""
    until_played(page, frames)
    return numbers(page, "underruns")[0]


def test_a_page_that_is_busy_does_not_disturb_the_sound(visit: Visit) -> None:
    """Blocked for 200 ms out of every 700, the page's own thread is not in the path of a frame."""
    page = visit()
    open_panel(page, "status")
    start(page)
    page.evaluate(BLOCK)
    marks = [marks_after(page, frames) for frames in (20, 70, 120, 170)]
    # The server has a machine to share and may be late once; a page in the path would be late each time.
    assert any(after == before for before, after in itertools.pairwise(marks))
    assert numbers(page, "dropped-up") == [0.0]
    stop(page)


def test_where_24_khz_is_refused_the_worklets_resample(browser: Browser, server: Server) -> None:
    with visiting(browser, server.origin, script=REFUSES_24_KHZ) as visit:
        page = visit()
        open_panel(page, "status")
        start(page)
        until_played(page, 30)
        assert numbers(page, "rate-hz")[0] > 24
        half, _ = numbers(page, "latency")
        assert half > 80
        stop(page)


def test_muted_the_agent_goes_on_and_hears_silence(visit: Visit) -> None:
    page = visit()
    open_panel(page, "status")
    open_panel(page, "silent")
    start(page)
    page.get_by_role("button", name="Mute").click()
    expect(page.locator("#saying")).to_have_text("You are muted.")
    expect(page.locator("#verdicts")).to_contain_text("You are muted; the agent hears silence.")
    until_played(page, 30)
    page.keyboard.press("m")
    expect(page.locator("#saying")).to_have_text("Listening. Just talk.")
    stop(page)


def test_what_is_chosen_is_kept_and_sent(visit: Visit) -> None:
    """Sampling settings reach the server, which finds no fault with them; after a reload they stand there."""
    page = visit()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("42")
    page.get_by_label("Text temperature").fill("0.5")
    page.locator("select[name=barge]").select_option("flush")
    page.get_by_role("button", name="Close the settings").click()
    start(page)
    page.wait_for_function("() => document.querySelector('#lines .agent p')?.textContent.length > 20")
    expect(page.locator(".notice[data-key=server]")).to_have_count(0)
    first = page.locator("#lines .agent p").inner_text()
    stop(page)
    page.reload()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Seed")).to_have_value("42")
    expect(page.locator("select[name=barge]")).to_have_value("flush")
    assert first


def test_the_sound_path_can_be_tried_without_the_server(visit: Visit) -> None:
    """ "Why is it silent?" sends the voice back; blocked like that, the page leaves no gap in it."""
    page = visit()
    open_panel(page, "silent")
    expect(page.locator("#verdicts")).to_contain_text("Not listening yet")
    page.get_by_role("button", name="Test the sound path").click()
    page.evaluate(BLOCK)
    expect(page.locator("#echo-result")).to_contain_text("The path works", timeout=20_000)
    expect(page.locator("#echo-result")).to_contain_text("with no gaps")
    expect_phase(page, "idle")
