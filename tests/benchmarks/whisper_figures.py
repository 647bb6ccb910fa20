"""`PYTHONPATH=tests python tests/benchmarks/whisper_figures.py [--minutes 10]`: measure the ASR engine.

Uses the model of `tiny_whisper`. Prints one JSON object: load times cold and warm, the real-time factor
for 30 s of audio, and, once per minute of speech streamed as fast as possible, the heap after a garbage
collection, the memory of the renderer process, and the number of workers.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from page_figures import heap_mb, renderer_mb
from playwright.sync_api import sync_playwright
from support.browser import tiny_whisper
from support.browser.asr_page import AsrPage, packed
from support.browser.chromium import SPEECH, launch, visiting
from support.browser.whisper_server import serving_whisper

PAUSE_S = 1.2
STREAM = """async ({sound, minutes}) => {
  const stream = globalThis.stream ??= whisper.stream({});
  const all = samples(sound);
  for (let heard = 0; heard < minutes * 60 * 16000; heard += all.length) {
    stream.push(all);
    while (stream._pendingSamples > 0 || stream._windows.length > 2) {
      await new Promise((done) => setTimeout(done));
    }
  }
}"""


def measure(minutes: int) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_whisper(Path(folder)) as rig,
        sync_playwright() as playwright,
    ):
        browser = launch(playwright)
        with visiting(browser, rig.server.origin, forgiven=("No available adapters",)) as visit:
            cold = AsrPage(visit).load()
            asr_page = AsrPage(visit)
            warm = asr_page.load()
            sound = tiny_whisper.sound(*range(60))
            factors = []
            for _ in range(3):
                began_s = time.perf_counter()
                asr_page.transcribe(sound, language="en", word_timestamps=True)
                factors.append((time.perf_counter() - began_s) / 30)
            session = asr_page.page.context.new_cdp_session(asr_page.page)
            session.send("Performance.enable")
            sentence, _ = soundfile.read(SPEECH, dtype="float32")
            spoken = packed(np.concatenate([sentence, np.zeros(int(PAUSE_S * 16_000), np.float32)]))
            memory = []
            began_s = time.perf_counter()
            for minute in range(minutes + 1):
                asr_page.page.evaluate(STREAM, {"sound": spoken, "minutes": 1 if minute else 0.2})
                asr_page.page.evaluate("stream.flush()")
                workers = asr_page.page.evaluate("workers.size")
                memory.append((round(heap_mb(session), 2), round(renderer_mb(), 1), workers))
            report = {
                "load_cold_ms": round(cold["loadMs"]),
                "load_warm_ms": round(warm["loadMs"]),
                "device": warm["device"],
                "model_bytes": sum(file["bytes"] for file in warm["files"]),
                "real_time_factor": {"first": round(factors[0], 4), "best": round(min(factors), 4)},
                "stream_minutes": minutes,
                "stream_took_s": round(time.perf_counter() - began_s, 1),
                "utterances": len(asr_page.events("utterance")),
                "dropped": len(asr_page.events("dropped")),
                "heap_mb": [heap for heap, _, _ in memory],
                "renderer_mb": [rss for _, rss, _ in memory],
                "workers": [workers for _, _, workers in memory],
            }
        browser.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=10)
    print(json.dumps(measure(parser.parse_args().minutes), indent=1))


if __name__ == "__main__":
    main()
