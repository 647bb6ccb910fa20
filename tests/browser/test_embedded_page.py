"""The embedded model on the voice page: a click, a spoken question, the right answer."""

import contextlib

from playwright.sync_api import Playwright, expect
from support.browser.chromium import launch, visiting
from support.browser.servers import ROOT, serving

QUESTION = ROOT / "tests/data/question.wav"  # "what is three plus four" and silence, repeated
MICROPHONE = ["--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={QUESTION}"]


def test_a_spoken_sum_is_answered(playwright: Playwright) -> None:
    """The suggestion is shown; the transcript contains the sum and its result."""
    with (
        contextlib.closing(launch(playwright, *MICROPHONE)) as browser,
        serving(config=ROOT / "configs/tiny") as server,
        visiting(browser, server.origin) as visit,
    ):
        page = visit()
        expect(page.locator("#suggestions")).to_contain_text("what is three plus four")
        page.locator("#talk").click()
        lines = page.locator("#lines .agent p")
        expect(lines.get_by_text("three plus four is seven").first).to_be_visible(timeout=60_000)
        expect(page.locator("#suggestions")).to_be_hidden()
