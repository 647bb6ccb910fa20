"""The transcription engine in a browser, with a tiny model whose transcript is known."""

import itertools
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from playwright.sync_api import Browser, Playwright, Route
from support.browser import tiny_whisper
from support.browser.asr_page import AsrPage, packed, texts
from support.browser.chromium import SPEECH, Visit, launch, visiting
from support.browser.tiny_whisper import SLOT_S, WORDS
from support.browser.whisper_server import WhisperServer, repository, serving_whisper

from web.vendor import read_lock

INSTALLED = all(package.is_installed for package in read_lock())
pytestmark = pytest.mark.skipif(
    not INSTALLED, reason="third-party files are not installed: python -m web.vendor"
)

RATE = 16_000
SENTENCE_S = 49443 / RATE
UNALIGNED = "onnx-community/whisper-unaligned"
GATED = "onnx-community/whisper-gated"
# Browsers log a missing GPU and every 404 to the console.
FORGIVEN = ("No available adapters", "status of 404")
FAILING = (*FORGIVEN, "status of", "net::ERR")  # for tests of failing downloads
DECODER = "decoder_model_merged_quantized.onnx"
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WhisperServer]:
    with serving_whisper(tmp_path_factory.mktemp("hub")) as rig:
        rig.hub.add(UNALIGNED, tiny_whisper.files(aligned=False))
        rig.hub.add(GATED, {"config.json": b"{}"})
        rig.hub.gated.add(GATED)
        yield rig


@pytest.fixture(scope="module")
def asr_page(browser: Browser, rig: WhisperServer) -> Iterator[AsrPage]:
    """With the multilingual model, shared by tests that do not depend on each other."""
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as visit:
        asr_page = AsrPage(visit)
        asr_page.load()
        yield asr_page


@pytest.fixture
def visit(browser: Browser, rig: WhisperServer) -> Iterator[Visit]:
    """A visitor with an empty cache; failing requests are allowed."""
    with visiting(browser, rig.server.origin, forgiven=FAILING) as visit:
        yield visit


def text_of(*slots: int) -> str:
    return "".join(WORDS[slot] for slot in slots)


def speech(*silences_s: float) -> npt.NDArray[np.float32]:
    """A recorded sentence, between silences of these lengths."""
    sentence, rate = soundfile.read(SPEECH, dtype="float32")
    assert rate == RATE
    noise = np.random.default_rng(0)
    gaps = [noise.normal(0, 1e-4, int(seconds * RATE)).astype(np.float32) for seconds in silences_s]
    parts = [gaps[0], *itertools.chain.from_iterable((sentence, gap) for gap in gaps[1:])]
    return np.concatenate(parts)


def test_words_have_the_right_times(asr_page: AsrPage) -> None:
    """Text, segments and every word's start and end, within 60 ms."""
    result = asr_page.transcribe(tiny_whisper.sound(0, 1, 2, 3, 4, 6, 7, seconds=5), word_timestamps=True)
    first, second = result["segments"]
    assert (first["text"], second["text"]) == (text_of(0, 1, 2, 3, 4), text_of(6, 7))
    words = [word for segment in (first, second) for word in segment["words"]]
    expected = [(" alpha", 0, 1), (" bravo", 1, 2), (" charlie", 2, 3), (" delta", 3, 5)]
    expected += [(" foxtrot", 6, 7), (" golf", 7, 8)]
    assert [word["word"] for word in words] == [word for word, _, _ in expected]
    for word, (_, start, end) in zip(words, expected, strict=True):
        assert abs(word["start"] - start * SLOT_S) <= 0.06, word
        assert abs(word["end"] - end * SLOT_S) <= 0.06, word
        assert word["probability"] > 0.9
        assert "interpolated" not in word
    fields = "id seek start end text tokens avg_logprob compression_ratio no_speech_prob words temperature"
    assert set(first) == set(fields.split())
    assert [first["id"], second["id"]] == [1, 2]
    assert -0.1 < first["avg_logprob"] <= 0
    assert first["temperature"] == 0
    assert first["no_speech_prob"] < 0.01
    fields = "language language_probability all_language_probs duration duration_after_vad"
    assert set(result["info"]) == {*fields.split(), "transcription_options", "vad_options"}
    assert (result["info"]["duration"], result["info"]["vad_options"]) == (5, None)


