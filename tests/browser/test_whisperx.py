"""Sound becomes words on the page, from a cold start to a saved file; what is in the way is said in words."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect
from support.browser.visitors import Visit, visiting
from support.browser.whispering import SAID, SPOKEN, Whispering, offered, repository, spoken_file, whispering
from test_looks import violations

LOAD_MS = 60_000
PATH = "/whisperx"
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
NARROW: ViewportSize = {"width": 320, "height": 800}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
FORGIVEN = ("No available adapters", "Failed to load resource")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whispering]:
    with whispering(tmp_path_factory.mktemp("proxy")) as started:
        yield started


@pytest.fixture
def visit(browser: Browser, rig: Whispering) -> Iterator[Visit]:
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as opened:
        yield opened


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    return spoken_file(tmp_path)


def load(page: Page) -> None:
    expect(page.locator("#load")).to_contain_text(re.compile("Get the model, |Start it"))
    page.locator("#load").click()
    expect(page.locator("#model-state")).to_contain_text("Ready", timeout=LOAD_MS)


def hear_all(page: Page) -> None:
    """Noise is no speech to a voice detector, which is right: the spoken file is heard without one."""
    page.locator("#options > summary").click()
    page.get_by_label("Skip what is not speech").uncheck()
    page.locator("#options > summary").click()


def transcribe(page: Page, file: Path) -> None:
    page.locator("#file").set_input_files(file)
    expect(page.locator("#summary")).to_contain_text("of sound", timeout=LOAD_MS)


def saved(page: Page, kind: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=kind, exact=True).click()
    assert download.value.suggested_filename == f"spoken.{kind.lower()}"
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_from_a_cold_start_to_a_saved_file(rig: Whispering, visit: Visit, spoken: Path) -> None:
    """Its size is known before a model comes; it comes with progress; every word is heard from its place."""
    held = threading.Event()
    rig.hub.held["decoder_model_merged_quantized.onnx"] = held
    page = visit("/health/live")
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url) if request.method == "GET" else None)
    page.goto(rig.server.origin + PATH)
    expect(page.locator("#model-state")).to_contain_text(re.compile(r"To be fetched once: \d\.\d MB"))
    expect(page.locator("#model-device")).to_contain_text(
        "the processor (WebAssembly): this browser offers no GPU"
    )
    expect(page.locator("#listen")).to_be_disabled()
    expect(page.locator("#file")).to_be_disabled()
    assert not any("/api/hf/" in url for url in fetched)
    page.locator("#load").click()
    expect(page.locator("#model-state")).to_contain_text(re.compile(r"[1-9.]+ MB of \d\.\d MB"))
    expect(page.locator("#model-progress")).to_have_js_property("max", 1)
    held.set()
    del rig.hub.held["decoder_model_merged_quantized.onnx"]
    expect(page.locator("#model-state")).to_contain_text("Ready", timeout=LOAD_MS)

    hear_all(page)
    transcribe(page, spoken)
    words = page.locator("#segments .word")
    expect(page.locator("#segments")).to_contain_text(SAID.split()[0])
    assert words.all_text_contents() == SAID.split()
    expect(page.locator("#language")).to_contain_text("English")

    words.nth(3).click()
    place_s = 0.5 * SPOKEN[3]
    assert abs(page.evaluate("document.getElementById('player').currentTime") - place_s) < 0.35
    expect(page.locator("#player")).to_have_js_property("paused", value=False)
    page.evaluate("document.getElementById('player').pause()")
    words.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    timeline = page.get_by_role("slider", name="Words in time")
    timeline.focus()
    page.keyboard.press("End")
    expect(timeline).to_have_attribute("aria-valuetext", re.compile("foxtrot"))
    page.keyboard.press("ArrowLeft")
    expect(timeline).to_have_attribute("aria-valuetext", re.compile("echo"))
    expect(words.nth(3)).to_have_class(re.compile("now"))
    timeline.click(position={"x": 0.75 * 110, "y": 40})  # half a second to a word: in the second one
    at_s = page.evaluate("document.getElementById('player').currentTime")
    assert abs(at_s - 0.5) < 0.35
    page.evaluate("document.getElementById('player').pause()")

    assert saved(page, "TXT").split() == SAID.split()
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\nalpha bravo", saved(page, "SRT"))
    assert re.match(r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0\d\.\d{3}\nalpha bravo", saved(page, "VTT"))
    whole = json.loads(saved(page, "JSON"))
    assert whole["info"]["language"] == "en"
    assert whole["info"]["duration"] == 4
    assert [word["word"].strip() for one in whole["segments"] for word in one["words"]] == SAID.split()

    rig.hub.down = True
    asked = rig.asked
    page.reload()
    expect(page.locator("#model-state")).to_contain_text("it needs no network")
    page.locator("#file").set_input_files(spoken)  # the model starts by itself
    expect(page.locator("#segments")).to_contain_text("foxtrot", timeout=LOAD_MS)
    assert rig.asked == asked
    rig.hub.down = False


def test_the_microphone_is_written_down_as_one_speaks(visit: Visit) -> None:
    """Guesses while one speaks, words that stand after it; what was heard can be played from any of them."""
    page = visit(PATH)
    page.locator("#options > summary").click()
    page.get_by_label("A pause lasts, ms").fill("100")
    page.get_by_label("Longest part, s").fill("4")
    page.locator("#options > summary").click()
    load(page)
    page.locator("#listen").click()
    expect(page.locator("#listen")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#partial")).to_be_visible(timeout=LOAD_MS)
    expect(page.locator("#segments .word").first).to_be_visible(timeout=LOAD_MS)
    expect(page.locator("#playing")).to_be_hidden()
    page.locator("#listen").click()
    expect(page.locator("#summary")).to_contain_text("of speech", timeout=LOAD_MS)
    expect(page.locator("#partial")).to_be_hidden()
    last = page.locator("#segments .word").last
    last.click()
    start_s = float(last.get_attribute("data-start") or "nan")
    assert page.evaluate("document.getElementById('player').currentTime") >= start_s
    assert page.evaluate("document.getElementById('player').duration") > start_s


def test_what_is_kept_is_listed_and_can_be_deleted(rig: Whispering, visit: Visit) -> None:
    page = visit(PATH)
    load(page)
    page.get_by_role("button", name="Storage", exact=True).click()
    line = page.locator("#storage-models li")
    expect(line).to_have_count(1)
    expect(line).to_contain_text(repository("tiny"))
    expect(line).to_contain_text(re.compile(r"\d\.\d MB in 7 files, revision " + offered()["tiny"][1][:12]))
    expect(page.locator("#storage-total")).to_contain_text("that this browser allows")
    page.get_by_role("button", name=f"Delete {repository('tiny')}").click()
    expect(page.locator("#storage-empty")).to_be_visible()
    page.get_by_role("button", name="Close the storage").click()
    page.reload()
    expect(page.locator("#load")).to_contain_text("Get the model")


def test_work_can_be_stopped_at_any_time(rig: Whispering, visit: Visit, tmp_path: Path) -> None:
    """While a model comes, and while it works; both leave the page as it was, and able."""
    page = visit(PATH)
    page.locator("#model-choice").select_option("base")
    expect(page.locator("#load")).to_contain_text("Get the model, ")
    held = rig.hub.held["encoder_model_quantized.onnx"] = threading.Event()
    page.locator("#load").click()
    page.get_by_role("button", name="Stop", exact=True).click()
    held.set()
    del rig.hub.held["encoder_model_quantized.onnx"]
    load(page)
    hear_all(page)
    long = spoken_file(tmp_path, *range(0, 59, 2))
    page.locator("#file").set_input_files(long)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#work")).to_have_text("Stopped.")
    transcribe(page, spoken_file(tmp_path))
    assert page.locator("#segments .word").all_text_contents() == SAID.split()


def test_a_model_of_english_has_one_language(visit: Visit) -> None:
    page = visit(PATH)
    page.locator("#model-choice").select_option("base.en")
    page.locator("#options > summary").click()
    expect(page.locator("[name=language]")).to_be_disabled()
    expect(page.locator("[name=task]")).to_be_disabled()
    expect(page.locator("#options-headline")).to_have_text("English")


def test_what_is_in_the_way_of_a_model_is_said(rig: Whispering, visit: Visit) -> None:
    """The hub gone, the model gated: each with what to do; another one works."""
    page = visit(PATH)
    notice = page.locator(".notice.bad")
    rig.hub.down = True
    page.locator("#model-choice").select_option("small.en")
    expect(notice).to_contain_text("The model's files cannot be had now")
    expect(notice).to_contain_text("HF_ENDPOINT")
    rig.hub.down = False
    rig.hub.gated.add(repository("small"))
    page.locator("#model-choice").select_option("small")
    expect(notice).to_contain_text("The hub does not give this model to everybody")
    expect(notice).to_contain_text("HF_TOKEN")
    page.locator("#model-choice").select_option("tiny.en")
    expect(notice).to_have_count(0)
    load(page)


def test_without_the_installed_files_the_page_says_what_to_run(visit: Visit) -> None:
    page = visit("/health/live")
    whole = page.request.get(page.url.replace("/health/live", PATH)).text()
    without = "\n".join(line for line in whole.splitlines() if 'rel="vendored"' not in line)
    page.route(f"**{PATH}", lambda route: route.fulfill(body=without, content_type="text/html"))
    page.goto(page.url.replace("/health/live", PATH))
    expect(page.locator(".notice.bad")).to_contain_text("make vendor")
    expect(page.locator("#listen")).to_be_disabled()


def test_what_is_no_sound_is_refused_in_words(visit: Visit, tmp_path: Path) -> None:
    page = visit(PATH)
    load(page)
    text = tmp_path / "notes.txt"
    text.write_text("not a sound")
    page.locator("#file").set_input_files(text)
    expect(page.locator(".notice.bad")).to_contain_text("This file is no sound that the browser knows")
    expect(page.locator("#listen")).to_be_enabled()


def test_axe_finds_nothing(browser: Browser, rig: Whispering, spoken: Path) -> None:
    """With words, options and storage open: in light and dark, on a desk and on a phone."""
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN, bypass_csp=True) as visit:
        page = visit(PATH)
        load(page)
        hear_all(page)
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
