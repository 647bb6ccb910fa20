"""Opus in Ogg: what is written is read, whatever the pieces; what is damaged is skipped; bombs are held."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.protocol.moshi.ogg import (
    PACKET_BYTES_MAX,
    PACKETS_MAX,
    OggError,
    OggReader,
    OggWriter,
    checksum,
)

PACKETS = st.lists(st.binary(min_size=1, max_size=1300), max_size=12)


def stream_of(packets, lookahead=156):
    writer = OggWriter(lookahead)
    return writer.headers() + b"".join(writer.page(packet, 1920) for packet in packets)


def cut(data, sizes):
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


def read(pieces):
    reader = OggReader()
    return [packet for piece in pieces for packet in reader.push(piece)]


def page(packet_bytes, lacing, *, flags=0, serial=42, number=9):
    head = (
        b"OggS" + bytes([0, flags]) + bytes(8) + serial.to_bytes(4, "little") + number.to_bytes(4, "little")
    )
    tail = bytes([len(lacing)]) + bytes(lacing) + packet_bytes
    return head + checksum(head + bytes(4) + tail).to_bytes(4, "little") + tail


@given(PACKETS, st.lists(st.integers(0, 3000), max_size=8))
def test_packets_survive_any_cut(packets, sizes):
    """Every packet, once and in order."""
    assert read(cut(stream_of(packets), sizes)) == packets


@given(PACKETS, PACKETS, st.binary(max_size=200).filter(lambda data: b"OggS" not in data))
def test_noise_between_pages_is_skipped(before, after, noise):
    """Bytes that are no page cost no packet; a capture pattern at their end would be one."""
    first, second = stream_of(before), stream_of(after)
    noise = noise.rstrip(b"OgS")
    assert read([first + noise + second]) == before + after


def test_the_checksum_is_that_of_ogg():
    """A page of libogg's, by way of its polynomial bit by bit."""
    rng = np.random.default_rng(0)
    for size in (0, 1, 27, 300):
        data = rng.bytes(size)
        crc = 0
        for byte in data:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
        assert checksum(data) == crc


def test_a_damaged_page_is_skipped():
    """The packets of the others arrive."""
    data = bytearray(stream_of([b"one", b"two", b"three"]))
    data[data.index(b"two")] ^= 1
    assert read([bytes(data)]) == [b"one", b"three"]


def test_a_packet_may_span_pages():
    """Continued pages are joined; the end of a packet whose beginning was lost is skipped."""
    whole = bytes(range(256)) * 2
    begin, end = page(whole[:255], [255]), page(whole[255:], [255, 2], flags=1)
    headers = stream_of([])
    assert read([headers, begin, end]) == [whole]
    assert read([headers, end, page(b"x", [1])]) == [b"x"]


def test_other_streams_are_ignored_and_a_new_one_begins_anew():
    """Packets count from the second page of the stream on, whatever its serial number."""
    headers = stream_of([])
    assert read([headers, page(b"no", [2], serial=7), page(b"yes", [3])]) == [b"yes"]
    assert read([stream_of([b"a"]), stream_of([b"b"])]) == [b"a", b"b"]


def test_a_stream_of_something_else_is_refused():
    """The error is raised once; nothing of that stream is a packet, and an Opus stream may follow."""
    reader = OggReader()
    with pytest.raises(OggError):
        reader.push(page(b"\x01vorbis", [7], flags=2))
    assert reader.push(page(b"x", [1])) == []
    assert reader.push(stream_of([b"y"])) == [b"y"]


def test_an_endless_packet_is_not_kept():
    """Its bytes are dropped as they come, and the next packet is read."""
    reader = OggReader()
    reader.push(stream_of([]))
    for _ in range(40):
        assert reader.push(page(bytes(255 * 255), [255] * 255, flags=1)) == []
        assert len(reader._packet) <= PACKET_BYTES_MAX
    assert reader.push(page(b"end", [3], flags=1)) == []
    assert reader.push(page(b"next", [4])) == [b"next"]


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=300) | st.just(stream_of([b"abc"])) | st.just(b"OggS\x00"), max_size=10))
def test_any_bytes_are_packets_or_an_error(pieces):
    """Nothing else is raised, and what is kept is at most one page."""
    reader = OggReader()
    for piece in pieces:
        with contextlib.suppress(OggError):
            reader.push(piece)
        assert len(reader._buffer) <= 27 + 255 + 255 * 255


@pytest.mark.parametrize("unit", [page(b"", [0] * 255), page(b"\xff" * 255, [1] * 255), page(b"", [])])
def test_a_message_of_thousands_of_packets_or_pages_is_refused(unit):
    """Each would cost as much as a real one; what comes in the next message is read."""
    reader = OggReader()
    reader.push(OggWriter().headers())
    with pytest.raises(OggError, match=f"more than {PACKETS_MAX} packets"):
        reader.push(unit * (65_000 // len(unit)))
    assert reader.push(OggWriter().page(b"sound", 1920)) == [b"sound"]
