"""What it takes to listen: read before a socket opens; each mistake is one sentence without the token."""

import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from pipeline.config import Server, Settings, parse_settings
from pipeline.errors import ConfigError
from web.security.listen import Door

TOKEN = "correct-horse-battery-staple"


def refused(**server):
    with pytest.raises(ConfigError) as error:
        Door.of(Server(**server))
    assert TOKEN not in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1.2.3", "127.1.2.3"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("LocalHost", "127.0.0.1"),
    ],
)
def test_loopback_needs_nothing(host, address):
    """Addresses that only this machine reaches may be listened on as they are."""
    door = Door.of(Server(host=host))
    assert (door.address, door.tls, door.token, door.scheme) == (address, None, None, "http")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.evil.example"])
def test_other_addresses_need_both(host, certified):
    """Where other machines reach it TLS and a token are wanted, and what is missing is named."""
    both = {"token": TOKEN, "tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    door = Door.of(Server(host=host, **both))
    assert (door.address, door.scheme, door.token) == (host, "https", TOKEN)
    neither = refused(host=host)
    assert neither.key == "pipeline.server.host"
    assert "TLS and a token" in neither.problem
    without_tls = refused(host=host, token=TOKEN).problem
    assert "tls_cert" in without_tls
    assert "a token" not in without_tls
    without_token = refused(host=host, **{**both, "token": None}).problem
    assert "token_file" in without_token
    assert "TLS" not in without_token
    assert all("server.tls=auto" in each for each in (neither.problem, without_tls, without_token))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "voice.example", "::"])
def test_both_can_be_made(host, tmp_path):
    """With tls=auto a certificate and a token are made and kept, and its names are names of the server."""
    server = Server(host=host, tls="auto", tls_folder=str(tmp_path / "lan"))
    door, again = Door.of(server), Door.of(server)
    assert (door.address, door.scheme) == (host, "https")
    assert isinstance(door.tls, ssl.SSLContext)
    assert len(door.token) >= 16
    assert door.token == again.token
    assert door.token not in repr(door)
    assert set(door.hosts) >= {*server.allowed_hosts, *door.credentials.reach.hosts()}


def test_a_token_that_is_there_is_the_token(tmp_path):
    """None is made beside it, nor for loopback, which needs none."""
    own = {"tls": "auto", "tls_folder": str(tmp_path / "lan")}
    (tmp_path / "token").write_text(TOKEN)
    for server in (
        Server(host="0.0.0.0", token=TOKEN, **own),
        Server(host="0.0.0.0", token_file=str(tmp_path / "token"), **own),
    ):
        assert Door.of(server).token == TOKEN
    assert Door.of(Server(**own)).token is None
    assert not (tmp_path / "lan" / "token").exists()


def test_a_certificate_is_made_or_named(certified, tmp_path):
    """Not both."""
    own = {"tls": "auto", "tls_folder": str(tmp_path)}
    for named in ({"tls_cert": str(certified.cert)}, {"tls_key": str(certified.key)}):
        assert refused(**own, **named).key == "pipeline.server.tls"
    assert list(tmp_path.iterdir()) == []


def test_loopback_may_have_them_too(certified):
    """TLS and a token on this machine are anybody's choice, each for itself."""
    assert Door.of(Server(token=TOKEN)).token == TOKEN
    assert isinstance(
        Door.of(Server(tls_cert=str(certified.cert), tls_key=str(certified.key))).tls, ssl.SSLContext
    )


def test_certificate_and_key_may_share_a_file(certified, tmp_path):
    """One PEM file that holds both is enough."""
    (tmp_path / "both.pem").write_bytes(certified.key.read_bytes() + certified.cert.read_bytes())
    assert Door.of(Server(tls_cert=str(tmp_path / "both.pem"))).tls is not None


def test_a_token_may_lie_in_a_file(tmp_path):
    """Its last line may end, as editors make it."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert Door.of(Server(token_file=str(tmp_path / "token"))).token == TOKEN


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "has a space in the middle", "ümläute-und-mehr-davon"]
)
def test_a_token_is_one_long_word(token, tmp_path):
    """What a header cannot carry, or what can be guessed, is refused wherever it stands."""
    assert refused(token=token).key == "pipeline.server.token"
    (tmp_path / "token").write_text(token, encoding="utf-8")
    assert refused(token_file=str(tmp_path / "token")).key == "pipeline.server.token_file"


def test_mistakes_with_files_are_named(certified, tmp_path):
    """Each sentence says which file, or which key, and what is wrong with it."""
    cert, key, absent = str(certified.cert), str(certified.key), str(tmp_path / "absent.pem")
    (tmp_path / "noise.pem").write_text("no certificate")
    locked = serialization.load_pem_private_key(certified.key.read_bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    assert "absent.pem" in refused(token_file=absent).problem
    assert "token_file" in refused(token=TOKEN, token_file=absent).problem
    assert "absent.pem" in refused(tls_cert=absent, tls_key=key).problem
    assert "absent.pem" in refused(tls_cert=cert, tls_key=absent).problem
    assert "noise.pem" in refused(tls_cert=str(tmp_path / "noise.pem")).problem
    assert "mismatch" in refused(tls_cert=cert, tls_key=str(certified.other_key)).problem
    assert "encrypted" in refused(tls_cert=cert, tls_key=str(tmp_path / "locked.pem")).problem
    assert refused(tls_key=key).key == "pipeline.server.tls_cert"


def test_nothing_shows_the_token():
    """Neither the settings nor the door, printed whole, hold it."""
    settings = parse_settings({"server": {"token": TOKEN}})
    assert settings.server.token == TOKEN
    for shown in (settings, settings.server, Door.of(settings.server), Settings(server=Server(token=TOKEN))):
        assert TOKEN not in repr(shown)
        assert TOKEN not in f"{shown}"
    assert "port=8788" in repr(settings.server)