def test_without_alignment_heads_word_times_are_interpolated_and_marked(visit: Visit) -> None:
    asr_page = AsrPage(visit)
    assert asr_page.load(UNALIGNED)["dtype"] == {"encoder_model": "fp32", "decoder_model_merged": "fp32"}
    (segment,) = asr_page.transcribe(tiny_whisper.sound(0, 1, 2), word_timestamps=True)["segments"]
    assert [word["word"] for word in segment["words"]] == [" alpha", " bravo", " charlie"]
    assert all(word["interpolated"] for word in segment["words"])
    ends = [(word["start"], word["end"]) for word in segment["words"]]
    assert ends[0][0] == 0
    assert abs(ends[-1][1] - 1.5) < 0.02
    assert all(start < end for start, end in ends)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))


def test_the_language_is_detected_unless_given(asr_page: AsrPage) -> None:
    english = asr_page.transcribe(tiny_whisper.sound(0, 1))["info"]
    german = asr_page.transcribe(tiny_whisper.sound(0, 1, high=True))["info"]
    chosen = asr_page.transcribe(tiny_whisper.sound(0, 1, high=True), language="fr")["info"]
    assert (english["language"], german["language"], chosen["language"]) == ("en", "de", "fr")
    assert german["language_probability"] > 0.9
    assert sum(share for _, share in german["all_language_probs"]) == pytest.approx(1)
    assert {code for code, _ in german["all_language_probs"]} == set(tiny_whisper.LANGUAGES)
    assert chosen["all_language_probs"] is None
    assert asr_page.transcribe_error(tiny_whisper.sound(0), language="tlh")["code"] == "options"


def test_a_repetitive_hypothesis_is_retried_at_a_higher_temperature(asr_page: AsrPage) -> None:
    """The result reports its temperature, and is the same each time."""
    sound = tiny_whisper.sound(0, 1)
    stuck = asr_page.transcribe(sound, task="translate", temperature=0)["segments"][0]
    assert stuck["compression_ratio"] > 2.4
    assert stuck["tokens"].count(stuck["tokens"][1]) > 200
    freed = [asr_page.transcribe(sound, task="translate")["segments"][0] for _ in range(2)]
    assert freed[0]["temperature"] > 0
    assert freed[0]["compression_ratio"] <= 2.4
    assert freed[0] == freed[1]


def test_every_decode_ends_at_max_new_tokens(asr_page: AsrPage) -> None:
    """Or at the end of the decoder's positions, of which the prompt may take half."""
    sound = tiny_whisper.sound(0, 1)
    (segment,) = asr_page.transcribe(sound, task="translate", temperature=0, max_new_tokens=20)["segments"]
    assert len(segment["tokens"]) == 20
    prompt = "a prompt longer than what fits " * 20
    (segment,) = asr_page.transcribe(sound, task="translate", temperature=0, initial_prompt=prompt)[
        "segments"
    ]
    assert len(segment["tokens"]) == tiny_whisper.TARGETS - 223 - 4


def test_silence_gives_no_segments(asr_page: AsrPage) -> None:
    result = asr_page.transcribe(tiny_whisper.sound(seconds=3))
    assert result["segments"] == []


def test_a_long_recording_is_transcribed_completely(asr_page: AsrPage) -> None:
    """75 s without VAD: three windows, each starting at the last timestamp."""
    slots = [slot for slot in range(150) if slot % 10 != 9]
    sound = tiny_whisper.sound(*slots, seconds=75)
    segments = asr_page.transcribe(sound, language="en")["segments"]
    assert [segment["id"] for segment in segments] == list(range(1, len(segments) + 1))
    assert all(before["end"] <= after["start"] for before, after in itertools.pairwise(segments))
    assert [segment["start"] for segment in segments] == pytest.approx([5 * n for n in range(15)], abs=0.1)
    assert {segment["seek"] for segment in segments} == {0, 3000, 6000}


