"""One Opus stream in Ogg pages (RFC 3533, RFC 7845): bytes to packets and back, with bounds.

A reader takes any bytes. What is not a page of its stream, or has a wrong checksum, is skipped. What it
keeps is at most one page and one packet. Its work is bounded by `PACKETS_MAX`, not by the bytes: 64 KiB hold
sixty thousand packets, each of which costs a decoder as much as a real one.
"""

import zlib
from typing import Final

from pipeline.units import SAMPLE_RATE_HZ

PACKETS_MAX: Final = 128  # of one message, and as many pages: what a session accepts at once, in 10 ms each
PACKET_BYTES_MAX: Final = 48 * 1275 + 4  # 120 ms of the largest frames (RFC 6716 §3.2)
_CAPTURE: Final = b"OggS"
_HEADER_BYTES: Final = 27
_CONTINUED: Final = 1
_FIRST: Final = 2
_NO_SEGMENT: Final = 255  # the lacing value of a packet that goes on
_GRANULE_HZ: Final = 48_000  # of Opus in Ogg, whatever the input (RFC 7845 §4)
SERIAL: Final = 42  # that of the original servers
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class OggError(Exception):
    """The stream is not mono or stereo Opus, or has too many packets; what follows may be accepted."""


def checksum(page: bytes) -> int:
    """The CRC of a page whose checksum field is zero: zlib's, mirrored and without its complements."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


class OggReader:
    """The packets of one Opus stream; a new stream may begin at any page."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._serial: bytes | None = None
        self._headers = 2  # of the stream, that are still to come: OpusHead and OpusTags
        self._packet = bytearray()
        self._open = False  # the packet goes on in the next page
        self._too_long = False

    def push(self, data: bytes) -> list[bytes]:
        """Append bytes; the Opus packets that are complete with them.

        Raises:
            OggError: a stream begins that is not one of Opus, whose packets are skipped; or there are more
                than `PACKETS_MAX`, or more pages, and the rest of the bytes is skipped.
        """
        self._buffer += data
        packets: list[bytes] = []
        at = pages = 0
        while (begin := self._buffer.find(_CAPTURE, at)) >= 0:
            size = self._page_bytes(begin)
            if size is None:
                at = begin
                break
            page = bytes(self._buffer[begin : begin + size])
            at = begin + size  # also where the page is damaged: every byte is looked at once
            try:
                packets += self._read(page) if _is_intact(page) else []
            except OggError:
                del self._buffer[:at]
                raise
            pages += 1
            if max(pages, len(packets)) > PACKETS_MAX:
                self._buffer.clear()
                self._open = False
                raise OggError(f"more than {PACKETS_MAX} packets in one message")
        else:
            at = max(at, len(self._buffer) - len(_CAPTURE) + 1)
        del self._buffer[:at]
        return packets

    def _page_bytes(self, begin: int) -> int | None:
        """The size of the page that begins here; None until all of it is there."""
        if len(self._buffer) < begin + _HEADER_BYTES:
            return None
        segments = self._buffer[begin + 26]
        lacing = self._buffer[begin + _HEADER_BYTES : begin + _HEADER_BYTES + segments]
        size = _HEADER_BYTES + segments + sum(lacing)
        return size if len(lacing) == segments and len(self._buffer) >= begin + size else None

    def _read(self, page: bytes) -> list[bytes]:
        flags, serial = page[5], page[14:18]
        if flags & _FIRST:
            self._serial, self._headers = serial, 2
        if serial != self._serial:
            return []
        if not flags & _CONTINUED or not self._open:
            self._packet.clear()
        skip = bool(flags & _CONTINUED) and not self._open  # the end of a packet whose beginning was lost
        packets: list[bytes] = []
        at = _HEADER_BYTES + page[26]
        for lacing in page[_HEADER_BYTES:at]:
            self._packet += page[at : at + lacing]
            at += lacing
            self._open = lacing == _NO_SEGMENT
            if len(self._packet) > PACKET_BYTES_MAX:
                self._packet.clear()
                self._too_long = True
            if not self._open:
                if not skip and not self._too_long:
                    self._add(bytes(self._packet), packets)
                self._packet.clear()
                skip = self._too_long = False
        return packets

    def _add(self, packet: bytes, packets: list[bytes]) -> None:
        if self._headers == 2:
            self._headers = 1
            if not _is_opus_head(packet):
                self._serial = None
                raise OggError("the stream is not mono or stereo Opus")
        elif self._headers == 1:
            self._headers = 0  # OpusTags
        else:
            packets.append(packet)


class OggWriter:
    """Pages of one endless mono stream, each with one packet.

    Args:
        lookahead_samples: how far the encoder's sound is behind, at 24 kHz; players leave it out.
    """

    def __init__(self, lookahead_samples: int = 0) -> None:
        self._pages = 0
        self._samples = 0
        self._pre_skip = lookahead_samples * _GRANULE_HZ // SAMPLE_RATE_HZ

    def headers(self) -> bytes:
        """The two pages with which the stream begins."""
        head = b"OpusHead" + bytes([1, 1]) + self._pre_skip.to_bytes(2, "little")
        head += SAMPLE_RATE_HZ.to_bytes(4, "little") + bytes(3)  # gain 0, mapping family 0
        vendor = b"packet-voice"
        tags = b"OpusTags" + len(vendor).to_bytes(4, "little") + vendor + bytes(4)
        return self._page(head, flags=_FIRST) + self._page(tags)

    def page(self, packet: bytes, samples: int) -> bytes:
        """One packet, which holds so many samples at 24 kHz."""
        self._samples += samples * _GRANULE_HZ // SAMPLE_RATE_HZ
        return self._page(packet)

    def _page(self, packet: bytes, *, flags: int = 0) -> bytes:
        lacing = bytes([_NO_SEGMENT] * (len(packet) // _NO_SEGMENT) + [len(packet) % _NO_SEGMENT])
        head = _CAPTURE + bytes([0, flags]) + self._samples.to_bytes(8, "little")
        head += SERIAL.to_bytes(4, "little") + self._pages.to_bytes(4, "little")
        tail = bytes([len(lacing)]) + lacing + packet
        self._pages += 1
        return head + checksum(head + bytes(4) + tail).to_bytes(4, "little") + tail


def _is_intact(page: bytes) -> bool:
    found = int.from_bytes(page[22:26], "little")
    return page[4] == 0 and checksum(page[:22] + bytes(4) + page[26:]) == found


def _is_opus_head(packet: bytes) -> bool:
    """Whether this is the header of a stream with one or two channels (RFC 7845 §5.1)."""
    return len(packet) >= 19 and packet[:8] == b"OpusHead" and packet[8] < 16 and packet[9] in {1, 2}
