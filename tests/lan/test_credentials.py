"""Certificate and token are made once, kept from others, and renewed when they no longer fit."""

import os
import stat
import subprocess
import sys
from datetime import timedelta

import pytest
from support.lan.reaches import NOW, distrust

from pipeline.config import Server
from pipeline.errors import ConfigError
from pipeline.lan import private_files
from pipeline.lan.authority import AUTHORITY_FOR, CERTIFICATE_FOR
from pipeline.lan.credentials import prepare


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "lan"


def prepared(folder, address="192.168.1.20", now=NOW, token=True):
    return prepare(Server(tls_folder=str(folder)), address, now, token=token)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_they_are_made_once(folder):
    """The second start finds what the first one made, all of it."""
    first, second = prepared(folder), prepared(folder)
    assert first.made == ("authority", "certificate", "token")
    assert second.made == ()
    assert (second.fingerprint, second.authority_fingerprint) == (
        first.fingerprint,
        first.authority_fingerprint,
    )
    server, authority = first.server_file.read_bytes(), first.authority_file.read_bytes()
    assert distrust(server, authority, "192.168.1.20", folder) is None


def test_nobody_else_reads_them(folder):
    """Whatever the umask: a folder for its owner, files for their owner; the public one has no key."""
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


def test_what_others_could_read_is_closed_to_them(folder):
    """A folder that was copied about has its files put right."""
    made = prepared(folder)
    made.server_file.chmod(0o644)
    assert prepared(folder).made == ()
    assert mode(made.server_file) == 0o600


def test_a_new_address_is_a_new_certificate(folder):
    """Of the same authority, so that who trusts that one need do nothing; the token stays."""
    first, moved, back = prepared(folder), prepared(folder, "10.0.0.7"), prepared(folder, "10.0.0.7")
    assert moved.made == ("certificate",)
    assert moved.authority_fingerprint == first.authority_fingerprint
    assert moved.fingerprint != first.fingerprint
    assert back.made == ()


def test_a_public_address_takes_another_authority(folder):
    """One that was made for a home may not sign for the world."""
    first, public = prepared(folder), prepared(folder, "203.0.113.7")
    assert public.made == ("authority", "certificate")
    assert public.authority_fingerprint != first.authority_fingerprint
    assert prepared(folder, "192.168.1.20").made == ("certificate",)


def test_they_are_renewed_in_time(folder):
    """A year later the certificate alone, ten years later both."""
    prepared(folder)
    assert prepared(folder, now=NOW + CERTIFICATE_FOR).made == ("certificate",)
    assert prepared(folder, now=NOW + AUTHORITY_FOR).made == ("authority", "certificate")
    assert prepared(folder, now=NOW - timedelta(days=365)).made == ("authority", "certificate")


@pytest.mark.parametrize("name", ["authority.pem", "server.pem", "authority.crt", "token"])
def test_what_is_broken_is_made_anew(folder, name):
    """A file that was cut or lost is replaced, and what hangs on it."""
    made = prepared(folder)
    for broken in (b"", None):
        path = folder / name
        path.unlink() if broken is None else path.write_bytes(broken)
        again = prepared(folder)
        assert prepared(folder).made == ()
        server, authority = again.server_file.read_bytes(), again.authority_file.read_bytes()
        assert distrust(server, authority, "192.168.1.20", folder) is None
        assert (again.authority_fingerprint == made.authority_fingerprint) is (name != "authority.pem")
        made = again


def test_a_token_is_made_where_it_is_wanted(folder):
    """A server of loopback, or with a token of its own, gets none."""
    assert prepared(folder, token=False).made == ("authority", "certificate")
    assert not (folder / "token").exists()


def test_a_folder_that_cannot_be_used_is_the_users_mistake(tmp_path):
    """One that others may write to, and one that is a file, are named in a sentence."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "file").write_text("")
    for folder, words in ((shared, "others may write"), (tmp_path / "file", "cannot keep")):
        with pytest.raises(ConfigError, match=words) as error:
            prepared(folder)
        assert error.value.key == "pipeline.server.tls_folder"
        assert str(folder) in error.value.problem
    assert list(shared.iterdir()) == []


def test_without_a_folder_they_lie_with_the_users_data(monkeypatch, tmp_path):
    """Where the system keeps what belongs to a user and a program."""
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / name)
    made = prepare(Server(), "127.0.0.1", NOW, token=False)
    assert made.folder == tmp_path / "packet-voice" / "lan"


def test_servers_that_start_at_once_share_one_certificate(folder):
    """The second waits for the first, and takes what that one made."""
    program = (
        "import sys; from datetime import UTC, datetime; from pipeline.config import Server;"
        "from pipeline.lan.credentials import prepare;"
        "made = prepare(Server(tls_folder=sys.argv[1]), '10.0.0.1', datetime.now(UTC), token=True);"
        "print(made.fingerprint, made.authority_fingerprint, made.token_file.read_text().strip())"
    )
    command = [sys.executable, "-c", program, str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(said) == 1


def test_a_write_that_fails_changes_nothing(tmp_path, monkeypatch):
    """What was there is there, whole, and nothing is left beside it."""
    path = tmp_path / "server.pem"
    private_files.write(path, b"old")

    def fail(_descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        private_files.write(path, b"new")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]
    assert private_files.read(tmp_path / "absent") is None
