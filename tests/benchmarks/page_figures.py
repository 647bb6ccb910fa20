"""`PYTHONPATH=tests python tests/benchmarks/page_figures.py [--minutes 10] [--base PATH] [--rounds 1]`.

Measures the voice page in a real browser, with the embedded model: mic-to-speaker latency as measured by the
page, without device latency; underruns; time until the page is ready, and from pressing the button until the
call is live; memory. With `--base`, another checkout of this project (`git worktree add PATH COMMIT`) is
measured in turn with this one, each with its own server, so that both meet the same machine. Prints one JSON
object.
"""

import argparse
import json
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from playwright.sync_api import CDPSession, Page, sync_playwright
from support.browser.chromium import MICROPHONE, launch
from support.browser.servers import ROOT, Server, serving

READY_RUNS = 5
WARMUP_FRAMES = 125
START_MS = 20_000
SHARES = (50, 95, 99)

# The page's own clock: when it was ready, when the button was pressed, and when the call was live.
MOMENTS = """(() => {
  const moments = (window.moments = {});
  const isThere = (selector) => document.querySelector(selector) !== null;
  new MutationObserver(() => {
    if (isThere("#server[data-state=ready]")) moments.ready ??= performance.now();
    if (isThere("#call[data-phase=live], #stage[data-phase=live]")) moments.live ??= performance.now();
  }).observe(document, { subtree: true, childList: true, attributeFilter: ["data-state", "data-phase"] });
  addEventListener("click", ({ target }) => {
    if (target.closest("#talk") !== null) moments.pressed ??= performance.now();
  }, true);
})();"""

# The page keeps the last 250 latencies; a run is measured by all of them. `link` is that of their module.
KEEP_ALL = """async () => {
  const [link] = document.querySelectorAll("link[href$='/voice/percentiles.js']");
  const [kept] = Object.values(await import(link.href));
  const add = kept.prototype.add;
  window.latenciesMs = [];
  kept.prototype.add = function (value) {
    window.latenciesMs.push(value);
    add.call(this, value);
  };
}"""


@dataclass(frozen=True, slots=True)
class Names:
    """What the parts of the page are called in one version."""

    call: str
    panel: str
    figures: str

    def numbers(self, page: Page, name: str) -> list[float]:
        """The numbers in one statistic."""
        text = page.locator(f"#{self.figures}-{name}").inner_text()
        return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]

    def wait_phase(self, page: Page, phase: str) -> None:
        """Wait until the call is in this phase."""
        page.wait_for_selector(f"#{self.call}[data-phase={phase}]", timeout=START_MS)


NOW = Names("call", "stats", "stat")
FORMER = Names("stage", "status", "fig")  # before the renaming of November 2026


def ready_ms(page: Page, server: Server) -> float:
    """From the navigation until the page shows that the server is ready."""
    page.goto(server.origin + "/packet-voice")
    page.wait_for_selector("#server[data-state=ready]")
    return float(page.evaluate("window.moments.ready"))


def heap_mb(session: CDPSession) -> float:
    """The JavaScript heap of the page after a garbage collection."""
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize")) / 2**20


def renderer_mb() -> float:
    """The memory of the largest renderer process: heap, workers, worklets, canvases."""
    children = psutil.Process().children(recursive=True)
    renderers = [child for child in children if "--type=renderer" in " ".join(child.cmdline())]
    return float(max(child.memory_info().rss for child in renderers)) / 2**20


def measure(root: Path, minutes: float) -> dict[str, object]:
    """One visit to the page of the checkout at `root`."""
    with serving(config=root / "configs/tiny", root=root) as server, sync_playwright() as playwright:
        browser = launch(playwright, *MICROPHONE)
        page = browser.new_page()
        page.add_init_script(MOMENTS)
        ready = [ready_ms(page, server) for _ in range(READY_RUNS)]
        names = NOW if page.locator(f"#{NOW.call}").count() else FORMER
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.locator(f"#{names.panel} > summary").click()
        page.locator("#talk").click()
        names.wait_phase(page, "live")
        live_ms = float(page.evaluate("window.moments.live - window.moments.pressed"))
        page.wait_for_timeout(80 * WARMUP_FRAMES)
        memory = [(heap_mb(session), renderer_mb())]
        page.evaluate(KEEP_ALL)
        page.wait_for_timeout(60_000 * minutes)
        latencies = np.array(page.evaluate("window.latenciesMs"))
        memory.append((heap_mb(session), renderer_mb()))
        underruns, frames, *_ = names.numbers(page, "underruns")
        page.locator("#talk").click()
        names.wait_phase(page, "idle")
        browser.close()
    return {
        "frames": frames,
        **{f"p{share}_ms": round(float(np.percentile(latencies, share)), 1) for share in SHARES},
        "underruns": underruns,
        "ready_first_ms": round(ready[0]),
        "ready_ms": round(statistics.median(ready[1:])),
        "live_ms": round(live_ms),
        "heap_mb": [round(heap, 2) for heap, _ in memory],
        "renderer_mb": [round(rss, 1) for _, rss in memory],
    }


def compare(roots: Mapping[str, Path], minutes: float, rounds: int) -> dict[str, list[dict[str, object]]]:
    """Measure each checkout once in every round."""
    results: dict[str, list[dict[str, object]]] = {name: [] for name in roots}
    for _ in range(rounds):
        for name, root in roots.items():
            results[name].append(measure(root, minutes))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each visit")
    parser.add_argument("--base", type=Path, help="another checkout, measured in turn with this one")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    roots = {"this": ROOT} | ({} if options.base is None else {"base": options.base.resolve()})
    print(json.dumps(compare(roots, options.minutes, options.rounds), indent=1))


if __name__ == "__main__":
    main()
