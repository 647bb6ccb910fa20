"""A question, spoken into the microphone of the voice page by a voice that no model was trained on.

`PYTHONPATH=.:tests python tests/support/browser/spoken_question.py CHECKPOINT [FAMILY…]` asks a server on the
checkpoint folder, once for each family, and tells which were answered rightly.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Locator, Page, Playwright, expect, sync_playwright

from support.browser import voices
from support.browser.chromium import launch, microphone, visiting
from support.browser.servers import serving

ANSWERS = {  # by family of voices
    "espeak": "five plus one is six",
    "flite": "six plus three is nine",
    "kokoro": "two plus five is seven",
    "piper": "three plus four is seven",
}
ANSWER_MS = 120_000  # the microphone repeats the question meanwhile


@contextlib.contextmanager
def asking(playwright: Playwright, family: str, checkpoint: Path, folder: Path):
    """The voice page of a server on `checkpoint`, with a voice of the family in front of the microphone."""
    sound = voices.as_microphone(f"question-{family}", folder)
    with (
        contextlib.closing(launch(playwright, *microphone(sound))) as browser,
        serving(config=checkpoint) as server,
        visiting(browser, server.origin) as visit,
    ):
        yield visit()


def right_answer(page: Page, family: str) -> Locator:
    """Where the page shows the right answer."""
    return page.locator("#lines .agent p").get_by_text(ANSWERS[family]).first


def main() -> None:
    checkpoint, families = Path(sys.argv[1]), sys.argv[2:] or list(ANSWERS)
    for family in families:
        with (
            sync_playwright() as playwright,
            tempfile.TemporaryDirectory() as folder,
            asking(playwright, family, checkpoint, Path(folder)) as page,
        ):
            page.locator("#talk").click()
            try:
                expect(right_answer(page, family)).to_be_visible(timeout=ANSWER_MS)
                outcome = "answered"
            except AssertionError:
                said = page.locator("#lines .agent p").all_text_contents()
                outcome = f"not answered, but: {' | '.join(said)}"
            print(f"{family}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
