"""The credentials of the talk command: when a token is sent, and which authorities are trusted."""

import ssl

import pytest
import trustme

from pipeline.cli.talk import parse
from pipeline.client.connect import ClientCredentials

TOKEN = "correct-horse-battery-staple"
MIC = ["--mic"]


def refused(capsys, *arguments):
    """The error message of a refused command line."""
    with pytest.raises(SystemExit) as end:
        parse([*MIC, *arguments])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert TOKEN not in message
    return message


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1/ws", "ws://localhost:1/ws", "ws://[::1]:1/ws", "wss://a.example/ws"]
)
def test_a_token_is_sent_only_where_it_cannot_be_read(url, tmp_path):
    """To this machine, or through TLS, as one header; from a file, without the newline."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    for argument in (["--token", TOKEN], ["--token-file", str(tmp_path / "token")]):
        credentials = parse([*MIC, "--url", url, *argument]).credentials
        assert credentials.headers == [(b"Authorization", b"Bearer " + TOKEN.encode())]
        assert TOKEN not in repr(credentials)


def test_without_a_token_no_header_is_sent():
    """No Authorization header, and the system's authorities."""
    assert parse(MIC).credentials == ClientCredentials()
    assert ClientCredentials().headers == []


def test_a_token_is_not_sent_unencrypted(capsys):
    """A token for another machine requires wss://."""
    assert "use wss://" in refused(capsys, "--url", "ws://voice.example/ws", "--token", TOKEN)


def test_an_authority_is_trusted_besides_the_systems(tmp_path):
    """The file's certificate is among those trusted, and hosts are still checked."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    context = parse([*MIC, "--url", "wss://a.example/ws", "--ca", str(tmp_path / "ca.pem")]).credentials.tls
    assert context.cert_store_stats()["x509_ca"] >= 1
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_mistake_is_one_sentence(capsys, tmp_path):
    """A missing or unusable file is named."""
    (tmp_path / "noise").write_bytes(b"\xff\xfe")
    assert "absent" in refused(capsys, "--token-file", str(tmp_path / "absent"))
    assert "noise" in refused(capsys, "--token-file", str(tmp_path / "noise"))
    assert "absent" in refused(capsys, "--ca", str(tmp_path / "absent"))
    assert "noise" in refused(capsys, "--ca", str(tmp_path / "noise"))
    assert "one word" in refused(capsys, "--token", "zwei\nzeilen")
