"""The page behind the real balancer: one address, one token, and a replica that is replaced under it."""

import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from support.browser.acts import expect_phase, open_panel, start, stop, until_played
from support.browser.visitors import visiting

from pipeline.loadtest.cluster import fleet
from pipeline.loadtest.haproxy import HAPROXY

TOKEN = "correct-horse-battery-staple"


@pytest.mark.skipif(HAPROXY is None and "CI" not in os.environ, reason="no HAProxy")
def test_a_page_goes_on_with_another_replica(browser: Browser, checkpoint: Path) -> None:
    """Shown once, the token holds for every replica; asked to leave, the page begins anew and says so."""
    with (
        fleet(checkpoint, ("lanes.max=2", f"server.token={TOKEN}"), 2) as servers,
        visiting(browser, servers.balancer.url, forgiven=("401",)) as visit,
    ):
        page = visit(f"/packet-voice#token={TOKEN}")
        expect(page.locator("#server-label")).to_have_text("Ready")
        open_panel(page, "status")
        start(page)
        until_played(page, 5)
        homes = [name for name, seen in servers.balancer.seen("lanes").items() if seen.weight == 1]
        assert len(homes) == 1
        assert servers.end(homes[0], signal.SIGTERM) == 0
        divider = page.locator("#lines .divider")
        expect(divider).to_contain_text("A new conversation began", timeout=20_000)
        expect_phase(page, "live")
        stop(page)
