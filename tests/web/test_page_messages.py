"""The pages have their own words for every reason to end or refuse a conversation."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from pipeline.errors import HubFileErrorCode, RefusalCode
from pipeline.protocol.faults import Fault

ROOT = Path(__file__).parents[2]
MESSAGES = ROOT / "web/static/voice/ui/messages.js"
MODEL_FILES = ROOT / "web/static/asr/model/files.js"


def denials() -> Iterator[str]:
    """The code of each `Denial`, which any request may get, and those of `web.server.http11`."""
    for path in sorted((ROOT / "web").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Denial":
                assert isinstance(node.args[1], ast.Constant)
                yield str(node.args[1].value)
    yield "too_many_requests"


def keys(name: str) -> set[str]:
    """The keys of an object in messages.js."""
    source = MESSAGES.read_text(encoding="utf-8")
    (body,) = re.findall(rf"const {name} = Object\.freeze\(\{{(.*?)^\}}\);", source, re.DOTALL | re.MULTILINE)
    return set(re.findall(r"^  (\w+): ", body, re.MULTILINE))


@pytest.mark.parametrize("code", sorted({*Fault, *get_args(RefusalCode), *denials()}))
def test_the_page_explains_an_error(code: str) -> None:
    """It is a key of `CLOSE_MESSAGES`, or one of the codes that share the words for malformed data."""
    source = MESSAGES.read_text(encoding="utf-8")
    (malformed,) = re.findall(r"const MALFORMED = new Set\(\[(.*?)\]\);", source, re.DOTALL)
    assert code in keys("CLOSE_MESSAGES") or f'"{code}"' in malformed


@pytest.mark.parametrize("code", sorted({*denials()}))
def test_the_page_says_what_to_do_about_a_refusal(code: str) -> None:
    """Whoever is refused learns the remedy, not only the reason."""
    assert code in keys("REFUSALS")


def test_a_page_knows_the_codes_of_the_hub_proxy() -> None:
    """Any other code is a refusal of the page itself, whichever file it asks for."""
    source = MODEL_FILES.read_text(encoding="utf-8")
    (codes,) = re.findall(r"const HUB_CODES = new Set\(\[(.*?)\]\);", source, re.DOTALL)
    assert set(re.findall(r'"(\w+)"', codes)) == set(get_args(HubFileErrorCode))
