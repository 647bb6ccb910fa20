"""`python tests/benchmarks/page_figures.py [--minutes 10]`: measure the voice page in a real browser.

Prints one JSON object: mic-to-speaker p50, p95 and p99 over the run, as measured by the page and without
device latency; underruns; time until the page is ready; memory of the page at the start and at the end.
"""

import argparse
import json
import statistics
import time

import numpy as np
import psutil
from playwright.sync_api import CDPSession, Page, sync_playwright
from support.browser.actions import numbers, open_panel, start, stop, until_played
from support.browser.chromium import MICROPHONE, launch
from support.browser.servers import Server, serving

READY_RUNS = 5
SAMPLE_S = 10.0


# The page keeps the last 250 latencies; a run is measured by all of them.
KEEP_ALL = """async () => {
  const [link] = document.querySelectorAll("link[href$='/voice/percentiles.js']");
  const { RollingPercentiles } = await import(link.href);
  const add = RollingPercentiles.prototype.add;
  window.latenciesMs = [];
  RollingPercentiles.prototype.add = function (value) {
    window.latenciesMs.push(value);
    add.call(this, value);
  };
}"""


def ready_ms(page: Page, server: Server) -> float:
    """From the navigation until the page shows that the server is ready."""
    began_s = time.perf_counter()
    page.goto(server.origin + "/packet-voice")
    page.wait_for_selector("#server[data-state=ready]")
    return 1000 * (time.perf_counter() - began_s)


def heap_mb(session: CDPSession) -> float:
    """The JavaScript heap of the page after a garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize") / 2**20


def renderer_mb() -> float:
    """The memory of the largest renderer process: heap, workers, worklets, canvases."""
    children = psutil.Process().children(recursive=True)
    renderers = [child for child in children if "--type=renderer" in " ".join(child.cmdline())]
    return max(child.memory_info().rss for child in renderers) / 2**20


def measure(minutes: float) -> dict[str, object]:
    with serving() as server, sync_playwright() as playwright:
        browser = launch(playwright, *MICROPHONE)
        page = browser.new_page()
        ready = [ready_ms(page, server) for _ in range(READY_RUNS)]
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        open_panel(page, "stats")
        start(page)
        until_played(page, 250)
        memory = [(heap_mb(session), renderer_mb())]
        page.evaluate(KEEP_ALL)
        worst = 0.0
        ends_s = time.monotonic() + 60 * minutes
        while time.monotonic() < ends_s:
            page.wait_for_timeout(1000 * SAMPLE_S)
            worst = max(worst, numbers(page, "latency")[1])
        latencies = np.array(page.evaluate("window.latenciesMs"))
        memory.append((heap_mb(session), renderer_mb()))
        underruns, frames, _ = numbers(page, "underruns")
        device_in_ms, device_out_ms = numbers(page, "device")
        report = {
            "minutes": minutes,
            "mic_to_speaker_ms": {
                "frames": len(latencies),
                **{f"p{share}": round(float(np.percentile(latencies, share)), 1) for share in (50, 95, 99)},
                "worst_window_p95": worst,
            },
            "device_ms": {"in": device_in_ms, "out": device_out_ms},
            "underruns": {
                "count": underruns,
                "frames": frames,
                "percent": round(100 * underruns / frames, 3),
            },
            "page_ready_ms": {"first": round(ready[0]), "median": round(statistics.median(ready))},
            "heap_mb": [round(heap, 2) for heap, _ in memory],
            "renderer_mb": [round(rss, 1) for _, rss in memory],
        }
        stop(page)
        browser.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    print(json.dumps(measure(parser.parse_args().minutes), indent=1))


if __name__ == "__main__":
    main()