def test_invalid_options_are_rejected(asr_page: AsrPage) -> None:
    sound = tiny_whisper.sound(0)
    for options, name in (
        ({"beam_size": 5}, "beam_size"),
        ({"task": "sing"}, "task"),
        ({"vad_parameters": {"threshold": 2}}, "vad_parameters.threshold"),
        ({"max_new_tokens": 1000}, "max_new_tokens"),
    ):
        error = asr_page.transcribe_error(sound, **options)
        assert error["code"] == "options"
        assert name in error["message"]


def test_speech_is_found(asr_page: AsrPage) -> None:
    """Runs start within 150 ms of the sentences; silence is skipped; times are those of the recording."""
    sound = speech(2.5, 4.0, 1.5)
    starts = [2.5, 2.5 + SENTENCE_S + 4.0]
    vad = {"speech_pad_ms": 0, "min_silence_duration_ms": 600}
    result = asr_page.transcribe(sound, vad_filter=True, vad_parameters=vad)
    assert result["info"]["duration_after_vad"] < 7.5 < result["info"]["duration"]
    assert result["info"]["vad_options"]["speech_pad_ms"] == 0
    assert result["segments"]
    found = asr_page.page.evaluate(
        """async ([sound, vad]) => {
          const runs = await whisper._vadClient.findSpeech(samples(sound), vad);
          return runs.map(({start}) => start / 16000);
        }""",
        [packed(sound), result["info"]["vad_options"]],
    )
    assert found == pytest.approx(starts, abs=0.15)


def test_a_stream_emits_partials_and_never_changes_stable_text(asr_page: AsrPage) -> None:
    """Partials grow, then the final text of each utterance follows, in order."""
    asr_page.page.evaluate("events.length = 0")
    asr_page.stream(speech(1.0, 1.2, 1.2))
    begun = [event["start"] for event in asr_page.events("speech")]
    assert begun == pytest.approx([1.0, 1.0 + SENTENCE_S + 1.2], abs=0.15)
    utterances = asr_page.events("utterance")
    assert len(utterances) == 2
    segments = [final["segment"] for final in asr_page.events("final")]
    assert segments == [segment for utterance in utterances for segment in utterance["segments"]]
    assert [segment["id"] for segment in segments] == list(range(1, len(segments) + 1))
    for utterance in utterances:
        partials = [p for p in asr_page.events("partial") if p["start"] == pytest.approx(utterance["start"])]
        assert len(partials) >= 2
        for before, after in itertools.pairwise(partials):
            assert after["stable"].startswith(before["stable"])
            assert after["end"] > before["end"]
        assert all(partial["text"].startswith(partial["stable"]) for partial in partials)
        assert partials[-1]["stable"]
        assert utterance["text"].startswith(partials[-1]["stable"])
    assert asr_page.events("dropped") == asr_page.events("error") == []


