"""The pages have words for every reason to end or refuse a conversation, and help for every notice."""

import re
from pathlib import Path
from typing import get_args

import pytest

from pipeline.errors import RefusalCode
from pipeline.protocol.faults import Fault

STATIC = Path(__file__).parents[2] / "web/static"
MESSAGES = STATIC / "voice/ui/messages.js"
# Where the pages name the topics of their help.
TOPICS = {
    "voice": (("ui/messages.js", "ui/notices.js"), r'\bhelp: "(\w+)"'),
    "transcribe": (("ui/messages.js",), r"^  (\w+): (?:\[|Object\.keys)(?=.*\],$|.*\),$)"),
}


@pytest.mark.parametrize("code", sorted({*Fault, *get_args(RefusalCode)}))
def test_the_page_explains_an_error(code: str) -> None:
    """It is a key of `CLOSE_MESSAGES`, or one of the codes that share the words for malformed data."""
    source = MESSAGES.read_text(encoding="utf-8")
    (closes,) = re.findall(r"const CLOSE_MESSAGES = Object\.freeze\(\{(.*?)\}\);", source, re.DOTALL)
    (malformed,) = re.findall(r"const MALFORMED = new Set\(\[(.*?)\]\);", source, re.DOTALL)
    assert re.search(rf"^  {code}: ", closes, re.MULTILINE) or f'"{code}"' in malformed


@pytest.mark.parametrize("page", TOPICS)
def test_every_topic_of_the_help_is_there(page: str) -> None:
    """A section of the help dialog for each topic that a notice leads to."""
    names, pattern = TOPICS[page]
    sources = [(STATIC / page / name).read_text(encoding="utf-8") for name in names]
    if page == "transcribe":
        sources = re.findall(r"const TOPICS = Object\.freeze\(\{(.*?)\n\}\);", sources[0], re.DOTALL)
    topics = {topic for source in sources for topic in re.findall(pattern, source, re.MULTILINE)}
    assert len(topics) >= 5
    html = (STATIC / page / "index.html").read_text(encoding="utf-8")
    assert topics <= set(re.findall(r'<section id="help-(\w+)"', html))
