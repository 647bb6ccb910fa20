"""Whisper in the browser: what a sound says is known beforehand, and comes out, whatever goes wrong."""

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
from support.browser.tiny_whisper import SLOT_S, WORDS
from support.browser.visitors import SPEECH, Visit, launch, visiting
from support.browser.whisper_rig import Listener, packed, texts
from support.browser.whispering import Whispering, repository, whispering

from web.vendor import read_lock

INSTALLED = all(package.is_installed for package in read_lock())
pytestmark = pytest.mark.skipif(
    not INSTALLED, reason="third-party files are not installed: python -m web.vendor"
)

RATE = 16_000
SENTENCE_S = 49443 / RATE
UNALIGNED = "onnx-community/whisper-unaligned"
GATED = "onnx-community/whisper-gated"
# A browser without a GPU says so, and writes each file that is not there into its console.
FORGIVEN = ("No available adapters", "status of 404")
FAILING = (*FORGIVEN, "status of", "net::ERR")  # where files that do not come are what a test is about
DECODER = "decoder_model_merged_quantized.onnx"
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whispering]:
    with whispering(tmp_path_factory.mktemp("hub")) as rig:
        rig.hub.add(UNALIGNED, tiny_whisper.files(aligned=False))
        rig.hub.add(GATED, {"config.json": b"{}"})
        rig.hub.gated.add(GATED)
        yield rig


@pytest.fixture(scope="module")
def listener(browser: Browser, rig: Whispering) -> Iterator[Listener]:
    """With the multilingual model; what it heard before does not matter."""
    with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as visit:
        listener = Listener(visit)
        listener.load()
        yield listener


@pytest.fixture
def visit(browser: Browser, rig: Whispering) -> Iterator[Visit]:
    """A visitor who was never here; some failures are what a test is about."""
    with visiting(browser, rig.server.origin, forgiven=FAILING) as visit:
        yield visit


def said(*slots: int) -> str:
    return "".join(WORDS[slot] for slot in slots)


def speech(*silences_s: float) -> npt.NDArray[np.float32]:
    """A recorded sentence, between silences of these lengths."""
    sentence, rate = soundfile.read(SPEECH, dtype="float32")
    assert rate == RATE
    noise = np.random.default_rng(0)
    gaps = [noise.normal(0, 1e-4, int(seconds * RATE)).astype(np.float32) for seconds in silences_s]
    parts = [gaps[0], *itertools.chain.from_iterable((sentence, gap) for gap in gaps[1:])]
    return np.concatenate(parts)


def test_a_sound_says_its_words_at_their_times(listener: Listener) -> None:
    """Text, segments and every word's start and end, within 60 ms."""
    result = listener.transcribe(tiny_whisper.sound(0, 1, 2, 3, 4, 6, 7, seconds=5), word_timestamps=True)
    first, second = result["segments"]
    assert (first["text"], second["text"]) == (said(0, 1, 2, 3, 4), said(6, 7))
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


def test_where_alignment_is_not_known_every_word_has_a_marked_share(visit: Visit) -> None:
    listener = Listener(visit)
    assert listener.load(UNALIGNED)["dtype"] == {"encoder_model": "fp32", "decoder_model_merged": "fp32"}
    (segment,) = listener.transcribe(tiny_whisper.sound(0, 1, 2), word_timestamps=True)["segments"]
    assert [word["word"] for word in segment["words"]] == [" alpha", " bravo", " charlie"]
    assert all(word["interpolated"] for word in segment["words"])
    ends = [(word["start"], word["end"]) for word in segment["words"]]
    assert ends[0][0] == 0
    assert abs(ends[-1][1] - 1.5) < 0.02
    assert all(start < end for start, end in ends)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ends))


def test_the_language_is_detected_unless_it_is_chosen(listener: Listener) -> None:
    english = listener.transcribe(tiny_whisper.sound(0, 1))["info"]
    german = listener.transcribe(tiny_whisper.sound(0, 1, high=True))["info"]
    chosen = listener.transcribe(tiny_whisper.sound(0, 1, high=True), language="fr")["info"]
    assert (english["language"], german["language"], chosen["language"]) == ("en", "de", "fr")
    assert german["language_probability"] > 0.9
    assert sum(share for _, share in german["all_language_probs"]) == pytest.approx(1)
    assert {code for code, _ in german["all_language_probs"]} == set(tiny_whisper.LANGUAGES)
    assert chosen["all_language_probs"] is None
    assert listener.transcribe_trouble(tiny_whisper.sound(0), language="tlh")["code"] == "options"


