"""What is allowed, cached and asked for are one thing, because there is one way to spell a file."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.hub_proxy.request import Allowed, FileRef
from pipeline.errors import HubFileError

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@~-]*")
segments = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_+=@~-]{0,20}(\.[a-z]{1,5})?", fullmatch=True)
names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True)
files = st.builds(
    FileRef,
    st.builds("{}/{}".format, names, names),
    names,
    st.lists(segments, min_size=1, max_size=8).map("/".join),
)
addresses = st.text() | st.text("./%\\ab\0\n?#resolve", max_size=60) | files.map(str)


@given(files)
def test_a_plain_file_is_what_it_says(wanted):
    """Spelling and reading are inverse."""
    assert FileRef.parse(str(wanted)) == wanted


@given(addresses, st.integers(0, 80), st.sampled_from([*"/.%\\\0\n \r?#:", "..", "%2e", "//"]))
def test_any_text_is_a_plain_file_or_none(address, at, inserted):
    """Whatever is put where: every part of what passes is plain, and nothing in it climbs."""
    for text in (address, address[:at] + inserted + address[at:]):
        try:
            wanted = FileRef.parse(text)
        except HubFileError:
            continue
        assert str(wanted) == text
        parts = [*wanted.repo.split("/"), wanted.revision, *wanted.path.split("/")]
        assert all(PLAIN.fullmatch(part) and ".." not in part for part in parts)
        assert wanted.repo.count("/") == 1


@given(files, files)
def test_two_files_have_two_names(one, other):
    """As they come from two hubs, too."""
    assert (one.name("https://a") == other.name("https://a")) is (one == other)
    assert one.name("https://a") != one.name("https://b")


@pytest.mark.parametrize(
    ("revision", "pinned"),
    [
        ("0" * 40, True),
        ("abcdef0123" * 4, True),
        ("ABCDEF0123" * 4, False),
        ("main", False),
        ("0" * 39, False),
    ],
)
def test_a_commit_is_pinned(revision, pinned):
    """Forty hex digits, as git spells them."""
    assert FileRef("a/b", revision, "c").is_pinned is pinned


def test_a_pattern_stays_within_a_name():
    """`*` is anything but a slash, and everything else is itself."""
    allowed = Allowed(["onnx-community/whisper-*", "my.org/*"])
    for repo in ("onnx-community/whisper-tiny", "onnx-community/whisper-", "my.org/anything"):
        assert repo in allowed
    for repo in ("onnx-community/Whisper-tiny", "x-onnx-community/whisper-tiny", "my-org/x", "a/whisper-b"):
        assert repo not in allowed
    assert "a/b" not in Allowed([])
