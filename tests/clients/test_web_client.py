"""The web clients of Moshi and PersonaPlex, as far as the server notices: their recorder.

The clients themselves are not on npm. What they do with a connection is in `web_client.html`, with
`opus-recorder`, which does their Opus. `make test-clients` installs it; without it these tests are skipped.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, sync_playwright
from support.browser.chromium import CHROMIUM, launch

from pipeline.loadtest.server_process import ServerProcess, start_server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OPUS_RECORDER = ROOT / ".clients/node_modules/opus-recorder/dist"
TYPES = {".js": "text/javascript", ".wav": "audio/wav"}
# What the pages have in their URLs; the texts always.
MOSHI = (
    "text_temperature=0&text_topk=25&audio_temperature=0&audio_topk=250&pad_mult=0&text_seed=7&audio_seed=9"
    "&repetition_penalty_context=64&repetition_penalty=1"
)
PERSONAPLEX = f"{MOSHI}&text_prompt=You+are+a+wise+and+friendly+teacher.&voice_prompt=NATF0.pt"

pytestmark = [
    pytest.mark.skipif(not OPUS_RECORDER.exists(), reason="opus-recorder: make test-clients"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start_server(ROOT / "configs/tiny") as server:
        yield server


@pytest.fixture
def page(server: ServerProcess) -> Iterator[Page]:
    """The page, as if the server's origin had it.

    Chromium lets a page connect to this machine only if it came from here: so it replaces one that did.
    """

    def fulfil(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        folder = ROOT / "tests/data" if name.endswith(".wav") else OPUS_RECORDER
        route.fulfill(body=(folder / name).read_bytes(), content_type=TYPES[Path(name).suffix])

    with sync_playwright() as playwright:
        browser = launch(playwright, "--autoplay-policy=no-user-gesture-required")
        page = browser.new_context(bypass_csp=True).new_page()
        page.on("console", lambda message: print(message.text))
        page.route("**/client/*", fulfil)
        page.goto(f"http://127.0.0.1:{server.port}/health/live")
        page.set_content((HERE / "web_client.html").read_text())
        page.wait_for_function("window.ask !== undefined")
        yield page
        browser.close()


@pytest.mark.parametrize("query", [MOSHI, PERSONAPLEX], ids=["moshi", "personaplex"])
def test_a_web_client_gets_the_answer(page: Page, query: str) -> None:
    """As text, and more than a second of sound, from pages of two short packets."""
    question = ["/api/chat?" + query, "question.wav", "seven"]
    heard = page.evaluate(f"ask(...{json.dumps(question)})")
    printed = json.dumps(heard)
    assert "three plus four is seven" in heard["text"].lower(), printed
    assert heard["kinds"][0] == 0
    assert heard["kinds"].count(1) > 12, printed
