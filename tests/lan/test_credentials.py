"""Certificates and token are created once, private to their owner, and renewed when necessary."""

import os
import stat
import subprocess
import sys
from datetime import timedelta

import pytest
from support.lan.certificates import NOW, verify_error

from pipeline.config import Server
from pipeline.errors import ConfigError
from pipeline.lan import private_files
from pipeline.lan.authority import AUTHORITY_LIFETIME, CERTIFICATE_LIFETIME
from pipeline.lan.credentials import prepare


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "lan"


def prepared(folder, address="192.168.1.20", now=NOW, token=True):
    return prepare(Server(tls_folder=str(folder)), address, now, token=token)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_credentials_are_created_once(folder):
    """A second start uses all files of the first."""
    first, second = prepared(folder), prepared(folder)
    assert first.made == ("authority", "certificate", "token")
    assert second.made == ()
    assert (second.fingerprint, second.authority_fingerprint) == (
        first.fingerprint,
        first.authority_fingerprint,
    )
    server, authority = first.server_file.read_bytes(), first.authority_file.read_bytes()
    assert verify_error(server, authority, "192.168.1.20", folder) is None


def test_the_files_are_private(folder):
    """Folder and files belong to their owner whatever the umask; the public file has no key."""
    umask = os.umask(0)
    try:
        made = prepared(folder)
    finally:
        os.umask(umask)
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "authority.pem": 0o600,
        "authority.crt": 0o644,
        "server.pem": 0o600,
        "token": 0o600,
        "lock": 0o600,
    }
    assert b"PRIVATE" not in made.authority_file.read_bytes()
    token = made.token_file.read_text().strip()
    assert len(token) >= 22
    assert token not in repr(made)


def test_a_readable_file_is_made_private_again(folder):
    """A copy may have lost the permissions."""
    made = prepared(folder)
    made.server_file.chmod(0o644)
    assert prepared(folder).made == ()
    assert mode(made.server_file) == 0o600


def test_a_new_address_needs_a_new_certificate_only(folder):
    """The authority and the token stay, so clients that trust the authority need no change."""
    first, moved, back = prepared(folder), prepared(folder, "10.0.0.7"), prepared(folder, "10.0.0.7")
    assert moved.made == ("certificate",)
    assert moved.authority_fingerprint == first.authority_fingerprint
    assert moved.fingerprint != first.fingerprint
    assert back.made == ()


def test_a_public_address_needs_a_new_authority(folder):
    """An authority for private hosts cannot sign for a public one."""
    first, public = prepared(folder), prepared(folder, "203.0.113.7")
    assert public.made == ("authority", "certificate")
    assert public.authority_fingerprint != first.authority_fingerprint
    assert prepared(folder, "192.168.1.20").made == ("certificate",)


def test_expiring_credentials_are_renewed(folder):
    """After a year the certificate, after ten years the authority too."""
    prepared(folder)
    assert prepared(folder, now=NOW + CERTIFICATE_LIFETIME).made == ("certificate",)
    assert prepared(folder, now=NOW + AUTHORITY_LIFETIME).made == ("authority", "certificate")
    assert prepared(folder, now=NOW - timedelta(days=365)).made == ("authority", "certificate")


@pytest.mark.parametrize("name", ["authority.pem", "server.pem", "authority.crt", "token"])
def test_a_damaged_file_is_replaced(folder, name):
    """So are the files that depend on it, also if it is missing."""
    made = prepared(folder)
    for broken in (b"", None):
        path = folder / name
        path.unlink() if broken is None else path.write_bytes(broken)
        again = prepared(folder)
        assert prepared(folder).made == ()
        server, authority = again.server_file.read_bytes(), again.authority_file.read_bytes()
        assert verify_error(server, authority, "192.168.1.20", folder) is None
        assert (again.authority_fingerprint == made.authority_fingerprint) is (name != "authority.pem")
        made = again


def test_a_token_is_created_only_on_request(folder):
    """A server on loopback or with its own token needs none."""
    assert prepared(folder, token=False).made == ("authority", "certificate")
    assert not (folder / "token").exists()


def test_an_unusable_folder_is_a_configuration_error(tmp_path):
    """For example one that other users can write to, or one that is a file."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "file").write_text("")
    for folder, words in ((shared, "other users can write"), (tmp_path / "file", "cannot store")):
        with pytest.raises(ConfigError, match=words) as error:
            prepared(folder)
        assert error.value.key == "pipeline.server.tls_folder"
        assert str(folder) in error.value.problem
    assert list(shared.iterdir()) == []


def test_a_file_without_an_end_is_a_configuration_error(folder):
    """It is not read until there is no more memory."""
    folder.mkdir(mode=0o700, parents=True)
    with (folder / "authority.pem").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="File too large"):
        prepared(folder)


@pytest.mark.parametrize("name", ["authority.pem", "authority.crt", "server.pem", "token"])
def test_a_pipe_is_not_waited_for(folder, name):
    """Nobody may ever write to it."""
    prepared(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ConfigError, match=f"{name} is a pipe"):
        prepared(folder)


def test_a_port_is_noted_for_invitations(folder):
    """It is only advice: whatever stands there, or cannot be written, is done without."""
    made = prepared(folder)
    assert made.noted_port() is None
    made.note_port(8788)
    assert made.noted_port() == 8788
    port = folder / "port"
    for content in (b"", b"x", b"0", b"-1", b"65536", b"\xff", b"9" * 5000):
        port.write_bytes(content)
        assert made.noted_port() is None, content
    port.unlink()
    os.mkfifo(port)
    assert made.noted_port() is None
    port.unlink()
    port.mkdir()
    made.note_port(8788)
    assert made.noted_port() is None


def test_a_device_keeps_its_mode(tmp_path, monkeypatch):
    """A server that root starts would otherwise take /dev/null from everybody."""
    changed = []
    monkeypatch.setattr(os, "fchmod", lambda descriptor, _: changed.append(descriptor))
    (tmp_path / "link").symlink_to(os.devnull)
    assert private_files.read(tmp_path / "link") == b""
    assert changed == []


def test_the_default_folder_is_in_the_users_data_folder(monkeypatch, tmp_path):
    """Where the system keeps the data of one user and one program."""
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / name)
    made = prepare(Server(), "127.0.0.1", NOW, token=False)
    assert made.folder == tmp_path / "packet-voice" / "lan"


def test_servers_that_start_together_share_one_certificate(folder):
    """The others wait for the first and use its files."""
    program = (
        "import sys; from datetime import UTC, datetime; from pipeline.config import Server;"
        "from pipeline.lan.credentials import prepare;"
        "made = prepare(Server(tls_folder=sys.argv[1]), '10.0.0.1', datetime.now(UTC), token=True);"
        "print(made.fingerprint, made.authority_fingerprint, made.token_file.read_text().strip())"
    )
    command = [sys.executable, "-c", program, str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(outputs) == 1


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    """The old file stays, and no temporary file remains."""
    path = tmp_path / "server.pem"
    private_files.write(path, b"old")

    def fail(_descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        private_files.write(path, b"new")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]
    assert private_files.read(tmp_path / "absent") is None
