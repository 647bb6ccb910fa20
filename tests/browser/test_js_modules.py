"""The page's modules pass their own tests in a browser, loaded as the page loads them."""

import re
from pathlib import Path

import pytest
from support.browser.chromium import Visit

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "tests/js").glob("*.test.js"))
HOST = """<!doctype html><title>tests</title>
<script type="importmap">{"imports": {
"voice/": "BASE/voice/", "asr/": "BASE/asr/", "transcribe/": "BASE/transcribe/"}}</script>"""
RUN = """async (name) => {
  const { runTests } = await import("/tests/js/harness.js");
  await import(`/tests/js/${name}`);
  return runTests();
}"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_all_pass(visit: Visit, path: Path) -> None:
    page = visit("/health/live")
    base = re.search(
        r"/static/\w+", page.request.get(page.url.replace("/health/live", "/packet-voice")).text()
    )
    assert base is not None
    page.route(
        "**/tests/host", lambda r: r.fulfill(body=HOST.replace("BASE", base[0]), content_type="text/html")
    )
    page.route(
        re.compile(r"/tests/(js|data)/"),
        lambda r: r.fulfill(path=ROOT / r.request.url.split("/", 3)[3]),
    )
    page.goto(page.url.replace("/health/live", "/tests/host"))
    results = page.evaluate(RUN, path.name)
    assert len(results) > 5
    assert [result for result in results if result["problem"] is not None] == []
