"""The page behind HAProxy: one address, one token, and a replica that is shut down during a call."""

import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from support.browser.actions import expect_phase, open_panel, start, stop, until_played
from support.browser.chromium import visiting

from pipeline.loadtest.cluster import start_cluster
from pipeline.loadtest.haproxy import HAPROXY

TOKEN = "correct-horse-battery-staple"


@pytest.mark.skipif(HAPROXY is None and "CI" not in os.environ, reason="no HAProxy")
def test_a_page_continues_on_another_replica(browser: Browser, checkpoint: Path) -> None:
    """The token is valid for every replica; the page reconnects and marks the new conversation."""
    with (
        start_cluster(checkpoint, ("lanes.max=2", "lanes.admit=2", f"server.token={TOKEN}"), 2) as servers,
        visiting(browser, servers.balancer.url, forgiven=("401",)) as visit,
    ):
        page = visit(f"/packet-voice#token={TOKEN}")
        expect(page.locator("#server-label")).to_have_text("Ready")
        open_panel(page, "stats")
        start(page)
        until_played(page, 5)
        homes = [name for name, state in servers.balancer.server_states("lanes").items() if state.weight == 1]
        assert len(homes) == 1
        assert servers.stop(homes[0], signal.SIGTERM) == 0
        divider = page.locator("#lines .divider")
        expect(divider).to_contain_text("New conversation", timeout=20_000)
        expect_phase(page, "live")
        stop(page)
