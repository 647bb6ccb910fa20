"""Address, TLS and token are read before a socket opens; errors never contain the token."""

import contextlib
import os
import ssl
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization

from pipeline.config import Server, Settings, parse_settings
from pipeline.errors import ConfigError
from web.security.listen import ListenConfig

TOKEN = "correct-horse-battery-staple"


def refused(**server):
    with pytest.raises(ConfigError) as error:
        ListenConfig.from_settings(Server(**server))
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
    """Loopback addresses need neither TLS nor a token."""
    listen = ListenConfig.from_settings(Server(host=host))
    assert (listen.address, listen.tls, listen.token, listen.scheme) == (address, None, None, "http")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.evil.example"])
def test_other_addresses_need_both(host, certified):
    """Other addresses require TLS and a token, and the error names what is missing."""
    both = {"token": TOKEN, "tls_cert": str(certified.cert), "tls_key": str(certified.key)}
    listen = ListenConfig.from_settings(Server(host=host, **both))
    assert (listen.address, listen.scheme, listen.token) == (host, "https", TOKEN)
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
def test_both_can_be_created(host, tmp_path):
    """With tls=auto a certificate and a token are created and stored; its names are hosts of the server."""
    server = Server(host=host, tls="auto", tls_folder=str(tmp_path / "lan"))
    listen, again = ListenConfig.from_settings(server), ListenConfig.from_settings(server)
    assert (listen.address, listen.scheme) == (host, "https")
    assert isinstance(listen.tls, ssl.SSLContext)
    assert len(listen.token) >= 16
    assert listen.token == again.token
    assert listen.token not in repr(listen)
    assert set(listen.hosts) >= {*server.allowed_hosts, *listen.credentials.hosts.all()}


def test_a_configured_token_is_used(tmp_path):
    """None is created if there is one, nor for loopback, which needs none."""
    own = {"tls": "auto", "tls_folder": str(tmp_path / "lan")}
    (tmp_path / "token").write_text(TOKEN)
    for server in (
        Server(host="0.0.0.0", token=TOKEN, **own),
        Server(host="0.0.0.0", token_file=str(tmp_path / "token"), **own),
    ):
        assert ListenConfig.from_settings(server).token == TOKEN
    assert ListenConfig.from_settings(Server(**own)).token is None
    assert not (tmp_path / "lan" / "token").exists()


def test_a_certificate_is_created_or_configured(certified, tmp_path):
    """tls=auto and a configured certificate exclude each other."""
    own = {"tls": "auto", "tls_folder": str(tmp_path)}
    for named in ({"tls_cert": str(certified.cert)}, {"tls_key": str(certified.key)}):
        assert refused(**own, **named).key == "pipeline.server.tls"
    assert list(tmp_path.iterdir()) == []


def test_loopback_may_have_them_too(certified):
    """On loopback, TLS and a token are optional independently."""
    assert ListenConfig.from_settings(Server(token=TOKEN)).token == TOKEN
    assert isinstance(
        ListenConfig.from_settings(Server(tls_cert=str(certified.cert), tls_key=str(certified.key))).tls,
        ssl.SSLContext,
    )


def test_certificate_and_key_may_share_a_file(certified, tmp_path):
    """One PEM file that holds both is enough."""
    (tmp_path / "both.pem").write_bytes(certified.key.read_bytes() + certified.cert.read_bytes())
    assert ListenConfig.from_settings(Server(tls_cert=str(tmp_path / "both.pem"))).tls is not None


@pytest.mark.parametrize("files", [1, 2])
def test_certificate_and_key_may_come_through_pipes(certified, tmp_path, files):
    """As from `<(…)` of a shell: each is read once."""
    cert, key = certified.cert.read_bytes(), certified.key.read_bytes()
    contents = {"tls_cert": cert, "tls_key": key} if files == 2 else {"tls_cert": key + cert}
    with contextlib.ExitStack() as stack:
        for name, content in contents.items():
            os.mkfifo(tmp_path / name)
            (tmp_path / f"{name}.pem").write_bytes(content)
            command = f"cat {tmp_path / name}.pem >{tmp_path / name}"
            stack.callback(subprocess.Popen(["/bin/sh", "-c", command]).wait)
        settings = Server(**{name: str(tmp_path / name) for name in contents})
        assert ListenConfig.from_settings(settings).tls is not None


def test_a_token_may_lie_in_a_file(tmp_path):
    """A newline at its end is ignored."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert ListenConfig.from_settings(Server(token_file=str(tmp_path / "token"))).token == TOKEN


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "has a space in the middle", "ümläute-und-mehr-davon"]
)
def test_a_token_is_one_long_word(token, tmp_path):
    """A token that a header cannot carry, or that can be guessed, is refused."""
    assert refused(token=token).key == "pipeline.server.token"
    (tmp_path / "token").write_text(token, encoding="utf-8")
    assert refused(token_file=str(tmp_path / "token")).key == "pipeline.server.token_file"


def test_mistakes_with_files_are_named(certified, tmp_path):
    """Each error names the file or the key, and the problem."""
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


def test_no_repr_contains_the_token():
    """Neither that of the settings nor that of the listen config."""
    settings = parse_settings({"server": {"token": TOKEN}})
    assert settings.server.token == TOKEN
    for printed in (
        settings,
        settings.server,
        ListenConfig.from_settings(settings.server),
        Settings(server=Server(token=TOKEN)),
    ):
        assert TOKEN not in repr(printed)
        assert TOKEN not in f"{printed}"
    assert "port=8788" in repr(settings.server)
