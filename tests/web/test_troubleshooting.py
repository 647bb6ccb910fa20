"""What docs/how-to/troubleshooting.md has its reader look for in /health is there."""

import re
from pathlib import Path

from support.web.small_engine import small_server
from support.web.sockets import ask

PAGE = Path(__file__).parents[2] / "docs/how-to/troubleshooting.md"


async def test_every_key_of_health_is_there():
    """Each dotted path leads to a value."""
    paths = set(
        re.findall(r"\bhealth `([A-Za-z.]+)`", PAGE.read_text(encoding="utf-8").partition("\n## ")[2])
    )
    assert paths
    async with small_server() as served:
        health = (await ask(served, "/health")).json
    for path in paths:
        found = health
        for key in path.split("."):
            assert key in found, path
            found = found[key]
