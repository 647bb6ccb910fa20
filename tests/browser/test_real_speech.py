"""Natural voices and a real Whisper in a browser: through the proxy to the right words and times."""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from playwright.sync_api import Browser, Page, Playwright, expect
from support.browser import real_whisper
from support.browser.actions import start, stop
from support.browser.asr_page import AsrPage
from support.browser.chromium import Visit, launch, microphone, visiting
from support.browser.voices import RATE_HZ, Recording, quiet, recording
from support.browser.whisper_server import WhisperServer, serving_whisper

from web.vendor import read_lock

INSTALLED = all(package.is_installed for package in read_lock())
pytestmark = pytest.mark.skipif(
    not INSTALLED, reason="third-party files are not installed: python -m web.vendor"
)

WAIT_MS = 300_000  # the only model of a real size in these tests
LIMITS = {"stallMs": WAIT_MS, "clipMs": WAIT_MS, "loadMs": WAIT_MS}
NAMES = ("sentence-kokoro", "question-kokoro", "sentence-piper", "question-piper", "question-espeak")
DIGITS = dict(
    zip(
        "0123456789+",
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "plus"],
        strict=True,
    )
)
FORGIVEN = ("No available adapters", "status of 404")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperServer]:
    real = {real_whisper.NAME: real_whisper.files()}
    with serving_whisper(tmp_path_factory.mktemp("hub"), real=real) as rig:
        yield rig


@pytest.fixture(scope="module")
def visit(browser: Browser, rig: WhisperServer) -> Iterator[Visit]:
    """One visitor for all tests, so that the model is downloaded once."""
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as visit:
        yield visit


@pytest.fixture(scope="module")
def asr_page(visit: Visit) -> AsrPage:
    asr_page = AsrPage(visit, **LIMITS)
    loaded = asr_page.load(real_whisper.NAME)
    assert set(loaded["dtype"].values()) == {"q8"}
    return asr_page


def plain(words: Sequence[str]) -> list[str]:
    """Without case and punctuation, and digits as words."""
    bare = (re.sub(r"[^\w'+]", "", word).lower() for word in words)
    return [DIGITS.get(word, word) for word in bare]


def words_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [word for segment in result["segments"] for word in segment["words"]]


def check_times(words: list[dict[str, Any]], spoken: Recording, begins_s: float) -> None:
    """In order, within what sounds, and each near where the word is known to begin."""
    for before, after in itertools.pairwise(words):
        assert before["start"] <= before["end"] <= after["start"], (before, after)
    for word, (known, start_s) in zip(words, spoken.words, strict=True):
        assert abs(word["start"] - begins_s - start_s) < 0.3, (word, known, begins_s + start_s)
        middle_s = (word["start"] + word["end"]) / 2
        assert begins_s < middle_s < begins_s + spoken.end_s, (word, begins_s, spoken.end_s)


def transcribed(page: Page, file: Path) -> dict[str, Any]:
    """What the transcription page exports of a file."""
    page.locator("#file").set_input_files(file)
    expect(page.locator("#summary")).to_contain_text("of audio", timeout=WAIT_MS)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    return dict(json.loads(Path(download.value.path()).read_text(encoding="utf-8")))


def test_a_file_is_transcribed(visit: Visit, tmp_path: Path) -> None:
    """Every word right and in its place, of a stereo file at 48 kHz."""
    spoken, rate_hz, channels = recording("sentence-kokoro"), 48_000, 2
    sound = soxr.resample(np.concatenate([quiet(1), spoken.samples, quiet(2)]), RATE_HZ, rate_hz)
    file = tmp_path / "speech.wav"
    soundfile.write(file, np.stack([sound] * channels, axis=1), rate_hz)
    page = visit("/whisperx")
    page.locator("#model-choice").select_option(real_whisper.NAME)
    page.locator("#load").click()
    expect(page.locator("#model-state")).to_contain_text("Ready", timeout=WAIT_MS)
    words = words_of(transcribed(page, file))
    assert plain([word["word"] for word in words]) == [word for word, _ in spoken.words]
    check_times(words, spoken, 1)
    assert plain(page.locator("#segments .word").all_text_contents()) == [word for word, _ in spoken.words]
    page.close()


def test_long_pauses_neither_add_nor_move_words(asr_page: AsrPage) -> None:
    """70 s with five sentences of three voices: all words, at their times, and none in the pauses."""
    parts, begins_s, at_s = [quiet(2)], [], 2.0
    for name, pause_s in zip(NAMES, (13.0, 3.0, 20.0, 0.7, 20.0), strict=True):
        begins_s.append(at_s)
        samples = recording(name).samples
        parts += [samples, quiet(pause_s)]
        at_s += len(samples) / RATE_HZ + pause_s
    assert at_s > 65
    sound = np.concatenate(parts).astype(np.float32)
    result = asr_page.transcribe(sound, vad_filter=True, word_timestamps=True)
    words = words_of(result)
    assert plain([word["word"] for word in words]) == [
        word for name in NAMES for word, _ in recording(name).words
    ]
    for name, start_s in zip(NAMES, begins_s, strict=True):
        spoken = recording(name)
        own, words = words[: len(spoken.words)], words[len(spoken.words) :]
        check_times(own, spoken, start_s)


def test_quiet_speech_is_transcribed(asr_page: AsrPage) -> None:
    """45 dB below full scale, which a voice across a room may be."""
    spoken = recording("sentence-piper")
    faint = spoken.samples * 10 ** (-45 / 20)
    sound = np.concatenate([0.01 * quiet(1), faint, 0.01 * quiet(1)]).astype(np.float32)
    words = words_of(asr_page.transcribe(sound, vad_filter=True, word_timestamps=True))
    assert plain([word["word"] for word in words]) == [word for word, _ in spoken.words]


def test_the_last_words_of_a_call_are_written_down_after_it(
    playwright: Playwright, rig: WhisperServer, tmp_path: Path
) -> None:
    """Whisper is seconds behind: whoever stops at once finds the question in the transcript all the same."""
    spoken = recording("question-kokoro")
    file = tmp_path / "microphone.wav"
    # Silence first, while the call is being made; 6.5 s after it was opened the question is over.
    sound = np.concatenate([quiet(5), spoken.samples, quiet(25)])
    soundfile.write(file, sound, RATE_HZ, subtype="PCM_16")
    with (
        contextlib.closing(launch(playwright, *microphone(file))) as browser,
        visiting(browser, rig.server.origin, forgiven=FORGIVEN) as visit,
    ):
        page = visit()
        page.locator("#open-settings").click()
        page.get_by_label("Captions").select_option("whisper")
        page.get_by_label("Whisper model").select_option(real_whisper.NAME)
        expect(page.locator("#captions-state")).to_contain_text("is ready", timeout=WAIT_MS)
        page.locator("#close-settings").click()
        start(page)
        expect(page.locator("#elapsed")).to_have_text(re.compile("^0:(0[7-9]|1)"))
        stop(page)
        # Whisper writes numbers as it likes.
        asked = re.compile(r"^what is (2|two) ?(\+|plus) ?(5|five)\b", re.IGNORECASE)
        expect(page.locator("#lines .user p").first).to_have_text(asked, timeout=WAIT_MS)
        expect(page.locator("#transcript-status")).to_be_empty(timeout=WAIT_MS)
        expect(page.locator("#lines .user.open")).to_have_count(0)
