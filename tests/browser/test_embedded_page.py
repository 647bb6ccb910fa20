"""The embedded model on the voice page: a click, a spoken question, the right answer."""

from pathlib import Path

import pytest
from playwright.sync_api import Playwright, expect
from support.browser.servers import ROOT
from support.browser.spoken_question import ANSWER_MS, ANSWERS, asking, right_answer


@pytest.mark.parametrize("family", ANSWERS)
def test_a_spoken_sum_is_answered(playwright: Playwright, tmp_path: Path, family: str) -> None:
    """Of a voice the model was not trained on; suggestions are shown until then."""
    with asking(playwright, family, ROOT / "configs/tiny", tmp_path) as page:
        expect(page.locator("#suggestions")).to_contain_text("what is three plus four")
        page.locator("#talk").click()
        expect(right_answer(page, family)).to_be_visible(timeout=ANSWER_MS)
        expect(page.locator("#suggestions")).to_be_hidden()
