"""The voice page has its own words for every reason to end or refuse a conversation."""

import re
from pathlib import Path
from typing import get_args

import pytest

from pipeline.errors import RefusalCode
from pipeline.protocol.faults import Fault

MESSAGES = Path(__file__).parents[2] / "web/static/voice/ui/messages.js"


@pytest.mark.parametrize("code", sorted({*Fault, *get_args(RefusalCode)}))
def test_the_page_explains_an_error(code: str) -> None:
    """It is a key of `CLOSE_MESSAGES`, or one of the codes that share the words for malformed data."""
    source = MESSAGES.read_text(encoding="utf-8")
    (closes,) = re.findall(r"const CLOSE_MESSAGES = Object\.freeze\(\{(.*?)\}\);", source, re.DOTALL)
    (malformed,) = re.findall(r"const MALFORMED = new Set\(\[(.*?)\]\);", source, re.DOTALL)
    assert re.search(rf"^  {code}: ", closes, re.MULTILINE) or f'"{code}"' in malformed
