"""The transcription page: from a cold start to an exported file, microphone, storage, errors."""

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect
from support.browser.chromium import Visit, visiting
from support.browser.servers import serving
from support.browser.whisper_server import (
    SPOKEN,
    SPOKEN_TEXT,
    WhisperServer,
    offered,
    repository,
    serving_whisper,
    spoken_file,
)
from test_accessibility import violations

LOAD_MS = 60_000
PATH = "/whisperx"
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
NARROW: ViewportSize = {"width": 320, "height": 800}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
FORGIVEN = ("No available adapters", "Failed to load resource")


# Where playback begins, whatever time passes until it is asked.
AWAIT_SEEK = """() => {
  const player = document.getElementById("player");
  window.soughtS = new Promise((resolve) =>
    player.addEventListener("seeking", () => resolve(player.currentTime), { once: true }));
}"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperServer]:
    with serving_whisper(tmp_path_factory.mktemp("proxy")) as started:
        yield started


@pytest.fixture
def visit(browser: Browser, rig: WhisperServer) -> Iterator[Visit]:
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as opened:
        yield opened


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    return spoken_file(tmp_path)


def load(page: Page) -> None:
    expect(page.locator("#load")).to_contain_text(re.compile("Download model|Load model"))
    page.locator("#load").click()
    expect(page.locator("#model-state")).to_contain_text("Ready", timeout=LOAD_MS)


def disable_vad(page: Page) -> None:
    """The test file is noise, which the VAD rightly rejects."""
    page.locator("#options > summary").click()
    page.get_by_label("Skip silence").uncheck()
    page.locator("#options > summary").click()


def transcribe(page: Page, file: Path) -> None:
    page.locator("#file").set_input_files(file)
    expect(page.locator("#summary")).to_contain_text("of audio", timeout=LOAD_MS)


def sought(page: Page, act: Callable[[], None]) -> float:
    """The position that the player is moved to by what `act` does."""
    page.evaluate(AWAIT_SEEK)
    act()
    at_s: float = page.evaluate("() => window.soughtS")
    return at_s


def saved(page: Page, kind: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save as {kind}").click()
    assert download.value.suggested_filename == f"spoken.{kind.lower()}"
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_from_a_cold_start_to_an_exported_file(rig: WhisperServer, visit: Visit, spoken: Path) -> None:
    """Download size, progress, transcript, playback by word, keyboard, export, reload without the hub."""
    held = threading.Event()
    rig.hub.held["decoder_model_merged_quantized.onnx"] = held
    page = visit("/health/live")
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url) if request.method == "GET" else None)
    page.goto(rig.server.origin + PATH)
    expect(page.locator("#model-state")).to_contain_text(re.compile(r"about [\d.]+ MB to download"))
    assert rig.requests == 0  # nobody was asked for anything
    expect(page.locator("#model-device")).to_contain_text(
        "the CPU (WebAssembly): no GPU available in this browser"
    )
    expect(page.locator("#microphone")).to_be_disabled()
    expect(page.locator("#file")).to_be_disabled()
    assert not any("/api/hf/" in url for url in fetched)
    page.locator("#load").click()
    expect(page.locator("#model-state")).to_contain_text(re.compile(r"[1-9.]+ MB of \d\.\d MB"))
    expect(page.locator("#model-progress")).to_have_js_property("max", 1)
    held.set()
    del rig.hub.held["decoder_model_merged_quantized.onnx"]
    expect(page.locator("#model-state")).to_contain_text("Ready", timeout=LOAD_MS)

    disable_vad(page)
    transcribe(page, spoken)
    words = page.locator("#segments .word")
    expect(page.locator("#segments")).to_contain_text(SPOKEN_TEXT.split()[0])
    assert words.all_text_contents() == SPOKEN_TEXT.split()
    expect(page.locator("#language")).to_contain_text("English")

    file_s = float(page.locator("#timeline").get_attribute("aria-valuemax") or "")
    start_s = 0.5 * SPOKEN[3]
    assert abs(sought(page, words.nth(3).click) - start_s) < 0.05
    expect(page.locator("#player")).to_have_js_property("paused", value=False)
    page.evaluate("document.getElementById('player').pause()")
    words.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    timeline = page.get_by_role("slider", name="Word timeline")
    timeline.focus()
    page.keyboard.press("End")
    expect(timeline).to_have_attribute("aria-valuetext", re.compile("foxtrot"))
    page.keyboard.press("ArrowLeft")
    expect(timeline).to_have_attribute("aria-valuetext", re.compile("echo"))
    expect(words.nth(3)).to_have_class(re.compile("now"))
    # Each word is half a second: the second one.
    box = timeline.bounding_box()
    assert box is not None
    at_s = partial(
        timeline.click, position={"x": 0.75 / file_s * box["width"], "y": 40}
    )  # it is as wide as the file
    assert abs(sought(page, at_s) - 0.5) < 0.1
    page.evaluate("document.getElementById('player').pause()")

    assert saved(page, "TXT").split() == SPOKEN_TEXT.split()
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\nalpha bravo", saved(page, "SRT"))
    assert re.match(r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0\d\.\d{3}\nalpha bravo", saved(page, "VTT"))
    whole = json.loads(saved(page, "JSON"))
    assert whole["info"]["language"] == "en"
    assert whole["info"]["duration"] == 4
    assert [word["word"].strip() for one in whole["segments"] for word in one["words"]] == SPOKEN_TEXT.split()

    rig.hub.down = True
    requests = rig.requests
    page.reload()
    expect(page.locator("#model-state")).to_contain_text("No download needed")
    page.locator("#file").set_input_files(spoken)  # loads the model first
    expect(page.locator("#segments")).to_contain_text("foxtrot", timeout=LOAD_MS)
    assert rig.requests == requests
    rig.hub.down = False


def test_the_microphone_is_transcribed_live(visit: Visit) -> None:
    """Partial text while speaking, final words after it; the recording can be played from any word."""
    page = visit(PATH)
    page.locator("#options > summary").click()
    page.get_by_label("Minimum silence, ms").fill("100")
    page.get_by_label("Maximum segment, s").fill("4")
    page.locator("#options > summary").click()
    load(page)
    page.locator("#microphone").click()
    expect(page.locator("#microphone")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#partial")).to_be_visible(timeout=LOAD_MS)
    expect(page.locator("#segments .word").first).to_be_visible(timeout=LOAD_MS)
    expect(page.locator("#playing")).to_be_hidden()
    page.locator("#microphone").click()
    expect(page.locator("#summary")).to_contain_text("of speech", timeout=LOAD_MS)
    expect(page.locator("#partial")).to_be_hidden()
    last = page.locator("#segments .word").last
    last.click()
    start_s = float(last.get_attribute("data-start") or "nan")
    assert page.evaluate("document.getElementById('player').currentTime") >= start_s
    assert page.evaluate("document.getElementById('player').duration") > start_s


def test_stored_models_are_listed_and_can_be_deleted(rig: WhisperServer, visit: Visit) -> None:
    page = visit(PATH)
    load(page)
    page.get_by_role("button", name="Storage", exact=True).click()
    line = page.locator("#storage-models li")
    expect(line).to_have_count(1)
    expect(line).to_contain_text("tiny, multilingual (39 million parameters)")  # as in the list of models
    files = rf"\d\.\d MB in 7 files of {repository('tiny')}, revision {offered()['tiny'][1][:12]}"
    expect(line).to_contain_text(re.compile(files))
    expect(page.locator("#storage-total")).to_contain_text("available")
    page.get_by_role("button", name="Delete tiny, multilingual").click()
    expect(page.locator("#storage-empty")).to_be_visible()
    expect(page.locator("#storage-persist")).to_be_hidden()
    page.get_by_role("button", name="Close storage").click()
    page.reload()
    expect(page.locator("#load")).to_contain_text("Download model")


def test_a_job_can_be_cancelled_at_any_time(rig: WhisperServer, visit: Visit, tmp_path: Path) -> None:
    """During the download and during transcription; the page works as before afterwards."""
    page = visit(PATH)
    page.locator("#model-choice").select_option("base")
    expect(page.locator("#load")).to_contain_text("Download model")
    held = rig.hub.held["encoder_model_quantized.onnx"] = threading.Event()
    page.locator("#load").click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    held.set()
    del rig.hub.held["encoder_model_quantized.onnx"]
    load(page)
    disable_vad(page)
    long = spoken_file(tmp_path, *range(0, 59, 2))
    page.locator("#file").set_input_files(long)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#job-status")).to_have_text("Cancelled.")
    transcribe(page, spoken_file(tmp_path))
    assert page.locator("#segments .word").all_text_contents() == SPOKEN_TEXT.split()


def test_an_english_model_has_one_language(visit: Visit) -> None:
    page = visit(PATH)
    page.locator("#model-choice").select_option("base.en")
    page.locator("#options > summary").click()
    expect(page.locator("[name=language]")).to_be_disabled()
    expect(page.locator("[name=task]")).to_be_disabled()
    expect(page.locator("#options-headline")).to_have_text("English")


def test_why_a_model_cannot_be_downloaded_is_shown(rig: WhisperServer, visit: Visit) -> None:
    """An unreachable hub and a gated model, each with advice; another model works."""
    page = visit(PATH)
    notice = page.locator(".notice.bad")
    rig.hub.down = True
    page.locator("#model-choice").select_option("small.en")
    expect(notice).to_have_count(0)  # nothing was asked for yet
    page.locator("#load").click()
    expect(notice).to_contain_text("Cannot download the model files")
    expect(notice).to_contain_text("The server has no network")
    assert "HTTP" not in notice.inner_text()
    expect(page.locator("#model-state")).to_have_text("Not downloaded.")
    expect(page.locator("#model-state")).to_have_attribute("title", re.compile("HTTP 50"))  # for its owner
    expect(page.locator("#load")).to_have_text("Try again")
    rig.hub.down = False
    rig.hub.gated.add(repository("small"))
    page.locator("#model-choice").select_option("small")
    page.locator("#load").click()
    expect(notice).to_contain_text("Access to this model is restricted")
    expect(notice).to_contain_text("HF_TOKEN")
    page.locator("#model-choice").select_option("tiny.en")
    expect(notice).to_have_count(0)
    load(page)


def test_a_model_that_the_hub_does_not_have_is_told_in_plain_words(visit: Visit) -> None:
    """In the card of the model, where it covers no result; what the server said is under details."""
    page = visit(PATH)
    said = json.dumps({"error": {"code": "not_found", "message": "the hub has no such file"}})
    page.route("**/api/hf/**", lambda route: route.fulfill(status=404, body=said))
    page.locator("#model-choice").select_option("small.en")
    page.locator("#load").click()
    notice = page.locator("#model-notice .notice.bad")
    expect(notice.locator("p")).to_have_text(
        "The model could not be downloaded. The hub does not have it. Choose another model."
    )
    expect(notice.locator("details")).not_to_have_attribute("open", re.compile(""))
    expect(notice.locator("details")).to_contain_text(repository("small.en"))
    expect(page.locator("#notices .notice")).to_have_count(0)
    assert violations(page) == []


def test_a_model_that_is_stored_is_marked_and_selected(rig: WhisperServer, visit: Visit) -> None:
    """On a later visit, and in the settings of the captions; a model that the user chose stays selected."""
    page = visit(PATH)
    page.locator("#model-choice").select_option("tiny.en")
    load(page)
    chosen = page.locator("#model-choice option:checked")
    expect(chosen).to_have_text(re.compile("^tiny, English only .* stored$"))
    expect(page.locator("#model-choice option", has_text="stored")).to_have_count(1)
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(chosen).to_have_attribute("value", "tiny.en")
    expect(page.locator("#model-state")).to_contain_text("Stored in this browser")
    page.locator("#model-choice").select_option("base")
    page.reload()
    expect(page.locator("#model-choice option", has_text="stored")).to_have_count(1)
    expect(chosen).to_have_attribute("value", "base")
    page.goto(f"{rig.server.origin}/packet-voice")
    page.locator("#open-settings").click()
    captions = page.locator("[name=captionsModel] option:checked")
    expect(captions).to_have_text(re.compile("^tiny, English only .* stored$"))
    page.get_by_label("Captions").select_option("whisper")
    expect(page.locator("#captions-state")).to_contain_text("Whisper tiny.en is ready", timeout=LOAD_MS)


def test_the_page_starts_in_good_order_without_a_network(rig: WhisperServer, visit: Visit) -> None:
    """It asks the hub for nothing and says what it would download, without a notice, for every model."""
    rig.hub.down = True
    requests = rig.requests
    page = visit("/health/live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(rig.server.origin + PATH)
    for name in offered():
        page.locator("#model-choice").select_option(name)
        expect(page.locator("#model-state")).to_contain_text(re.compile(r"about [\d.]+ MB to download"))
        expect(page.locator("#load")).to_be_enabled()
    page.locator("#open-help").click()
    expect(page.locator("#help")).to_be_visible()
    expect(page.locator(".notice")).to_have_count(0)
    assert rig.requests == requests
    assert not [url for url in asked if "/api/hf/" in url]
    rig.hub.down = False


def test_a_server_that_has_gone_is_not_taken_for_the_hub(browser: Browser, tmp_path: Path) -> None:
    """The page says that the server does not answer, and goes on when it does."""
    with (
        serving_whisper(tmp_path) as own,
        visiting(browser, own.server.origin, forgiven=(*FORGIVEN, "Failed to load resource")) as visit,
    ):
        page = visit(PATH)
        expect(page.locator("#model-state")).to_contain_text("to download")
        own.server.kill()
        page.locator("#load").click()
        notice = page.locator("#model-notice")
        expect(notice).to_contain_text("Is it still running?")
        assert "hub" not in notice.inner_text()
        own.server.start()
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#model-state")).to_contain_text("Ready", timeout=LOAD_MS)


def test_a_failed_download_is_tried_again_by_its_button(rig: WhisperServer, visit: Visit) -> None:
    page = visit(PATH)
    rig.hub.down = True
    page.locator("#model-choice").select_option("base.en")
    page.locator("#load").click()
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    rig.hub.down = False
    again.click()
    expect(page.locator(".notice")).to_have_count(0)
    expect(page.locator("#model-state")).to_contain_text("Ready", timeout=60_000)


def test_models_are_put_on_a_server_without_a_network(
    browser: Browser, rig: WhisperServer, visit: Visit, tmp_path: Path
) -> None:
    """As the help says: by copying the folder of another server."""
    page = visit(PATH)
    page.locator("#open-help").click()
    for words in ("environment variable HF_ENDPOINT", "proxy.folder", "not the models"):
        expect(page.locator("#help-model")).to_contain_text(words)
    page.locator("#close-help").click()
    load(page)
    copy = shutil.copytree(rig.folder, tmp_path / "hub")
    environment = {"HF_ENDPOINT": rig.hub.url, "HF_TOKEN": "", "HF_HUB_OFFLINE": "1"}
    with (
        serving(f'proxy.folder="{copy}"', environment=environment) as offline,
        visiting(browser, offline.origin, forgiven=FORGIVEN) as visit_offline,
    ):
        load(visit_offline(PATH))


def test_nothing_stays_under_a_notice_on_a_phone(browser: Browser, rig: WhisperServer) -> None:
    """One about the model is part of its card; with another, the page can be scrolled out from under it."""
    with visiting(
        browser, rig.server.origin, forgiven=FORGIVEN, viewport={"width": 390, "height": 664}
    ) as visit:
        page = visit(PATH)
        rig.hub.down = True
        page.locator("#model-choice").select_option("small.en")
        page.locator("#load").click()
        expect(page.locator("#model-notice .notice.bad")).to_be_visible()
        expect(page.locator("#model-notice")).to_have_css("position", "static")
        rig.hub.down = False
        page.locator("#model-choice").select_option("tiny")
        load(page)
        page.locator("#file").set_input_files(
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no sound"}
        )
        expect(page.locator("#notices .notice.bad")).to_be_visible()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        bottom = page.evaluate("document.querySelector('footer').getBoundingClientRect().bottom")
        top = page.evaluate("document.querySelector('#notices .notice').getBoundingClientRect().top")
        assert bottom <= top


def test_help_is_within_reach(rig: WhisperServer, visit: Visit) -> None:
    """At the top of the page and at each notice, at the topic; Escape closes it, and the focus goes back."""
    page = visit(PATH)
    page.locator("#open-help").click()
    expect(page.get_by_role("dialog", name="Help")).to_contain_text("transcription-page has every option")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    expect(page.locator("#open-help")).to_be_focused()
    rig.hub.down = True
    page.locator("#model-choice").select_option("small.en")
    page.locator("#load").click()
    page.get_by_role("button", name="Help: Cannot download the model files").click()
    expect(page.locator("#help-model")).to_be_focused()
    expect(page.locator("#help-model")).to_be_in_viewport()
    page.locator("#close-help").click()
    rig.hub.down = False


def test_missing_vendored_files_are_reported_with_the_command(visit: Visit) -> None:
    page = visit("/health/live")
    whole = page.request.get(page.url.replace("/health/live", PATH)).text()
    without = "\n".join(line for line in whole.splitlines() if 'rel="vendored"' not in line)
    page.route(f"**{PATH}", lambda route: route.fulfill(body=without, content_type="text/html"))
    page.goto(page.url.replace("/health/live", PATH))
    expect(page.locator("#model-state")).to_contain_text("make vendor")
    expect(page.locator(".notice")).to_have_count(0)
    expect(page.locator("#load")).to_be_hidden()
    expect(page.locator("#microphone")).to_be_disabled()


def test_a_file_without_audio_is_rejected(visit: Visit, tmp_path: Path) -> None:
    page = visit(PATH)
    load(page)
    text = tmp_path / "notes.txt"
    text.write_text("not a sound")
    page.locator("#file").set_input_files(text)
    expect(page.locator(".notice.bad")).to_contain_text("Unsupported file")
    expect(page.locator("#microphone")).to_be_enabled()


def test_there_are_no_axe_violations(browser: Browser, rig: WhisperServer, spoken: Path) -> None:
    """With transcript, options and storage open: light and dark, desktop and phone."""
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN, bypass_csp=True) as visit:
        page = visit(PATH)
        load(page)
        disable_vad(page)
        page.locator("#options > summary").click()
        transcribe(page, spoken)
        for size in (DESKTOP, PHONE, NARROW):
            page.set_viewport_size(size)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                assert violations(page) == []
        page.locator("#open-storage").click()
        expect(page.locator("#storage-models li")).to_have_count(1)
        assert violations(page) == []
        page.locator("#close-storage").click()
        page.locator("#open-help").click()
        assert violations(page) == []
