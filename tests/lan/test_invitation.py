"""The invitation prints links with the token, as text and as a QR code."""

import io
import re

import pytest
from qrcode.constants import ERROR_CORRECT_L
from qrcode.main import QRCode
from support.lan.certificates import NOW

from pipeline.config import Server
from pipeline.lan.credentials import prepare
from pipeline.lan.invitation import Invitation

TOKEN = "correct-horse-battery-staple"
# What each character draws on a dark terminal: (upper, lower) module, 0 for light.
HALVES = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), "\xa0": (1, 1)}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class OldTerminal(Terminal):
    encoding = "latin-1"


@pytest.fixture
def invitation(tmp_path):
    credentials = prepare(Server(tls_folder=str(tmp_path / "lan")), "192.168.1.20", NOW, token=False)
    return Invitation(credentials, ("192.168.1.20", "[fd00::2]", "box.local"), 8788, TOKEN)


def parse_modules(text):
    """The modules of a QR code printed in half blocks."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines() if "\x1b[" in line]
    rows = []
    for line in lines:
        halves = [HALVES[block] for block in line]
        rows += [[bool(upper) for upper, _ in halves], [bool(lower) for _, lower in halves]]
    return rows


def test_every_host_gets_a_link_with_the_token_in_its_fragment(invitation):
    """The address that a browser sends to the server does not contain the token."""
    assert invitation.links() == (
        f"https://192.168.1.20:8788/packet-voice#token={TOKEN}",
        f"https://[fd00::2]:8788/packet-voice#token={TOKEN}",
        f"https://box.local:8788/packet-voice#token={TOKEN}",
    )
    assert not any(TOKEN in address for address in invitation.addresses())
    assert TOKEN not in repr(invitation)


def test_a_terminal_shows_the_first_link_as_a_qr_code(invitation, monkeypatch):
    """Module for module, with its quiet zone, dark on light whatever the terminal's colours."""
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    invitation.show(terminal)
    code = QRCode(error_correction=ERROR_CORRECT_L, border=2)
    code.add_data(invitation.links()[0])
    size = len(code.get_matrix())
    rows = parse_modules(terminal.getvalue())
    assert [row[:size] for row in rows[:size]] == code.get_matrix()
    assert all("\x1b[48;5;232m" in line for line in terminal.getvalue().splitlines() if "█" in line[25:-10])


def test_an_output_that_cannot_show_a_qr_code_gets_text_only(invitation, monkeypatch):
    """A file, a narrow terminal and one without the block characters get links and fingerprints."""
    for out, columns in ((Terminal(), "30"), (io.StringIO(), "80"), (OldTerminal(), "80")):
        monkeypatch.setenv("COLUMNS", columns)
        invitation.show(out)
        text = out.getvalue()
        assert "\x1b[" not in text
        assert all(link in text for link in invitation.links())
        assert invitation.credentials.fingerprint in text
        assert invitation.credentials.authority_fingerprint in text
        assert str(invitation.credentials.authority_file) in text


def test_a_server_on_loopback_has_no_link(tmp_path):
    """Other machines cannot reach it."""
    credentials = prepare(Server(tls_folder=str(tmp_path / "lan")), "127.0.0.1", NOW, token=False)
    assert Invitation.to(credentials, "127.0.0.1", 8788, None).links() == ()


def test_without_a_token_the_link_is_the_plain_address(tmp_path):
    """It has no fragment."""
    credentials = prepare(Server(tls_folder=str(tmp_path / "lan")), "10.0.0.7", NOW, token=False)
    invitation = Invitation.to(credentials, "10.0.0.7", 8788, None)
    assert invitation.links() == invitation.addresses() == ("https://10.0.0.7:8788/packet-voice",)
