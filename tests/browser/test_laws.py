"""The pure modules of the page keep their laws where they run: in a browser, as it loads them."""

import re
from pathlib import Path

import pytest
from support.browser.visitors import Visit

ROOT = Path(__file__).parent.parent.parent
LAWS = sorted((ROOT / "tests/js").glob("*.test.js"))
HOST = """<!doctype html><title>laws</title>
<script type="importmap">{"imports": {
"voice/": "BASE/voice/", "asr/": "BASE/asr/", "transcribe/": "BASE/transcribe/"}}</script>"""
JUDGE = """async (name) => {
  const { judge } = await import("/tests/js/laws.js");
  await import(`/tests/js/${name}`);
  return judge();
}"""


@pytest.mark.parametrize("path", LAWS, ids=lambda path: path.name)
def test_every_law_holds(visit: Visit, path: Path) -> None:
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
    verdicts = page.evaluate(JUDGE, path.name)
    assert len(verdicts) > 5
    assert [verdict for verdict in verdicts if verdict["problem"] is not None] == []
