"""The expected outcomes of fuzzed packets, compared with those of the protocol."""

import math
import struct

import numpy as np
import pytest

from pipeline.audio.transcoding import DecodedAudio, OpusStreamDecoder
from pipeline.loadtest import fuzzing
from pipeline.loadtest.client import ViolationError, speech
from pipeline.loadtest.dialect_fuzzing import fuzz_dialects
from pipeline.loadtest.fuzzing import Fuzzer, Outcome, expected_outcome, fuzz_protocol
from pipeline.protocol.packets import PacketType
from pipeline.units import FRAME_SAMPLES


def packet(kind, payload, *, stamp_ms=0.0, ack=0, announced=None):
    size = len(payload) if announced is None else announced
    return struct.pack("<BBIdHB", kind, 1, 5, stamp_ms, size, ack) + payload


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("text", Outcome("fatal", "text_frame")),
        (b"", Outcome("fatal", "empty_message")),
        (bytes(16), Outcome("fatal", "short_header")),
        (packet(PacketType.HEARTBEAT, b"", announced=1), Outcome("fatal", "length_mismatch")),
        (bytes(65_553), Outcome("fatal", "too_big")),
        (packet(PacketType.TEXT_FINAL, b"\xff"), Outcome("fatal", "invalid_utf8")),
        (packet(PacketType.METADATA, b"{", ack=1), Outcome("fatal", "invalid_json")),
        (packet(PacketType.METADATA, b"[]"), Outcome("fatal", "invalid_metadata")),
        (packet(PacketType.METADATA, b'{"type":"vad"}', ack=1), Outcome("refused", "bad_metadata", 5)),
        (packet(PacketType.METADATA, b'{"type":"?"}'), Outcome("ignored", "unknown_metadata")),
        (packet(PacketType.METADATA, b'{"type":"bye"}'), Outcome("bye")),
        (packet(0x77, b"any", ack=1), Outcome("ignored", "unknown_packet", 5)),
        (packet(PacketType.ACK, b"", ack=1), Outcome("refused", "bad_ack")),
        (packet(PacketType.AUDIO_CHUNK, b""), Outcome("refused", "audio_refused")),
        (packet(PacketType.AUDIO_CHUNK, speech()[0], stamp_ms=math.nan), Outcome("refused", "bad_timestamp")),
        (packet(PacketType.AUDIO_CHUNK, speech()[0]), Outcome("taken", "audio")),
    ],
)
def test_each_kind_of_bad_input_has_its_outcome(message, outcome):
    """The table of docs/reference/protocol.md, row by row."""
    assert expected_outcome(message) == outcome


def test_the_protocol_has_the_expected_outcomes():
    """Every random packet has the expected outcome; every effect and every fault occurs."""
    outcomes = fuzz_protocol(4000, seed=1)
    assert outcomes.total() == 4000
    assert {name.split()[0] for name in outcomes} == {"fatal", "refused", "ignored", "taken", "bye"}
    faults = {name.removeprefix("fatal ") for name in outcomes if name.startswith("fatal")}
    assert faults == {
        *("text_frame", "empty_message", "too_big", "short_header", "length_mismatch"),
        *("invalid_utf8", "invalid_json", "invalid_metadata"),
    }


def test_the_same_seed_gives_the_same_messages():
    """A failure can be reproduced."""
    first, second = Fuzzer(3), Fuzzer(3)
    assert [first.message() for _ in range(300)] == [second.message() for _ in range(300)]


def test_a_difference_is_detected(monkeypatch):
    """An implementation that closes the connection after an unknown packet is reported."""
    monkeypatch.setattr(fuzzing, "expected_outcome", lambda message: Outcome("fatal", "unknown_packet"))
    with pytest.raises(ViolationError, match="expected Outcome"):
        fuzz_protocol(10, seed=1)


def test_the_dialects_of_other_clients_bear_anything():
    """Every random message has an answer in its dialect; most are refused, some are not."""
    outcomes = fuzz_dialects(3000, seed=1)
    assert outcomes.total() == 9000
    for dialect in ("live", "realtime", "moshi"):
        assert outcomes[f"{dialect} EncodedAudioReceived"] > 20
        assert outcomes[f"{dialect} Answered"] > 100
    assert outcomes["moshi Refused"]
    assert outcomes["moshi text_frame"]
    assert outcomes["moshi empty_message"]
    assert outcomes == fuzz_dialects(3000, seed=1)


def test_audio_that_cannot_be_decoded_is_detected(monkeypatch):
    """A decoder that fails on what a dialect accepts is reported."""

    def fail(*_):
        raise ValueError("no audio")

    monkeypatch.setattr(OpusStreamDecoder, "decode", fail)
    with pytest.raises(ViolationError, match="no audio"):
        fuzz_dialects(1000, seed=1, names=["moshi"])


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (np.full((1, FRAME_SAMPLES), np.inf, np.float32), "not finite"),
        (np.zeros((20, FRAME_SAMPLES)), "became"),
    ],
)
def test_audio_without_bounds_is_detected(monkeypatch, samples, problem):
    """Infinite samples, and more of them than one message may hold, are reported."""
    monkeypatch.setattr(OpusStreamDecoder, "decode", lambda *_: DecodedAudio(samples))
    with pytest.raises(ViolationError, match=problem):
        fuzz_dialects(1000, seed=1, names=["moshi"])
