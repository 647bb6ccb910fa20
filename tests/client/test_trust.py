"""What the talk command shows a server, and what it would rather not."""

import ssl

import pytest
import trustme

from pipeline.cli.talk import parse
from pipeline.client.connect import Trust

TOKEN = "correct-horse-battery-staple"
MIC = ["--mic"]


def refused(capsys, *arguments):
    """The sentence with which a command line is refused."""
    with pytest.raises(SystemExit) as end:
        parse([*MIC, *arguments])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert TOKEN not in said
    return said


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1/ws", "ws://localhost:1/ws", "ws://[::1]:1/ws", "wss://a.example/ws"]
)
def test_a_token_travels_unread(url, tmp_path):
    """To this machine, or through TLS, as one header; from a file, without the line's end."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    for argument in (["--token", TOKEN], ["--token-file", str(tmp_path / "token")]):
        trust = parse([*MIC, "--url", url, *argument]).trust
        assert trust.headers == [(b"Authorization", b"Bearer " + TOKEN.encode())]
        assert TOKEN not in repr(trust)


def test_without_a_token_nothing_is_shown():
    """No header, and the system's authorities."""
    assert parse(MIC).trust == Trust()
    assert Trust().headers == []


def test_a_token_is_not_sent_for_all_to_read(capsys):
    """In the clear and to another machine, it is not sent at all."""
    assert "use wss://" in refused(capsys, "--url", "ws://voice.example/ws", "--token", TOKEN)


def test_an_authority_is_believed_besides_the_systems(tmp_path):
    """The file's certificate is among those trusted, and hosts are still checked."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    context = parse([*MIC, "--url", "wss://a.example/ws", "--ca", str(tmp_path / "ca.pem")]).trust.tls
    assert context.cert_store_stats()["x509_ca"] >= 1
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_mistakes_are_one_sentence(capsys, tmp_path):
    """A file that is not there, or not what it should be, is named."""
    (tmp_path / "noise").write_bytes(b"\xff\xfe")
    assert "absent" in refused(capsys, "--token-file", str(tmp_path / "absent"))
    assert "noise" in refused(capsys, "--token-file", str(tmp_path / "noise"))
    assert "absent" in refused(capsys, "--ca", str(tmp_path / "absent"))
    assert "noise" in refused(capsys, "--ca", str(tmp_path / "noise"))
    assert "one word" in refused(capsys, "--token", "zwei\nzeilen")
