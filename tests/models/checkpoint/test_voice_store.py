"""Voices by name: published ones from an archive whatever it contains, and the user's own in private."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support.personas import GOLDENS, write_archive

from pipeline.errors import ConfigError, VoiceError
from pipeline.models.checkpoint.voice_store import VoiceStore
from pipeline.models.checkpoint.voices import read_published_voice
from pipeline.values import Voice

PUBLISHED = (GOLDENS / "voice.pt").read_bytes()
OWN = Voice(codes=np.arange(8 * 13, dtype=np.int32).reshape(13, 8))


def store(tmp_path: Path, members: dict[str, bytes] | None = None) -> VoiceStore:
    archive = None if members is None else write_archive(tmp_path / "voices.tgz", members)
    return VoiceStore(archive, tmp_path / "own", tmp_path / "cache")


def test_published_voices_are_the_archives(tmp_path):
    """By their file names, in any folder, and equal to what the archive has."""
    voices = store(
        tmp_path, {"voices/NATF0.pt": PUBLISHED, "voices/VARM4.pt": PUBLISHED, "voices/notes": b"x"}
    )
    assert [(each.name, each.origin) for each in voices.list()] == [
        ("NATF0", "published"),
        ("VARM4", "published"),
    ]
    found, due = voices.read("NATF0"), read_published_voice(GOLDENS / "voice.pt")
    np.testing.assert_array_equal(found.embeddings, due.embeddings)
    np.testing.assert_array_equal(found.tail, due.tail)


def test_an_archive_is_converted_once(tmp_path, monkeypatch):
    """The second server reads safetensors; another archive is converted anew."""
    store(tmp_path, {"NATF0.pt": PUBLISHED}).list()
    monkeypatch.setattr("pipeline.models.checkpoint.voice_store.read_published_voice", None)
    again = VoiceStore(tmp_path / "voices.tgz", tmp_path / "own", tmp_path / "cache")
    assert again.read("NATF0").frames == 7
    with pytest.raises(TypeError):
        store(tmp_path, {"NATF1.pt": PUBLISHED}).list()


def hostile(name: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(PUBLISHED)
        tar.addfile(member, io.BytesIO(PUBLISHED))
    return content.getvalue()


@pytest.mark.parametrize("name", ["../../escaped.pt", "/tmp/escaped-voice.pt", "a/../../../escaped.pt"])
def test_a_path_of_the_archive_leads_nowhere(tmp_path, name):
    """Only its last part counts."""
    (tmp_path / "voices.tgz").write_bytes(hostile(name))
    voices = VoiceStore(tmp_path / "voices.tgz", tmp_path / "own", tmp_path / "cache")
    assert [each.path.is_relative_to(tmp_path / "cache") for each in voices.list()] == [True]
    assert not list(tmp_path.rglob("*.pt"))
    assert not Path("/tmp/escaped-voice.pt").exists()


def test_links_and_devices_are_left_out(tmp_path):
    """What is no regular file is no voice; an archive of nothing else is refused."""
    with tarfile.open(tmp_path / "voices.tgz", "w:gz") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("NATF0.pt")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    with pytest.raises(VoiceError, match="holds no voices"):
        VoiceStore(tmp_path / "voices.tgz", tmp_path / "own", tmp_path / "cache").list()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"NATF0.pt": b"no voice"}, "NATF0"),
        ({"voice; rm.pt": PUBLISHED}, "is no voice"),
        ({"a/NATF0.pt": PUBLISHED, "b/NATF0.pt": PUBLISHED}, "twice"),
    ],
)
def test_a_damaged_archive_leaves_nothing(tmp_path, members, reason):
    """One sentence, and the next attempt begins anew."""
    voices = store(tmp_path, members)
    with pytest.raises(VoiceError, match=reason):
        voices.list()
    assert not list((tmp_path / "cache").iterdir())


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    """Before it is unpacked, also where the large member would be skipped."""
    monkeypatch.setattr("pipeline.models.checkpoint.voice_store.MAX_ARCHIVE_BYTES", 10_000)
    with pytest.raises(VoiceError, match="too large"):
        store(tmp_path, {"zeros": bytes(200_000), "NATF0.pt": PUBLISHED}).list()


@pytest.mark.parametrize("content", [b"", b"hello", PUBLISHED, b"\x1f\x8b" + bytes(30)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    """In one sentence with its name."""
    (tmp_path / "voices.tgz").write_bytes(content)
    with pytest.raises(VoiceError, match=r"voices\.tgz"):
        VoiceStore(tmp_path / "voices.tgz", tmp_path / "own", tmp_path / "cache").list()


def test_an_archive_without_an_end_is_refused(tmp_path):
    """Nobody waits until a terabyte has been read."""
    with (tmp_path / "voices.tgz").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(VoiceError, match="too large"):
        VoiceStore(tmp_path / "voices.tgz", tmp_path / "own", tmp_path / "cache").list()


def test_what_is_no_file_is_no_voice(tmp_path):
    """Nobody waits for a pipe among the user's own."""
    (tmp_path / "own").mkdir()
    os.mkfifo(tmp_path / "own" / "a.safetensors")
    with pytest.raises(VoiceError, match="no such voice"):
        VoiceStore(None, tmp_path / "own", tmp_path / "cache").read("a")


