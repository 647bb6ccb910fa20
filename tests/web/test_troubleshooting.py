"""Every key of /health that docs/how-to/troubleshooting.md mentions exists."""

import re
from pathlib import Path

from support.web.small_engine import small_server
from support.web.sockets import fetch

PAGE = Path(__file__).parents[2] / "docs/how-to/troubleshooting.md"


async def test_every_health_key_of_troubleshooting_exists():
    """Each dotted path leads to a value."""
    paths = set(
        re.findall(r"\bhealth `([A-Za-z.]+)`", PAGE.read_text(encoding="utf-8").partition("\n## ")[2])
    )
    assert paths
    async with small_server() as served:
        health = (await fetch(served, "/health")).json
    for path in paths:
        found = health
        for key in path.split("."):
            assert key in found, path
            found = found[key]