def test_what_repeats_itself_is_tried_again_warmer(listener: Listener) -> None:
    """The loop ends at a temperature, is said to have, and the same sound gives the same text again."""
    sound = tiny_whisper.sound(0, 1)
    stuck = listener.transcribe(sound, task="translate", temperature=0)["segments"][0]
    assert stuck["compression_ratio"] > 2.4
    assert stuck["tokens"].count(stuck["tokens"][1]) > 200
    freed = [listener.transcribe(sound, task="translate")["segments"][0] for _ in range(2)]
    assert freed[0]["temperature"] > 0
    assert freed[0]["compression_ratio"] <= 2.4
    assert freed[0] == freed[1]


def test_every_decode_ends_at_max_new_tokens(listener: Listener) -> None:
    """Or where the decoder's positions end, of which a prompt takes up to half."""
    sound = tiny_whisper.sound(0, 1)
    (segment,) = listener.transcribe(sound, task="translate", temperature=0, max_new_tokens=20)["segments"]
    assert len(segment["tokens"]) == 20
    prompt = "a prompt longer than what fits " * 20
    (segment,) = listener.transcribe(sound, task="translate", temperature=0, initial_prompt=prompt)[
        "segments"
    ]
    assert len(segment["tokens"]) == tiny_whisper.TARGETS - 223 - 4


def test_silence_says_nothing(listener: Listener) -> None:
    result = listener.transcribe(tiny_whisper.sound(seconds=3))
    assert result["segments"] == []


def test_a_long_recording_is_heard_to_its_end(listener: Listener) -> None:
    """75 s without voice detection: three windows, each going on where timestamps said."""
    slots = [slot for slot in range(150) if slot % 10 != 9]
    sound = tiny_whisper.sound(*slots, seconds=75)
    segments = listener.transcribe(sound, language="en")["segments"]
    assert [segment["id"] for segment in segments] == list(range(1, len(segments) + 1))
    assert all(before["end"] <= after["start"] for before, after in itertools.pairwise(segments))
    assert [segment["start"] for segment in segments] == pytest.approx([5 * n for n in range(15)], abs=0.1)
    assert {segment["seek"] for segment in segments} == {0, 3000, 6000}


def test_options_are_read_strictly(listener: Listener) -> None:
    sound = tiny_whisper.sound(0)
    for options, name in (
        ({"beam_size": 5}, "beam_size"),
        ({"task": "sing"}, "task"),
        ({"vad_parameters": {"threshold": 2}}, "vad_parameters.threshold"),
        ({"max_new_tokens": 1000}, "max_new_tokens"),
    ):
        trouble = listener.transcribe_trouble(sound, **options)
        assert trouble["code"] == "options"
        assert name in trouble["message"]


def test_speech_is_found_where_it_is(listener: Listener) -> None:
    """Windows begin within 150 ms of the sentence; silence is left out, and times are the recording's."""
    sound = speech(2.5, 4.0, 1.5)
    starts = [2.5, 2.5 + SENTENCE_S + 4.0]
    vad = {"speech_pad_ms": 0, "min_silence_duration_ms": 600}
    result = listener.transcribe(sound, vad_filter=True, vad_parameters=vad)
    assert result["info"]["duration_after_vad"] < 7.5 < result["info"]["duration"]
    assert result["info"]["vad_options"]["speech_pad_ms"] == 0
    assert result["segments"]
    found = listener.page.evaluate(
        """async ([sound, vad]) => {
          const runs = await whisper._ear.cut(samples(sound), vad);
          return runs.map(({start}) => start / 16000);
        }""",
        [packed(sound), result["info"]["vad_options"]],
    )
    assert found == pytest.approx(starts, abs=0.15)


def test_a_stream_tells_words_while_they_are_spoken_and_takes_none_back(listener: Listener) -> None:
    """Partials grow, the final text of each utterance follows, and all of it is in order."""
    listener.page.evaluate("told.length = 0")
    listener.stream(speech(1.0, 1.2, 1.2))
    begun = [event["start"] for event in listener.told("speech")]
    assert begun == pytest.approx([1.0, 1.0 + SENTENCE_S + 1.2], abs=0.15)
    utterances = listener.told("utterance")
    assert len(utterances) == 2
    segments = [final["segment"] for final in listener.told("final")]
    assert segments == [segment for utterance in utterances for segment in utterance["segments"]]
    assert [segment["id"] for segment in segments] == list(range(1, len(segments) + 1))
    for utterance in utterances:
        partials = [p for p in listener.told("partial") if p["start"] == pytest.approx(utterance["start"])]
        assert len(partials) >= 2
        for before, after in itertools.pairwise(partials):
            assert after["stable"].startswith(before["stable"])
            assert after["end"] > before["end"]
        assert all(partial["text"].startswith(partial["stable"]) for partial in partials)
        assert partials[-1]["stable"]
        assert utterance["text"].startswith(partials[-1]["stable"])
    assert listener.told("dropped") == listener.told("error") == []


