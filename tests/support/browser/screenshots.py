"""`PYTHONPATH=tests python tests/support/browser/screenshots.py`: retake the pictures in docs/screenshots.

The voice page is shown in a conversation with the embedded model, which is asked a question; the
transcription page with the model of `tiny_whisper`. Look at the pictures before committing them.
"""

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Playwright, expect, sync_playwright

from support.browser.actions import start, stop
from support.browser.chromium import launch, microphone, visiting
from support.browser.servers import ROOT, serving
from support.browser.whisper_server import serving_whisper, spoken_file

FOLDER = ROOT / "docs/screenshots"
QUESTION = ROOT / "tests/data/question.wav"  # "what is three plus four" and silence, repeated
ANSWER_MS = 60_000
FORGIVEN = ("No available adapters",)
WINDOW = {"width": 1280, "height": 900}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
# The commands as a user has them: this server is started with a full path and settings of its own.
WITHOUT_SETTINGS = """() => {
  for (const code of document.querySelectorAll("pre code")) {
    code.textContent = code.textContent
      .replace(/ --set \\S+/g, "").replace(/--config \\S*configs/, "--config configs");
  }
}"""
VIEWS: dict[str, dict[str, Any]] = {
    "live-light": {"color_scheme": "light", "viewport": WINDOW},
    "live-dark": {"color_scheme": "dark", "viewport": WINDOW},
    "live-phone": {"color_scheme": "light", **PHONE},
}
LANDSCAPE = {"viewport": {"width": 844, "height": 390}, "device_scale_factor": 2, "has_touch": True}


def save(page: Page, name: str, *, full_page: bool = True) -> None:
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path, full_page=full_page)
    print(path)


def take_voice(playwright: Playwright) -> None:
    """The landing page, and the voice page after two answers."""
    with (
        contextlib.closing(launch(playwright, *microphone(QUESTION))) as browser,
        serving(config=ROOT / "configs/tiny") as server,
    ):
        with visiting(browser, server.origin, color_scheme="light") as visit:
            page = visit("/")
            page.evaluate(WITHOUT_SETTINGS)
            save(page, "landing-light")
        for name, view in VIEWS.items():
            with visiting(browser, server.origin, **view) as visit:
                page = visit()
                start(page)
                answers = page.locator("#lines .agent p").get_by_text("three plus four is seven")
                expect(answers.nth(1)).to_be_visible(timeout=ANSWER_MS)
                while page.locator(".notice .close").count() > 0:  # of a busy machine
                    page.locator(".notice .close").first.click()
                save(page, name, full_page=False)
                stop(page)


def take_questions(playwright: Playwright) -> None:
    """Recorded questions, asked without a microphone; on a phone in landscape before the start."""
    with (
        contextlib.closing(launch(playwright)) as browser,
        serving(config=ROOT / "configs/tiny") as server,
    ):
        with visiting(browser, server.origin, color_scheme="dark", **LANDSCAPE) as visit:
            page = visit()
            expect(page.locator("#suggestions")).to_be_visible()
            save(page, "idle-landscape", full_page=False)
        with visiting(browser, server.origin, color_scheme="light", viewport=WINDOW) as visit:
            page = visit()
            for question, answer in (("who are you", "small voice model"), ("how are you", "thank you")):
                page.get_by_role("button", name=question).click()
                expect(page.locator("#lines .agent p").get_by_text(answer).first).to_be_visible(
                    timeout=ANSWER_MS
                )
                over = page.locator("#call-status", has_text="Connected")  # and not interrupted
                expect(over).to_be_visible(timeout=ANSWER_MS)
            save(page, "questions-light", full_page=False)
            stop(page)


def take_transcription(playwright: Playwright) -> None:
    """The transcription page with a transcript, one word being played."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(launch(playwright)) as browser,
        serving_whisper(Path(folder)) as rig,
        visiting(
            browser, rig.server.origin, forgiven=FORGIVEN, color_scheme="light", viewport=WINDOW
        ) as visit,
    ):
        page = visit("/whisperx")
        expect(page.locator("#load")).to_contain_text(re.compile("Download model"))
        page.locator("#load").click()
        expect(page.locator("#model-state")).to_contain_text("Ready", timeout=ANSWER_MS)
        page.locator("#options > summary").click()
        page.get_by_label("Skip silence").uncheck()
        page.locator("#options > summary").click()
        page.locator("#file").set_input_files(spoken_file(Path(folder)))
        expect(page.locator("#summary")).to_contain_text("of audio", timeout=ANSWER_MS)
        page.locator("#segments .word").nth(3).click()
        page.evaluate("document.getElementById('player').pause()")
        page.mouse.move(0, 0)
        save(page, "transcription-light")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        take_voice(playwright)
        take_questions(playwright)
        take_transcription(playwright)


if __name__ == "__main__":
    main()
