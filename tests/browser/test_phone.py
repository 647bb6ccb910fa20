"""From the link in the terminal to a conversation on a phone: the server's own certificate and token."""

import base64
import contextlib
import fcntl
import hashlib
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from playwright.sync_api import Browser, Error, Playwright, expect
from support.browser.actions import expect_phase, open_panel, start, stop, until_played
from support.browser.chromium import MICROPHONE, launch, visiting
from support.browser.servers import ROOT, UNTRAINED, free_port

from pipeline.lan.addresses import Hosts

LINK = re.compile(r"https://\S+#token=[\w-]+")
COLUMNS, LINES = 100, 60


@dataclass(frozen=True)
class Shown:
    """The terminal output of a server until it was ready, and the folder of its credentials."""

    text: str
    folder: Path

    @property
    def link(self) -> str:
        """The first link in the output."""
        found = LINK.search(self.text)
        assert found is not None, self.text
        return found[0]

    @property
    def pin(self) -> str:
        """The digest of its public key, for the list of certificates that Chromium accepts."""
        certificate = x509.load_pem_x509_certificate((self.folder / "server.pem").read_bytes())
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(hashlib.sha256(spki).digest()).decode()


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """`python -m pipeline.run --lan` on a terminal."""
    if not Hosts.of("0.0.0.0").external("0.0.0.0"):
        pytest.skip("this machine has no address but loopback")
    folder = tmp_path_factory.mktemp("phone") / "lan"
    command = [sys.executable, "-m", "pipeline.run", "--config", str(UNTRAINED), "--lan"]
    command += ["--set", f"server.port={free_port()}", "--set", f"server.tls_folder={folder}"]
    screen, keyboard = pty.openpty()
    fcntl.ioctl(keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=keyboard, stdout=keyboard, stderr=keyboard
    )
    os.close(keyboard)
    try:
        text = ""
        while "model_delay_ms" not in text:  # part of the event `ready`; reading fails if the server exits
            text += os.read(screen, 4096).decode(errors="replace")
        yield Shown(text, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # the server has closed the terminal
            while os.read(screen, 4096):
                pass
        os.close(screen)
        assert process.wait(15) == 0


@pytest.fixture(scope="module")
def phone(playwright: Playwright, terminal: Shown) -> Iterator[Browser]:
    """A browser that accepts the server's certificate."""
    started = launch(playwright, *MICROPHONE, f"--ignore-certificate-errors-spki-list={terminal.pin}")
    yield started
    started.close()


def handset(playwright: Playwright) -> dict[str, object]:
    """The context options of a phone."""
    return {
        key: value for key, value in playwright.devices["Pixel 7"].items() if key != "default_browser_type"
    }


def test_the_link_opens_a_conversation(playwright: Playwright, phone: Browser, terminal: Shown) -> None:
    """Not on loopback: a secure page, the token removed from the URL, audio over wss."""
    parts = urlsplit(terminal.link)
    assert parts.hostname not in {"127.0.0.1", "localhost"}
    with visiting(phone, f"https://{parts.netloc}", **handset(playwright)) as visit:
        page = visit(f"{parts.path}#{parts.fragment}")
        expect_phase(page, "idle")
        page.wait_for_function("location.hash === ''")
        assert page.evaluate("isSecureContext && crossOriginIsolated")
        start(page)
        open_panel(page, "stats")
        until_played(page, 10)
        stop(page)
        cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
    (cookie,) = cookies.values()
    assert cookie["name"].startswith("__Host-")
    assert cookie["secure"]
    assert cookie["httpOnly"]


def test_a_browser_can_proceed_past_the_certificate_warning(playwright: Playwright, terminal: Shown) -> None:
    """A browser that does not know the certificate warns; after proceeding, the page works."""
    other_browser = launch(playwright, *MICROPHONE)
    page = other_browser.new_page(**handset(playwright))
    with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
        page.goto(terminal.link)
    page.locator("#details-button").click()
    page.locator("#proceed-link").click()
    expect(page.locator("#server-label")).to_have_text("Ready")
    assert page.evaluate("isSecureContext && crossOriginIsolated")
    start(page)
    open_panel(page, "stats")
    until_played(page, 10)
    stop(page)
    other_browser.close()


def test_without_the_token_the_page_asks_for_it(
    playwright: Playwright, phone: Browser, terminal: Shown
) -> None:
    """The page loads, but requires a token."""
    parts = urlsplit(terminal.link)
    forgiven = ("401",)
    with visiting(phone, f"https://{parts.netloc}", forgiven=forgiven, **handset(playwright)) as visit:
        page = visit(parts.path)
        expect(page.locator(".notice.bad")).to_contain_text("Token required")


def test_the_terminal_shows_a_code_and_fingerprints(terminal: Shown) -> None:
    """The QR code is complete, and no line is wrapped by the terminal."""
    drawn = [line for line in terminal.text.splitlines() if "█" in line]
    assert len(drawn) > 12
    assert "authority.crt" in terminal.text
    assert len(re.findall(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}", terminal.text)) >= 2