def test_an_own_voice_is_private_and_can_be_removed(tmp_path):
    """Nobody else can read it; removed, it is gone, and a published one cannot be removed."""
    voices = store(tmp_path, {"NATF0.pt": PUBLISHED})
    path = voices.add("anna", OWN)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    np.testing.assert_array_equal(voices.read("anna").codes, OWN.codes)
    assert [(each.name, each.origin) for each in voices.list()] == [("anna", "own"), ("NATF0", "published")]
    voices.remove("anna")
    assert not list((tmp_path / "own").iterdir())
    for name in ("anna", "NATF0"):
        with pytest.raises(VoiceError, match="no voice of that name"):
            voices.remove(name)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "-x"])
def test_a_name_cannot_be_a_path(tmp_path, name):
    """Nothing is written for one that is."""
    with pytest.raises(VoiceError, match="letters, digits"):
        store(tmp_path).add(name, OWN)
    assert not (tmp_path / "own").exists()


def test_an_unknown_voice_is_named_with_those_there_are(tmp_path):
    """So that a misspelt name is found at once."""
    voices = store(tmp_path, {"NATF0.pt": PUBLISHED})
    with pytest.raises(VoiceError, match="no such voice; there are NATF0"):
        voices.read("NATF9")
    with pytest.raises(VoiceError, match="there are no voices"):
        store(tmp_path).read("anna")


def test_a_converted_voice_that_is_damaged_is_made_anew(tmp_path):
    """The cache is checked when it is read, and what is damaged is removed."""
    voices = store(tmp_path, {"NATF0.pt": PUBLISHED})
    due = voices.read("NATF0")
    (kept,) = (tmp_path / "cache").rglob("NATF0.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    again = VoiceStore(tmp_path / "voices.tgz", tmp_path / "own", tmp_path / "cache").read("NATF0")
    np.testing.assert_array_equal(again.tail, due.tail)
    np.testing.assert_array_equal(again.embeddings, due.embeddings)


def test_an_own_voice_that_is_damaged_is_told(tmp_path):
    """Nobody can make it anew, so it stays where it is."""
    voices = store(tmp_path)
    path = voices.add("anna", OWN)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(VoiceError, match="it is damaged"):
        voices.read("anna")
    assert path.exists()


@pytest.mark.parametrize("cache", ["/dev/null/voices", "/" + 300 * "x"])
def test_voices_need_no_place_for_a_cache(tmp_path, cache):
    """A server starts where nothing can be kept."""
    archive = write_archive(tmp_path / "voices.tgz", {"NATF0.pt": PUBLISHED})
    voices = VoiceStore(archive, tmp_path / "own", Path(cache))
    assert [each.name for each in voices.list()] == ["NATF0"]
    assert voices.read("NATF0").frames == 7


def test_voices_need_no_home_folder(tmp_path, monkeypatch):
    """As in a container that was started with --user."""

    def no_home():
        raise ConfigError("", "there is no home folder")

    monkeypatch.setattr("pipeline.models.checkpoint.voice_store.paths.cache_folder", no_home)
    monkeypatch.setattr("pipeline.models.checkpoint.voice_store.paths.data_folder", no_home)
    archive = write_archive(tmp_path / "voices.tgz", {"NATF0.pt": PUBLISHED})
    assert VoiceStore(archive).read("NATF0").frames == 7
