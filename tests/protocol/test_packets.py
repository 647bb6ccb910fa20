"""The codec: any bytes are one packet, and back, or a fault with a name."""

import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.packets import (
    HEADER_BYTES,
    MESSAGE_BYTES,
    PAYLOAD_BYTES,
    Packet,
    PacketType,
    Priority,
    decode,
    decode_ack,
    encode,
    encode_ack,
    name_of,
)

VECTORS = json.loads(Path(__file__).parents[1].joinpath("data/packets.json").read_text(encoding="utf-8"))
PACKETS = VECTORS["packets"]
SENDABLE = [vector for vector in PACKETS if not vector.get("onlyRead")]

u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFF_FFFF)
# Every one of the 2^64 bit patterns, NaNs and their payloads among them.
doubles = st.binary(min_size=8, max_size=8).map(lambda bits: struct.unpack("<d", bits)[0])
packets = st.builds(Packet, u8, u8, u32, doubles, st.binary(max_size=200), st.booleans())


def bits(value: float) -> bytes:
    return struct.pack(">d", value)


def fields(packet: Packet):
    return (*(getattr(packet, name) for name in ("type", "priority", "seq", "payload", "wants_ack")),
            bits(packet.timestamp_ms))  # fmt: skip


@given(packets)
def test_what_is_encoded_decodes_to_itself_bit_for_bit(packet):
    """decode ∘ encode is the identity, on all 64 bits of the timestamp too."""
    assert fields(decode(encode(packet))) == fields(packet)


@given(st.one_of(st.binary(max_size=64), packets.map(encode)), st.binary(max_size=3), st.integers(0, 20))
def test_any_bytes_are_one_packet_or_a_fault(message, tail, cut):
    """Nothing but a Packet or a RemoteProtocolError comes out, and a Packet holds all of the message."""
    message = message[: len(message) - cut] + tail
    try:
        packet = decode(message)
    except RemoteProtocolError as error:
        fault = error.fault
    else:
        # Only the ack byte has more than one encoding.
        assert encode(packet)[:16] + message[16:17] + encode(packet)[17:] == message
        assert packet.wants_ack == (message[16] != 0)
        return
    expected = Fault.EMPTY_MESSAGE if not message else Fault.SHORT_HEADER
    assert fault is (expected if len(message) < HEADER_BYTES else Fault.LENGTH_MISMATCH)
    assert fault.close_reason is CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize("vector", PACKETS, ids=lambda vector: vector["name"])
def test_the_vectors_agree_with_their_bytes(vector):
    """The committed vectors agree with the byte table, read here by offsets and not by the codec."""
    raw = bytes.fromhex(vector["hex"])
    assert raw[0] == vector["type"]
    assert raw[1] == vector["priority"]
    assert int.from_bytes(raw[2:6], "little") == vector["seq"]
    assert raw[6:14][::-1].hex() == vector["timestampBits"]
    assert int.from_bytes(raw[14:16], "little") == len(raw) - 17
    assert (raw[16] != 0) == vector["wantsAck"]
    assert raw[17:].hex() == vector["payload"]
    if vector["timestampMs"] is not None:
        assert bits(vector["timestampMs"]).hex() == vector["timestampBits"]


@pytest.mark.parametrize("vector", PACKETS, ids=lambda vector: vector["name"])
def test_the_codec_reads_the_vectors(vector):
    """Decoding a vector's bytes gives its fields."""
    packet = decode(bytes.fromhex(vector["hex"]))
    assert (packet.type, packet.priority, packet.seq) == (vector["type"], vector["priority"], vector["seq"])
    assert bits(packet.timestamp_ms).hex() == vector["timestampBits"]
    assert packet.payload == bytes.fromhex(vector["payload"])
    assert packet.wants_ack is vector["wantsAck"]


@pytest.mark.parametrize("vector", SENDABLE, ids=lambda vector: vector["name"])
def test_the_codec_writes_the_vectors(vector):
    """Encoding a vector's fields gives its bytes."""
    (timestamp_ms,) = struct.unpack(">d", bytes.fromhex(vector["timestampBits"]))
    payload = bytes.fromhex(vector["payload"])
    packet = Packet(
        vector["type"], vector["priority"], vector["seq"], timestamp_ms, payload, vector["wantsAck"]
    )
    assert encode(packet).hex() == vector["hex"]


@pytest.mark.parametrize("vector", VECTORS["faults"], ids=lambda vector: vector["name"])
def test_a_malformed_message_has_its_fault(vector):
    """Each way of being no packet has its own name."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode(bytes.fromhex(vector["hex"]))
    assert caught.value.fault.value == vector["fault"]


def test_the_largest_packet_fits_and_one_byte_more_is_too_big():
    """A u16 announces at most 65,535 bytes: 65,552 in all, and 1009 beyond, whatever the header announces."""
    packet = Packet(PacketType.METADATA, Priority.HIGH, 0, 0.0, bytes(PAYLOAD_BYTES))
    message = encode(packet)
    assert len(message) == MESSAGE_BYTES == 65_552
    assert decode(message) == packet
    with pytest.raises(RemoteProtocolError) as caught:
        decode(message + b"\0")
    assert caught.value.close_reason is CloseReason.TOO_BIG


@pytest.mark.parametrize(
    "wrong",
    [
        Packet(0x100, 0, 0, 0.0, b""),
        Packet(1, -1, 0, 0.0, b""),
        Packet(1, 0, 1 << 32, 0.0, b""),
        Packet(1, 0, 0, 0.0, bytes(PAYLOAD_BYTES + 1)),
    ],
)
def test_what_does_not_fit_the_header_is_our_fault(wrong):
    """A field out of its range is a LocalProtocolError, never a wrapped number on the wire."""
    with pytest.raises(LocalProtocolError):
        encode(wrong)


def test_a_view_of_samples_is_encoded_by_its_bytes():
    """A payload may be a view of wider items: `len` counts bytes."""
    samples = memoryview(struct.pack("<3f", 0.5, -0.5, 1.0)).cast("f")
    message = encode(Packet(PacketType.AUDIO_CHUNK, 0, 0, 0.0, samples))
    assert len(message) == HEADER_BYTES + 12
    assert decode(message).payload == samples.tobytes()


@given(u32)
def test_an_ack_names_its_seq(seq):
    """The payload of an ACK is the acked seq, u32 little endian, and nothing else."""
    assert encode_ack(seq) == seq.to_bytes(4, "little")
    assert decode_ack(encode_ack(seq)) == seq


@given(st.binary(max_size=9).filter(lambda payload: len(payload) != 4))
def test_an_ack_of_another_length_names_none(payload):
    """Any other payload of an ACK is None, not a guess."""
    assert decode_ack(payload) is None


@given(u8)
def test_every_type_is_counted_under_some_name(kind):
    """Known types have their own name; unknown ones share one, so that a peer cannot grow our counters."""
    known = {member.value: member.name.lower() for member in PacketType}
    assert name_of(kind) == known.get(kind, "unknown")


def test_timestamps_are_exact_to_the_bit_where_it_matters():
    """A NaN keeps its payload and a negative zero its sign through the codec."""
    for value in (
        math.nan,
        -0.0,
        1767225600123.4001,
        struct.unpack(">d", bytes.fromhex("fff0000000000001"))[0],
    ):
        assert bits(decode(encode(Packet(1, 3, 0, value, b""))).timestamp_ms) == bits(value)