def test_a_model_is_downloaded_once(visit: Visit) -> None:
    """Cold: every file, with progress. Warm: no request."""
    asr_page = AsrPage(visit)
    planned = asr_page.plan("base")
    assert [file["cached"] for file in planned["files"]] == [False] * 7
    cold = asr_page.load("base")
    assert [file["file"] for file in cold["files"]] == [file["file"] for file in planned["files"]]
    assert [file["bytes"] for file in cold["files"]] == [file["bytes"] for file in planned["files"]]
    last = {event["file"]: event for event in asr_page.events("progress")}
    assert all(last[file["file"]]["loaded"] == file["bytes"] for file in cold["files"])
    assert all(last[file["file"]]["total"] == file["bytes"] for file in cold["files"])

    asked: list[str] = []

    def forbid(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    again = AsrPage(visit)
    again.page.context.route("**/api/hf/**", forbid)
    warm = again.load("base")
    assert [file["cached"] for file in warm["files"]] == [True] * 7
    assert texts(again.transcribe(tiny_whisper.sound(0, 1))) == text_of(0, 1)
    assert asked == []


def test_hub_errors_have_codes_and_messages(visit: Visit, rig: WhisperServer) -> None:
    asr_page = AsrPage(visit)
    unknown = asr_page.load_error("onnx-community/whisper-unknown")
    assert unknown["code"] in {"gone", "gated"}  # the public hub does not distinguish them
    gated = asr_page.load_error(GATED)
    assert gated["code"] == "gated"
    assert "HF_TOKEN" in gated["message"]
    refused = asr_page.load_error("elsewhere/whisper")
    assert refused["code"] == "refused"
    absent = asr_page.load_error("tiny", dtype="fp16")
    assert absent["code"] == "gone"
    assert "encoder_model_fp16.onnx" in absent["message"]
    rig.hub.down = True
    try:
        assert asr_page.load_error("small.en")["code"] == "unreachable"
    finally:
        rig.hub.down = False
    assert asr_page.load("small.en")["device"] == "wasm"


def test_a_truncated_file_is_not_cached_and_is_fetched_again(visit: Visit, rig: WhisperServer) -> None:
    """The proxy resumes where the hub stopped, with a range request."""
    asr_page = AsrPage(visit)
    rig.hub.broken.add(DECODER)
    error = asr_page.load_error("small")
    assert (error["code"], error["facts"]["file"]) == ("cut", f"onnx/{DECODER}")
    rig.hub.broken.clear()
    kept = {file["file"]: file["cached"] for file in asr_page.load("small")["files"]}
    assert not kept[f"onnx/{DECODER}"]
    assert kept["config.json"]
    rest = rig.hub.received("GET", f"cdn/{repository('small')}")[-1]
    assert rest is not None  # a range request for the remainder only
    assert texts(asr_page.transcribe(tiny_whisper.sound(0, 1))) == text_of(0, 1)


def test_a_silent_hub_times_out_and_an_absent_one_is_replaced_by_the_proxy_cache(
    browser: Browser, tmp_path: Path
) -> None:
    """Silent from the start or midway: an error. Absent: cached models are served by the proxy."""
    with serving_whisper(tmp_path, "proxy.timeout_s=2", "proxy.fresh_s=0") as rig:
        with visiting(browser, rig.server.origin, forgiven=FAILING) as visit:
            asr_page = AsrPage(visit)
            rig.hub.silent["config.json"] = threading.Event()
            silent = asr_page.load_error("base")
            assert silent["code"] == "unreachable"
            assert "did not answer within 2 s" in silent["message"]
            rig.hub.silent.pop("config.json").set()
            rig.hub.held[DECODER] = threading.Event()
            assert asr_page.load_error("base")["code"] == "cut"
            rig.hub.held.pop(DECODER).set()
            assert asr_page.load("base")["device"] == "wasm"
        rig.end_hub()
        with visiting(browser, rig.server.origin, forgiven=FAILING) as visit:
            asr_page = AsrPage(visit)
            assert asr_page.load_error("tiny")["code"] == "unreachable"
            assert [file["cached"] for file in asr_page.load("base")["files"]] == [False] * 7
            assert texts(asr_page.transcribe(tiny_whisper.sound(0, 1))) == text_of(0, 1)


def fetch_from_another_origin(browser: Browser, origin: str, where: str) -> None:
    look = "fetch('http://127.0.0.2:9/').catch(() => 0)"
    in_worker = "new Promise((done) => { new Worker('/look.js').onmessage = () => done(); })"
    files = {"/look": "", "/look.js": f"{look}.then(() => postMessage(0))"}
    with visiting(browser, origin, forgiven=("",)) as visit:
        page = visit("/health/live")
        for path, body in files.items():
            kind = "text/javascript" if path.endswith(".js") else "text/html"
            page.route(f"**{path}", partial(Route.fulfill, body=body, content_type=kind))
        page.goto(f"{origin}/look")  # a page without a content security policy
        page.evaluate(look if where == "page" else in_worker)


@pytest.mark.parametrize("where", ["page", "worker"])
def test_requests_to_other_origins_are_detected(browser: Browser, rig: WhisperServer, where: str) -> None:
    """Every test fails on a request to another origin, also from a worker."""
    with pytest.raises(AssertionError):
        fetch_from_another_origin(browser, rig.server.origin, where)


def test_a_hanging_decode_is_terminated_and_the_next_one_works(visit: Visit) -> None:
    """Its window is reported as dropped; a new worker is loaded from the cache."""
    asr_page = AsrPage(visit)
    asr_page.load()
    sound = tiny_whisper.sound(0, 1)
    assert texts(asr_page.transcribe(sound)) == text_of(0, 1)
    asr_page.page.evaluate("whisper._asrClient.limits.clipMs = 1")
    assert asr_page.transcribe(sound)["segments"] == []
    (dropped,) = asr_page.events("dropped")
    assert (dropped["reason"], dropped["start"], dropped["end"]) == ("stalled", 0, 1)
    assert [event["reason"] for event in asr_page.events("recycled")] == ["stalled"]
    asr_page.page.evaluate("whisper._asrClient.limits.clipMs = 60000")
    assert texts(asr_page.transcribe(sound)) == text_of(0, 1)
    assert asr_page.page.evaluate("workers.size") == 1


def test_a_crashed_worker_is_replaced_and_the_clip_decoded_again(visit: Visit) -> None:
    asr_page = AsrPage(visit)
    asr_page.load()
    result = asr_page.page.evaluate(
        """async (sound) => {
          const result = whisper.transcribe(samples(sound));
          while (whisper._asrClient._pending === null) await new Promise((done) => setTimeout(done));
          whisper._asrClient._worker.onerror(new ErrorEvent("error", { message: "out of memory" }));
          return result;
        }""",
        packed(tiny_whisper.sound(0, 1)),
    )
    assert texts(result) == text_of(0, 1)
    assert [event["reason"] for event in asr_page.events("recycled")] == ["crashed"]


def test_workers_are_replaced_regularly_and_terminated_on_close(visit: Visit) -> None:
    asr_page = AsrPage(visit, clips={"wasm": 2, "webgpu": 2})
    asr_page.load()
    for _ in range(3):
        assert texts(asr_page.transcribe(tiny_whisper.sound(0, 1))) == text_of(0, 1)
        assert asr_page.page.evaluate("workers.size") == 1
    assert [event["reason"] for event in asr_page.events("recycled")] == ["clips"]
    asr_page.page.evaluate("whisper.close()")
    assert asr_page.page.evaluate("workers.size") == 0


def test_a_transcription_can_be_cancelled_and_another_started(asr_page: AsrPage) -> None:
    slots = [slot for slot in range(150) if slot % 10 != 9]
    outcome = asr_page.page.evaluate(
        """async (sound) => {
          const result = outcome(whisper.transcribe(samples(sound)));
          whisper._onEvent = () => whisper.cancel();
          const events = await result;
          whisper._onEvent = (event) => globalThis.events.push(event);
          return events;
        }""",
        packed(tiny_whisper.sound(*slots, seconds=75)),
    )
    assert outcome["error"]["code"] == "cancelled"
    assert texts(asr_page.transcribe(tiny_whisper.sound(0))) == text_of(0)


def test_missing_vendored_files_are_reported_with_the_command(visit: Visit) -> None:
    page = visit("/health/live")

    def without(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=re.sub(r'<link rel="vendored"[^>]*>', "", answer.text()))

    page.context.route("**/packet-voice", without)
    error = AsrPage(visit).load_error()
    assert error["code"] == "missing"
    assert "python -m web.vendor" in error["message"]


def test_webgpu_gives_the_same_result_and_software_gpus_are_not_chosen(
    playwright: Playwright, rig: WhisperServer
) -> None:
    """Software WebGPU is slow, so it is used only if requested in the URL."""
    browser = launch(playwright, *SOFTWARE_GPU)
    try:
        with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as visit:
            asr_page = AsrPage(visit)
            planned = asr_page.plan()
            assert (planned["device"], planned["reason"]) == ("wasm", "only a software GPU is available")
            asr_page = AsrPage(visit, path="/packet-voice?software-gpu")
            loaded = asr_page.load()
            assert loaded["device"] == "webgpu"
            assert "swiftshader" in loaded["reason"]
            result = asr_page.transcribe(tiny_whisper.sound(1), language="en", word_timestamps=True)
            (word,) = result["segments"][0]["words"]
            assert word["word"] == WORDS[1]
            assert [word["start"], word["end"]] == pytest.approx([SLOT_S, 2 * SLOT_S], abs=0.06)
    finally:
        browser.close()
