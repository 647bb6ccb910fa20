"""A Range header means what RFC 9110 says, or the whole file."""

from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from web.routes.ranges import asked_part

sizes = st.integers(0, 2**40)


def part(size_bytes, etag='"e"', method="GET", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asked_part(Headers(named), method=method, size_bytes=size_bytes, etag=etag)


@given(sizes, st.integers(0, 2**41), st.integers(0, 2**41))
def test_a_range_is_cut_to_the_file(size_bytes, first, last):
    """`first-last` is what of it the file has; nothing of it is 416; backwards it is no range."""
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
    """`-n` is the last n bytes, or all where there are fewer; nothing of nothing is 416."""
    got = part(size_bytes, Range=f"bytes=-{length}")
    expected = range(size_bytes)[-length:] if length else []
    assert (got.status, got.size_bytes) == ((206, len(expected)) if expected else (416, 0))


@given(sizes, st.text(max_size=30))
def test_anything_else_is_the_whole(size_bytes, text):
    """Whatever the header holds, the answer is the whole or a part of it."""
    got = part(size_bytes, Range=text.replace("\r", "").replace("\n", ""))
    assert got.status in {200, 206, 416}
    assert 0 <= got.begin <= got.end <= size_bytes


def test_a_head_request_has_no_range():
    """Range is defined for GET alone."""
    assert part(10, method="HEAD", Range="bytes=0-0").status == 200


def test_a_file_without_an_etag_is_never_unchanged():
    """And a part that depends on one is the whole."""
    assert part(10, etag=None, If_None_Match='"e"').status == 200
    assert part(10, etag=None, Range="bytes=0-0", If_Range='"e"').status == 200
    assert part(10, etag=None, Range="bytes=0-0").status == 206
