"""The link opens the page and shows the token, to the eye at the terminal and to a camera."""

import io
import re

import pytest
from qrcode.constants import ERROR_CORRECT_L
from qrcode.main import QRCode
from support.lan.reaches import NOW

from pipeline.config import Server
from pipeline.lan.credentials import prepare
from pipeline.lan.invitation import Invitation

TOKEN = "correct-horse-battery-staple"
# By what a terminal of dark ground draws: the light modules, upper half and lower half.
HALVES = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), "\xa0": (1, 1)}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class OldTerminal(Terminal):
    encoding = "latin-1"


@pytest.fixture
def invitation(tmp_path):
    kept = prepare(Server(tls_folder=str(tmp_path / "lan")), "192.168.1.20", NOW, token=False)
    return Invitation(kept, ("192.168.1.20", "[fd00::2]", "box.local"), 8788, TOKEN)


def drawn(text):
    """The modules of a drawing in half blocks."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.splitlines() if "\x1b[" in line]
    rows = []
    for line in lines:
        halves = [HALVES[block] for block in line]
        rows += [[bool(upper) for upper, _ in halves], [bool(lower) for _, lower in halves]]
    return rows


def test_every_host_gets_a_link_with_the_token_in_its_fragment(invitation):
    """The page, over TLS, at the port; what a server would be sent holds no token."""
    assert invitation.links() == (
        f"https://192.168.1.20:8788/packet-voice#token={TOKEN}",
        f"https://[fd00::2]:8788/packet-voice#token={TOKEN}",
        f"https://box.local:8788/packet-voice#token={TOKEN}",
    )
    assert not any(TOKEN in address for address in invitation.addresses())
    assert TOKEN not in repr(invitation)


def test_a_terminal_draws_the_first_link(invitation, monkeypatch):
    """Module for module the QR code of it, with its quiet zone, dark on light whatever the ground."""
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    invitation.show(terminal)
    code = QRCode(error_correction=ERROR_CORRECT_L, border=2)
    code.add_data(invitation.links()[0])
    size = len(code.get_matrix())
    rows = drawn(terminal.getvalue())
    assert [row[:size] for row in rows[:size]] == code.get_matrix()
    assert all("\x1b[48;5;232m" in line for line in terminal.getvalue().splitlines() if "█" in line[25:-10])


def test_who_cannot_show_a_code_gets_words_alone(invitation, monkeypatch):
    """No terminal, a narrow one, one without its letters: links and fingerprints are there all the same."""
    for out, columns in ((Terminal(), "30"), (io.StringIO(), "80"), (OldTerminal(), "80")):
        monkeypatch.setenv("COLUMNS", columns)
        invitation.show(out)
        said = out.getvalue()
        assert "\x1b[" not in said
        assert all(link in said for link in invitation.links())
        assert invitation.credentials.fingerprint in said
        assert invitation.credentials.authority_fingerprint in said
        assert str(invitation.credentials.authority_file) in said


def test_a_server_of_loopback_invites_nobody(tmp_path):
    """There is no link to it that means it elsewhere."""
    kept = prepare(Server(tls_folder=str(tmp_path / "lan")), "127.0.0.1", NOW, token=False)
    assert Invitation.to(kept, "127.0.0.1", 8788, None).links() == ()


def test_without_a_token_the_link_is_the_address(tmp_path):
    """There is nothing to show."""
    kept = prepare(Server(tls_folder=str(tmp_path / "lan")), "10.0.0.7", NOW, token=False)
    invitation = Invitation.to(kept, "10.0.0.7", 8788, None)
    assert invitation.links() == invitation.addresses() == ("https://10.0.0.7:8788/packet-voice",)
