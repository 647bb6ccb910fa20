"""A Range header selects what RFC 9110 says, or is ignored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from web.routes.ranges import requested_part

sizes = st.integers(0, 2**40)


def part(size_bytes, etag='"e"', method="GET", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requested_part(Headers(named), method=method, size_bytes=size_bytes, etag=etag)


@given(sizes, st.integers(0, 2**41), st.integers(0, 2**41))
def test_a_range_is_cut_to_the_file(size_bytes, first, last):
    """`first-last` is clamped to the file; beyond it 416; a reversed range is ignored."""
    got = part(size_bytes, Range=f"bytes={first}-{last}")
    expected = range(size_bytes)[first : last + 1]
    if last < first:
        assert (got.status, got.size_bytes) == (200, size_bytes)
    elif expected:
        assert (got.status, got.begin, got.end) == (206, expected[0], expected[-1] + 1)
    else:
        assert (got.status, got.size_bytes) == (416, 0)


@given(sizes, st.integers(0, 2**41))
def test_a_suffix_is_the_end_of_the_file(size_bytes, length):
    """`-n` is the last n bytes, or all of a shorter file; an empty result is 416."""
    got = part(size_bytes, Range=f"bytes=-{length}")
    expected = range(size_bytes)[-length:] if length else []
    assert (got.status, got.size_bytes) == ((206, len(expected)) if expected else (416, 0))


@given(sizes, st.text(max_size=30))
def test_any_other_header_is_answered(size_bytes, text):
    """Any other header gives the whole file or a valid part of it."""
    got = part(size_bytes, Range=text.replace("\r", "").replace("\n", ""))
    assert got.status in {200, 206, 416}
    assert 0 <= got.begin <= got.end <= size_bytes


def test_a_head_request_has_no_range():
    """Range is defined for GET alone."""
    assert part(10, method="HEAD", Range="bytes=0-0").status == 200


def test_a_file_without_an_etag_is_never_unchanged():
    """If-None-Match and If-Range need an ETag to match."""
    assert part(10, etag=None, If_None_Match='"e"').status == 200
    assert part(10, etag=None, Range="bytes=0-0", If_Range='"e"').status == 200
    assert part(10, etag=None, Range="bytes=0-0").status == 206


@pytest.mark.parametrize(
    ("header", "status"),
    [('"e"', 304), ('W/"e"', 304), ("*", 304), ('"a", W/"e"', 304), ('"a", "b"', 200), ("", 200)],
)
def test_if_none_match_compares_weakly(header, status):
    """Any tag of the list, strong or weak, or an asterisk (RFC 9110 §13.1.2)."""
    assert part(10, If_None_Match=header).status == status


@pytest.mark.parametrize(
    ("header", "status"), [('"e"', 206), ('W/"e"', 200), ('"a"', 200), ("Sun, 29 Nov 2026 00:00:00 GMT", 200)]
)
def test_if_range_compares_strongly(header, status):
    """A weak tag, another tag or a date gives the whole file (RFC 9110 §13.1.5)."""
    assert part(10, Range="bytes=0-0", If_Range=header).status == status


@pytest.mark.parametrize(
    "header", ["bytes=0-1,5-6", "bytes=0-1,-1", "items=0-1", "bytes=5-3", "bytes=+1-2", "0-1"]
)
def test_other_ranges_are_ignored(header):
    """Several ranges, other units and malformed headers give the whole file."""
    assert (part(10, Range=header).status, part(10, Range=header).size_bytes) == (200, 10)
