"""A file in the store is whole or absent, and files in use are not evicted."""

import hashlib
import os
import random

import pytest

from actors.hub_proxy.disk_store import HEAD_BYTES, DiskStore, FileMetadata
from actors.hub_proxy.request import FileRef

FILE = FileRef("org/name", "main", "model.onnx")
CONTENT = random.Random(1).randbytes(100_000)
NAMES = [FileRef("org/name", "main", f"{number}.onnx").name("hub") for number in range(4)]


def described(content=CONTENT):
    return FileMetadata(len(content), hashlib.sha256(content).hexdigest(), "0" * 40)


def put(store, name, content=CONTENT):
    partial = store.open_partial(name)
    partial.start(FILE, described(content))
    partial.append(content)
    assert partial.is_valid()
    partial.commit()
    partial.close()


@pytest.fixture
def store(tmp_path):
    return DiskStore(tmp_path)


def content_of(store, name):
    descriptor, found = store.open(name)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()[HEAD_BYTES:], found


def test_a_committed_file_is_found_unchanged(store):
    """Content and metadata are found, also by another process later."""
    put(store, NAMES[0])
    assert store.find(NAMES[0]).metadata == described()
    assert content_of(DiskStore(store._folder), NAMES[0]) == (CONTENT, described())
    assert store.find(NAMES[1]) is None


@pytest.mark.parametrize("written", [0, 1, 50_000, len(CONTENT)])
def test_an_interrupted_download_is_absent_and_can_be_resumed(store, written):
    """Whenever the process dies, the store has no such file, and the next attempt has what was written."""
    partial = store.open_partial(NAMES[0])
    partial.start(FILE, described())
    partial.append(CONTENT[:written])
    os.close(partial.descriptor)  # as the end of a process would, and nothing else of it
    assert store.find(NAMES[0]) is None
    again = store.open_partial(NAMES[0])
    assert (again.metadata, again.present_bytes) == (described(), written)
    while not again.hash_existing():
        pass
    again.append(CONTENT[written:])
    assert again.is_valid()
    again.commit()
    again.close()
    assert content_of(store, NAMES[0]) == (CONTENT, described())


def test_an_incomplete_head_is_ignored(store, tmp_path):
    """An attempt that ended in its first block is begun again."""
    (tmp_path / f"{NAMES[0]}.part").write_bytes(b'{"format": 1, "fi')
    partial = store.open_partial(NAMES[0])
    assert (partial.metadata, partial.present_bytes) == (None, 0)
    partial.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw + b"x",
        lambda raw: raw[:100],
        lambda raw: b"",
        lambda raw: bytes(len(raw)),
        lambda raw: b"[]".ljust(HEAD_BYTES) + raw[HEAD_BYTES:],
        lambda raw: raw.replace(b'"format": 1', b'"format": 2'),
        lambda raw: raw.replace(b'"size_bytes": 100000', b'"size_bytes": "10000"'),
        lambda raw: raw.replace(b'"size_bytes": 100000', b'"size_bytes": -4096 '),
        lambda raw: raw.replace(b'"etag": "', b'"etag": "\\n'),
        lambda raw: raw.replace(b'"commit": "', b'"commit": {"'),
        lambda raw: (b"[" * 4000).ljust(HEAD_BYTES) + raw[HEAD_BYTES:],
        lambda raw: raw[:HEAD_BYTES] + bytes([raw[HEAD_BYTES] ^ 1]) + raw[HEAD_BYTES + 1 :],
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 128]),
    ],
)
def test_a_damaged_file_is_removed(store, tmp_path, damage):
    """A file with the wrong length, or without valid metadata, is not found."""
    put(store, NAMES[0])
    path = tmp_path / NAMES[0]
    path.write_bytes(damage(path.read_bytes()))
    assert store.find(NAMES[0]) is None
    assert not path.exists()


def test_a_damaged_file_without_a_sha256_in_its_etag_is_removed(store, tmp_path):
    """Small files of a hub have other ETags: the digest of what was downloaded is kept with them."""
    partial = store.open_partial(NAMES[0])
    partial.start(FILE, FileMetadata(len(CONTENT), "a-small-file", None))
    partial.append(CONTENT)
    partial.commit()
    partial.close()
    assert store.find(NAMES[0]).metadata.etag == "a-small-file"
    path = tmp_path / NAMES[0]
    path.write_bytes(path.read_bytes()[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert DiskStore(tmp_path).find(NAMES[0]) is None
    assert not path.exists()


def test_other_content_of_the_right_length_is_invalid(store):
    """One different bit is enough."""
    partial = store.open_partial(NAMES[0])
    partial.start(FILE, described())
    partial.append(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    assert not partial.is_valid()
    partial.discard()
    partial.close()


def test_two_writers_do_not_share_a_partial_file(store, tmp_path):
    """A second writer has a partial file of its own; the last to commit wins."""
    one, other = store.open_partial(NAMES[0]), store.open_partial(NAMES[0])
    for partial in (one, other):
        partial.start(FILE, described())
        partial.append(CONTENT)
        partial.commit()
        partial.close()
    assert [path.name for path in tmp_path.iterdir()] == [NAMES[0]]
    assert content_of(store, NAMES[0]) == (CONTENT, described())


def test_the_least_recently_used_files_are_evicted_first(store, tmp_path):
    """By when they were last found; files being read or written stay, and so do files of other programs."""
    for name in NAMES:
        put(store, name)
    stranger = tmp_path / "holiday.jpg"
    stranger.write_bytes(bytes(10**6))
    for rank, name in enumerate([NAMES[2], NAMES[0], NAMES[3], NAMES[1]]):
        checked_ns = (tmp_path / name).stat().st_mtime_ns
        os.utime(tmp_path / name, ns=(rank, checked_ns))
    assert store.find(NAMES[2]) is not None  # used now
    one = HEAD_BYTES + len(CONTENT)
    usage = store.evict(2 * one, in_use=[NAMES[0]])
    assert (usage.files, usage.size_bytes, usage.evicted) == (2, 2 * one, 2)
    assert {path.name for path in tmp_path.iterdir()} == {stranger.name, NAMES[0], NAMES[2]}
    partial = store.open_partial(NAMES[1])
    partial.start(FILE, described())
    partial.append(b"x")
    assert store.evict(0, in_use=NAMES).evicted == 0
    assert store.evict(0).evicted == 2
    assert (tmp_path / f"{NAMES[1]}.part").exists()  # somebody writes it
    partial.close()
    assert store.evict(0).evicted == 1
    assert [path.name for path in tmp_path.iterdir()] == [stranger.name]


def test_an_evicted_file_can_be_read_to_its_end(store):
    """A reader that has it open keeps it."""
    put(store, NAMES[0])
    descriptor, _ = store.open(NAMES[0])
    store.evict(0)
    with os.fdopen(descriptor, "rb") as file:
        assert file.read()[HEAD_BYTES:] == CONTENT


def test_finding_a_file_does_not_make_it_fresh(store):
    """Only a confirmation by the hub changes when it was last validated."""
    put(store, NAMES[0])
    os.utime(store._folder / NAMES[0], (5.0, 5.0))
    assert store.find(NAMES[0]).validated_s == 5.0
    assert store.find(NAMES[0]).validated_s == 5.0
    store.mark_validated(NAMES[0])
    assert store.find(NAMES[0]).validated_s > 5.0


def test_a_missing_folder_counts_as_empty(tmp_path):
    """It is created with the first file, readable by this user alone."""
    store = DiskStore(tmp_path / "a" / "b")
    assert store.find(NAMES[0]) is None
    assert store.evict(0).files == 0
    put(store, NAMES[0])
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
