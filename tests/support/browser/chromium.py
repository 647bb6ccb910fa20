"""Pages in a real Chromium; console errors and requests to other origins fail the test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request

SPEECH = Path(__file__).parents[2] / "data/speech.wav"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Audio requires a user gesture, as in a normal browser.
FLAGS = ["--no-sandbox", "--autoplay-policy=user-gesture-required", "--use-fake-device-for-media-stream"]
DESKTOP = {"width": 1280, "height": 900}
# Browsers log refused connections to the console; some tests cause them.
EXPECTED = (
    "net::ERR_CONNECTION_REFUSED",
    "net::ERR_CONNECTION_RESET",
    "WebSocket connection to",
    "The Cross-Origin-Opener-Policy header has been ignored",  # of an insecure page
)
# Of a server that is killed in the middle of an answer; from one that runs, they would be faults.
CUT_OFF = ("net::ERR_CONTENT_LENGTH_MISMATCH", "net::ERR_EMPTY_RESPONSE")

Visit = Callable[..., Page]


def microphone(sound: Path) -> list[str]:
    """The flags of a microphone that repeats this file, and that pages may use."""
    return ["--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={sound}"]


MICROPHONE = microphone(SPEECH)


def launch(playwright: Playwright, *flags: str) -> Browser:
    assert CHROMIUM is not None, "no Chromium (Debian: apt-get install chromium)"
    return playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])


@contextmanager
def visiting(
    browser: Browser,
    origin: str,
    *,
    script: str | None = None,
    forgiven: tuple[str, ...] = (),
    **context: Any,
) -> Iterator[Visit]:
    """`visit(path)` opens pages of one visitor; afterwards there must be no errors or foreign requests."""
    problems: list[str] = []

    def on_request(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and parts.netloc != urlsplit(origin).netloc:
            problems.append(f"requested {request.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(
            text in message.text for text in (*EXPECTED, *forgiven)
        ):
            problems.append(f"{message.type}: {message.text}")

    visitor = browser.new_context(**{"viewport": DESKTOP, **context})
    visitor.on("request", on_request)
    visitor.on("console", on_console)
    visitor.on("weberror", lambda error: problems.append(str(error.error)))
    if script is not None:
        visitor.add_init_script(script)

    def visit(path: str = "/packet-voice") -> Page:
        page = visitor.new_page()
        page.goto(origin + path)
        return page

    try:
        yield visit
    finally:
        visitor.close()  # also after a failure, or its calls would take the sessions of the next test
    assert not problems, problems
