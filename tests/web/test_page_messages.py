"""The pages have words for every reason to end or refuse a conversation, and help for every notice."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from pipeline.errors import HubFileErrorCode, RefusalCode
from pipeline.protocol.faults import Fault

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "web/static"
MESSAGES = STATIC / "voice/ui/messages.js"
CALL_MESSAGES = STATIC / "voice/ui/call-messages.js"
MODEL_FILES = STATIC / "asr/model/files.js"
# Where the pages name the topics of their help.
TOPICS = {
    "voice": (("ui/messages.js", "ui/notices.js"), r'\bhelp: "(\w+)"'),
    "transcribe": (("ui/messages.js",), r"^  (\w+): (?:\[|Object\.keys)(?=.*\],$|.*\),$)"),
}


def denials() -> Iterator[str]:
    """The code of each `Denial`, which any request may get, and those of `web.server.http11`."""
    for path in sorted((ROOT / "web").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Denial":
                assert isinstance(node.args[1], ast.Constant)
                yield str(node.args[1].value)
    yield "too_many_requests"


def keys(path: Path, name: str) -> set[str]:
    """The keys of an object in a module."""
    source = path.read_text(encoding="utf-8")
    (body,) = re.findall(rf"const {name} = Object\.freeze\(\{{(.*?)^\}}\);", source, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"^  (\w+): ", body, re.MULTILINE))


@pytest.mark.parametrize("code", sorted({*Fault, *get_args(RefusalCode), *denials()}))
def test_the_page_explains_an_error(code: str) -> None:
    """It is a key of `CLOSE_MESSAGES`, or one of the codes that share the words for malformed data."""
    source = CALL_MESSAGES.read_text(encoding="utf-8")
    (malformed,) = re.findall(r"const MALFORMED = new Set\(\[(.*?)\]\);", source, re.DOTALL)
    assert code in keys(CALL_MESSAGES, "CLOSE_MESSAGES") or f'"{code}"' in malformed


@pytest.mark.parametrize("code", sorted({*denials()}))
def test_the_page_says_what_to_do_about_a_refusal(code: str) -> None:
    """Whoever is refused learns the remedy, not only the reason."""
    assert code in keys(MESSAGES, "REFUSALS")


def test_a_page_knows_the_codes_of_the_hub_proxy() -> None:
    """Any other code is a refusal of the page itself, whichever file it asks for."""
    source = MODEL_FILES.read_text(encoding="utf-8")
    (codes,) = re.findall(r"const HUB_CODES = new Set\(\[(.*?)\]\);", source, re.DOTALL)
    assert set(re.findall(r'"(\w+)"', codes)) == set(get_args(HubFileErrorCode))


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
