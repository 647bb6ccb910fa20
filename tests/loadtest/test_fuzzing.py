"""The verdicts over fuzzed packets: the table's, held against the protocol, and able to disagree with it."""

import math
import struct

import pytest

from pipeline.loadtest import fuzzing
from pipeline.loadtest.client import WrongAnswerError, speech
from pipeline.loadtest.fuzzing import Fuzzer, Verdict, fuzz_protocol, judge
from pipeline.protocol.packets import PacketType


def packet(kind, payload, *, stamp_ms=0.0, ack=0, announced=None):
    size = len(payload) if announced is None else announced
    return struct.pack("<BBIdHB", kind, 1, 5, stamp_ms, size, ack) + payload


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("text", Verdict("fatal", "text_frame")),
        (b"", Verdict("fatal", "empty_message")),
        (bytes(16), Verdict("fatal", "short_header")),
        (packet(PacketType.HEARTBEAT, b"", announced=1), Verdict("fatal", "length_mismatch")),
        (bytes(65_553), Verdict("fatal", "too_big")),
        (packet(PacketType.TEXT_FINAL, b"\xff"), Verdict("fatal", "invalid_utf8")),
        (packet(PacketType.METADATA, b"{", ack=1), Verdict("fatal", "invalid_json")),
        (packet(PacketType.METADATA, b"[]"), Verdict("fatal", "invalid_metadata")),
        (packet(PacketType.METADATA, b'{"type":"vad"}', ack=1), Verdict("refused", "bad_metadata", 5)),
        (packet(PacketType.METADATA, b'{"type":"?"}'), Verdict("ignored", "unknown_metadata")),
        (packet(PacketType.METADATA, b'{"type":"bye"}'), Verdict("bye")),
        (packet(0x77, b"any", ack=1), Verdict("ignored", "unknown_packet", 5)),
        (packet(PacketType.ACK, b"", ack=1), Verdict("refused", "bad_ack")),
        (packet(PacketType.AUDIO_CHUNK, b""), Verdict("refused", "audio_refused")),
        (packet(PacketType.AUDIO_CHUNK, speech()[0], stamp_ms=math.nan), Verdict("refused", "bad_timestamp")),
        (packet(PacketType.AUDIO_CHUNK, speech()[0]), Verdict("taken", "audio")),
    ],
)
def test_the_table_row_by_row(message, verdict):
    """Each kind of bad input has its own answer."""
    assert judge(message) == verdict


def test_the_protocol_answers_per_the_table():
    """Whatever is sent, the protocol does what the table says; every effect and every fault occurs."""
    outcomes = fuzz_protocol(4000, seed=1)
    assert outcomes.total() == 4000
    assert {name.split()[0] for name in outcomes} == {"fatal", "refused", "ignored", "taken", "bye"}
    faults = {name.removeprefix("fatal ") for name in outcomes if name.startswith("fatal")}
    assert faults == {
        *("text_frame", "empty_message", "too_big", "short_header", "length_mismatch"),
        *("invalid_utf8", "invalid_json", "invalid_metadata"),
    }


def test_the_same_seed_says_the_same():
    """A failure can be repeated."""
    first, second = Fuzzer(3), Fuzzer(3)
    assert [first.message() for _ in range(300)] == [second.message() for _ in range(300)]


def test_a_difference_is_found(monkeypatch):
    """A protocol that lets unknown packets end a connection would be caught."""
    monkeypatch.setattr(fuzzing, "judge", lambda message: Verdict("fatal", "unknown_packet"))
    with pytest.raises(WrongAnswerError, match="the table says"):
        fuzz_protocol(10, seed=1)