def test_a_model_is_fetched_once_and_then_needs_no_hub(visit: Visit) -> None:
    """Cold: every file, with progress. Warm: not one request for it."""
    listener = Listener(visit)
    planned = listener.plan("base")
    assert [file["cached"] for file in planned["files"]] == [False] * 7
    cold = listener.load("base")
    assert [file["file"] for file in cold["files"]] == [file["file"] for file in planned["files"]]
    assert [file["bytes"] for file in cold["files"]] == [file["bytes"] for file in planned["files"]]
    last = {event["file"]: event for event in listener.told("progress")}
    assert all(last[file["file"]]["loaded"] == file["bytes"] for file in cold["files"])
    assert all(last[file["file"]]["total"] == file["bytes"] for file in cold["files"])

    asked: list[str] = []

    def forbid(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    again = Listener(visit)
    again.page.context.route("**/api/hf/**", forbid)
    warm = again.load("base")
    assert [file["cached"] for file in warm["files"]] == [True] * 7
    assert texts(again.transcribe(tiny_whisper.sound(0, 1))) == said(0, 1)
    assert asked == []


def test_what_the_hub_refuses_is_said_in_words(visit: Visit, rig: Whispering) -> None:
    listener = Listener(visit)
    unknown = listener.load_trouble("onnx-community/whisper-unknown")
    assert unknown["code"] in {"gone", "gated"}  # the public hub does not tell one from the other
    gated = listener.load_trouble(GATED)
    assert gated["code"] == "gated"
    assert "HF_TOKEN" in gated["message"]
    refused = listener.load_trouble("elsewhere/whisper")
    assert refused["code"] == "refused"
    absent = listener.load_trouble("tiny", dtype="fp16")
    assert absent["code"] == "gone"
    assert "encoder_model_fp16.onnx" in absent["message"]
    rig.hub.down = True
    try:
        assert listener.load_trouble("small.en")["code"] == "unreachable"
    finally:
        rig.hub.down = False
    assert listener.load("small.en")["device"] == "wasm"


def test_a_file_that_breaks_off_is_not_kept_and_comes_the_next_time(visit: Visit, rig: Whispering) -> None:
    """The hub breaks off, the proxy with it; what the proxy had by then is not asked for again."""
    listener = Listener(visit)
    rig.hub.broken.add(DECODER)
    trouble = listener.load_trouble("small")
    assert (trouble["code"], trouble["facts"]["file"]) == ("cut", f"onnx/{DECODER}")
    rig.hub.broken.clear()
    kept = {file["file"]: file["cached"] for file in listener.load("small")["files"]}
    assert not kept[f"onnx/{DECODER}"]
    assert kept["config.json"]
    rest = rig.hub.received("GET", f"cdn/{repository('small')}")[-1]
    assert rest is not None  # a Range: the hub was asked for the rest alone
    assert texts(listener.transcribe(tiny_whisper.sound(0, 1))) == said(0, 1)


def test_a_hub_that_goes_silent_is_not_waited_for_and_one_that_is_gone_is_not_missed(
    browser: Browser, tmp_path: Path
) -> None:
    """Silent from the start or in the middle: words. Gone: what anybody had before comes from the proxy."""
    with whispering(tmp_path, "proxy.timeout_s=2", "proxy.fresh_s=0") as rig:
        with visiting(browser, rig.server.origin, forgiven=FAILING) as visit:
            listener = Listener(visit)
            rig.hub.silent["config.json"] = threading.Event()
            silent = listener.load_trouble("base")
            assert silent["code"] == "unreachable"
            assert "did not answer within 2 s" in silent["message"]
            rig.hub.silent.pop("config.json").set()
            rig.hub.held[DECODER] = threading.Event()
            assert listener.load_trouble("base")["code"] == "cut"
            rig.hub.held.pop(DECODER).set()
            assert listener.load("base")["device"] == "wasm"
        rig.end_hub()
        with visiting(browser, rig.server.origin, forgiven=FAILING) as visit:
            listener = Listener(visit)
            assert listener.load_trouble("tiny")["code"] == "unreachable"
            assert [file["cached"] for file in listener.load("base")["files"]] == [False] * 7
            assert texts(listener.transcribe(tiny_whisper.sound(0, 1))) == said(0, 1)


def look_elsewhere(browser: Browser, origin: str, where: str) -> None:
    look = "fetch('http://127.0.0.2:9/').catch(() => 0)"
    in_worker = "new Promise((done) => { new Worker('/look.js').onmessage = () => done(); })"
    files = {"/look": "", "/look.js": f"{look}.then(() => postMessage(0))"}
    with visiting(browser, origin, forgiven=("",)) as visit:
        page = visit("/health/live")
        for path, body in files.items():
            kind = "text/javascript" if path.endswith(".js") else "text/html"
            page.route(f"**{path}", partial(Route.fulfill, body=body, content_type=kind))
        page.goto(f"{origin}/look")  # a page that no policy holds back
        page.evaluate(look if where == "page" else in_worker)


@pytest.mark.parametrize("where", ["page", "worker"])
def test_a_look_elsewhere_would_be_found_out(browser: Browser, rig: Whispering, where: str) -> None:
    """Every test here fails on a request to another origin, also where a worker makes it."""
    with pytest.raises(AssertionError):
        look_elsewhere(browser, rig.server.origin, where)


def test_a_decode_that_hangs_is_ended_and_the_next_one_goes_on(visit: Visit) -> None:
    """Its window is dropped and said to be; another worker is loaded from the cache."""
    listener = Listener(visit)
    listener.load()
    sound = tiny_whisper.sound(0, 1)
    assert texts(listener.transcribe(sound)) == said(0, 1)
    listener.page.evaluate("whisper._scribe.limits.clipMs = 1")
    assert listener.transcribe(sound)["segments"] == []
    (dropped,) = listener.told("dropped")
    assert (dropped["reason"], dropped["start"], dropped["end"]) == ("stalled", 0, 1)
    assert [event["reason"] for event in listener.told("recycled")] == ["stalled"]
    listener.page.evaluate("whisper._scribe.limits.clipMs = 60000")
    assert texts(listener.transcribe(sound)) == said(0, 1)
    assert listener.page.evaluate("workers.size") == 1


def test_a_crashed_worker_is_replaced_and_nothing_is_lost(visit: Visit) -> None:
    listener = Listener(visit)
    listener.load()
    result = listener.page.evaluate(
        """async (sound) => {
          const result = whisper.transcribe(samples(sound));
          while (whisper._scribe._waiting === null) await new Promise((done) => setTimeout(done));
          whisper._scribe._worker.onerror(new ErrorEvent("error", { message: "out of memory" }));
          return result;
        }""",
        packed(tiny_whisper.sound(0, 1)),
    )
    assert texts(result) == said(0, 1)
    assert [event["reason"] for event in listener.told("recycled")] == ["crashed"]


def test_workers_are_replaced_before_they_grow_and_none_is_left_over(visit: Visit) -> None:
    listener = Listener(visit, clips={"wasm": 2, "webgpu": 2})
    listener.load()
    for _ in range(3):
        assert texts(listener.transcribe(tiny_whisper.sound(0, 1))) == said(0, 1)
        assert listener.page.evaluate("workers.size") == 1
    assert [event["reason"] for event in listener.told("recycled")] == ["clips"]
    listener.page.evaluate("whisper.close()")
    assert listener.page.evaluate("workers.size") == 0


def test_a_transcription_can_be_cancelled_and_another_begun(listener: Listener) -> None:
    slots = [slot for slot in range(150) if slot % 10 != 9]
    outcome = listener.page.evaluate(
        """async (sound) => {
          const result = outcome(whisper.transcribe(samples(sound)));
          whisper._onEvent = () => whisper.cancel();
          const told = await result;
          whisper._onEvent = (event) => globalThis.told.push(event);
          return told;
        }""",
        packed(tiny_whisper.sound(*slots, seconds=75)),
    )
    assert outcome["trouble"]["code"] == "cancelled"
    assert texts(listener.transcribe(tiny_whisper.sound(0))) == said(0)


def test_without_vendored_files_a_page_says_what_to_run(visit: Visit) -> None:
    page = visit("/health/live")

    def without(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=re.sub(r'<link rel="vendored"[^>]*>', "", answer.text()))

    page.context.route("**/packet-voice", without)
    trouble = Listener(visit).load_trouble()
    assert trouble["code"] == "missing"
    assert "python -m web.vendor" in trouble["message"]


def test_a_gpu_computes_the_same_and_one_made_of_software_is_none(
    playwright: Playwright, rig: Whispering
) -> None:
    """Software WebGPU is slow, so that it is used only where an address asks for it."""
    browser = launch(playwright, *SOFTWARE_GPU)
    try:
        with visiting(browser, rig.server.origin, forgiven=FORGIVEN) as visit:
            listener = Listener(visit)
            planned = listener.plan()
            assert (planned["device"], planned["reason"]) == ("wasm", "the only GPU is made of software")
            listener = Listener(visit, path="/packet-voice?software-gpu")
            loaded = listener.load()
            assert loaded["device"] == "webgpu"
            assert "swiftshader" in loaded["reason"]
            result = listener.transcribe(tiny_whisper.sound(1), language="en", word_timestamps=True)
            (word,) = result["segments"][0]["words"]
            assert word["word"] == WORDS[1]
            assert [word["start"], word["end"]] == pytest.approx([SLOT_S, 2 * SLOT_S], abs=0.06)
    finally:
        browser.close()
