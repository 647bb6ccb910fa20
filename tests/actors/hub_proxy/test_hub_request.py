"""A file has exactly one spelling, so what is allowed, cached and requested is the same file."""

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
def test_formatting_and_parsing_are_inverse(ref):
    """A file reference survives a round trip."""
    assert FileRef.parse(str(ref)) == ref


@given(addresses, st.integers(0, 80), st.sampled_from([*"/.%\\\0\n \r?#:", "..", "%2e", "//"]))
def test_any_text_is_a_plain_path_or_refused(address, at, inserted):
    """Whatever is inserted where: every segment of an accepted path is plain, none a parent segment."""
    for text in (address, address[:at] + inserted + address[at:]):
        try:
            ref = FileRef.parse(text)
        except HubFileError:
            continue
        assert str(ref) == text
        parts = [*ref.repo.split("/"), ref.revision, *ref.path.split("/")]
        assert all(PLAIN.fullmatch(part) and ".." not in part for part in parts)
        assert ref.repo.count("/") == 1


@given(files, files)
def test_names_in_the_store_are_distinct(one, other):
    """For different files, and for the same file from different hubs."""
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
    """Forty lower-case hex digits."""
    assert FileRef("a/b", revision, "c").is_pinned is pinned


def test_a_pattern_does_not_match_a_slash():
    """`*` matches anything but a slash; every other character matches itself."""
    allowed = Allowed(["onnx-community/whisper-*", "my.org/*"])
    for repo in ("onnx-community/whisper-tiny", "onnx-community/whisper-", "my.org/anything"):
        assert repo in allowed
    for repo in ("onnx-community/Whisper-tiny", "x-onnx-community/whisper-tiny", "my-org/x", "a/whisper-b"):
        assert repo not in allowed
    assert "a/b" not in Allowed([])
