"""Two ends of one connection: what each message means, what is answered, what is refused."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.conversation import Conversation, capture_ms
from pipeline.protocol.events import (
    Acked,
    AudioReceived,
    HeartbeatReceived,
    Ignored,
    MetadataReceived,
    Refused,
    TextReceived,
)
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.metadata import (
    Bye,
    ClientStats,
    Configure,
    ConnectionEstablished,
    ErrorNotice,
    LimitsInfo,
    ModelInfo,
    Queued,
    Ready,
    Resumed,
    Stats,
    Vad,
)
from pipeline.protocol.packets import Packet, PacketType, Priority, decode, encode
from pipeline.protocol.phases import Phase
from pipeline.protocol.unacked import UnackedPackets

EPOCH_MS = 1767225600000.0
ESTABLISHED = ConnectionEstablished(
    1,
    "5f2c",
    None,
    EPOCH_MS,
    24_000,
    1920,
    ModelInfo("tiny", "moshi", trained=False, model_delay_ms=160, text="ids"),
    LimitsInfo(65_552, 8, 400, 5_000, 15_000),
)
FRAME = struct.pack("<4f", 0.0, 0.5, -0.5, 1.0)


def end(role, **kwargs):
    return Conversation(role, heartbeat_every_s=5.0, heartbeat_timeout_s=15.0, now_s=0.0, **kwargs)


def write(conversation, packet):
    return conversation.encode_next(packet, timestamp_ms=EPOCH_MS)


def deliver(sender, receiver, packet, now_s=0.0):
    """One packet from end to end: the event there, and the replies, which are delivered back."""
    event, replies = receiver.receive(write(sender, packet), now_s=now_s)
    for reply in replies:
        _, more = sender.receive(write(receiver, reply), now_s=now_s)
        assert not more
    return event, replies


def pair(*, ready=True):
    server, client = end("server"), end("client")
    if ready:
        deliver(server, client, outgoing.metadata(ESTABLISHED))
        deliver(server, client, outgoing.metadata(Ready()))
    return server, client


def raw(kind, payload=b"", *, seq=0, timestamp_ms=EPOCH_MS, wants_ack=False):
    return encode(Packet(kind, 0, seq, timestamp_ms, payload, wants_ack))


# A session, from its first packet to its last


def test_a_session_passes_through_its_phases_on_both_ends():
    """Both ends are in the same phase after every packet, and arrives with its meaning."""
    server, client = pair(ready=False)
    exchange = [
        (server, client, ESTABLISHED, Phase.WAITING),
        (client, server, Configure(seed=7), Phase.WAITING),
        (server, client, Queued(2), Phase.WAITING),
        (server, client, Queued(1), Phase.WAITING),
        (server, client, Ready(), Phase.READY),
        (client, server, Vad(speaking=True), Phase.READY),
        (server, client, Stats(0, 0, 0, 0, 1, 16, 0), Phase.READY),
        (client, server, Bye(), Phase.CLOSING),
    ]
    for sender, receiver, value, phase in exchange:
        event, replies = deliver(sender, receiver, outgoing.metadata(value))
        assert event == MetadataReceived(value)
        assert replies == ()
        assert server.phase is client.phase is phase


def test_a_resumed_session_is_ready():
    """`resumed` stands in the place of `ready`."""
    server, client = pair(ready=False)
    deliver(server, client, outgoing.metadata(ESTABLISHED))
    deliver(server, client, outgoing.metadata(Resumed("5f2c", "t1", (), 0)))
    assert server.phase is client.phase is Phase.READY


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_audio_comes_out_as_it_went_in(timestamp_ms):
    """Payload and timestamp arrive bit for bit, in both directions."""
    server, client = pair()
    for sender, receiver in ((client, server), (server, client)):
        event, replies = deliver(sender, receiver, outgoing.audio(FRAME, timestamp_ms))
        assert isinstance(event, AudioReceived)
        assert event.payload == FRAME
        assert struct.pack("<d", event.timestamp_ms) == struct.pack("<d", timestamp_ms)
        assert replies == ()


@pytest.mark.parametrize("role", ["server", "client"])
def test_text_is_the_utterance_so_far_and_then_final(role):
    """Of the agent or of the user: a partial wants no ACK, a final one does and gets it; both are counted."""
    server, client = pair()
    sender, receiver = (server, client) if role == "server" else (client, server)
    event, replies = deliver(sender, receiver, outgoing.text_partial("né €", 80.0))
    assert event == TextReceived("né €", final=False, timestamp_ms=80.0)
    assert replies == ()
    event, replies = deliver(sender, receiver, outgoing.text_final("né €5", 160.0))
    assert event == TextReceived("né €5", final=True, timestamp_ms=160.0)
    assert [reply.kind for reply in replies] == ["ack"]
    assert sender.unacked == ()
    counted = receiver.statistics()
    assert (counted.received["text_partial"], counted.received["text_final"]) == (1, 1)
    assert counted.ignored == {}


def test_priorities_are_those_of_the_protocol():
    """CRITICAL audio, HIGH control, final text and ACKs, NORMAL partial text, LOW reports and heartbeats."""
    client = end("client")
    assert outgoing.audio(FRAME, 0.0).priority is Priority.CRITICAL
    for high in (
        outgoing.text_final(""),
        outgoing.ack(0),
        outgoing.metadata(Ready()),
        outgoing.metadata(Bye()),
    ):
        assert high.priority is Priority.HIGH
    assert outgoing.text_partial("").priority is Priority.NORMAL
    for low in (
        outgoing.metadata(Stats(0, 0, 0, 0, 0, 0, 0)),
        outgoing.metadata(ClientStats()),
        client.heartbeat(now_s=0.0),
    ):
        assert low.priority is Priority.LOW


# Seqs and ACKs


@given(st.lists(st.sampled_from(["audio", "text_partial", "text_final"]), max_size=30))
def test_seqs_are_contiguous_from_0_in_the_order_of_writing(kinds):
    """A packet gets its seq when it is written: a dropped one takes none."""
    server, _ = pair(ready=False)
    messages = [write(server, outgoing.metadata(ESTABLISHED)), write(server, outgoing.metadata(Ready()))]
    for kind in kinds:
        packets = {
            "audio": lambda: outgoing.audio(FRAME, 1.0),
            "text_partial": lambda: outgoing.text_partial("a"),
            "text_final": lambda: outgoing.text_final("a"),
        }
        messages.append(write(server, packets[kind]()))
    assert [decode(message).seq for message in messages] == list(range(len(messages)))


def test_seqs_wrap_from_the_last_u32_to_0():
    """After 4,294,967,295 comes 0, and ACKs still find their packet."""
    server, client = pair()
    server._next_seq = 0xFFFF_FFFF
    messages = [write(server, outgoing.text_final(text)) for text in ("last", "first")]
    assert [decode(message).seq for message in messages] == [0xFFFF_FFFF, 0]
    for message, text in zip(messages, ("last", "first"), strict=True):
        _, (ack,) = client.receive(message, now_s=0.0)
        event, _ = server.receive(write(client, ack), now_s=0.0)
        assert event == Acked(decode(message).seq, outgoing.text_final(text))


def test_a_packet_without_a_time_gets_that_of_its_write():
    """An ACK carries the time of its write, an echo the time it was given."""
    server, _ = pair()
    assert decode(server.encode_next(outgoing.ack(1), timestamp_ms=5.5)).timestamp_ms == 5.5
    assert decode(server.encode_next(outgoing.audio(FRAME, 7.25), timestamp_ms=5.5)).timestamp_ms == 7.25


def test_packets_that_want_an_ack_are_kept_in_order_until_they_have_one():
    """`unacked` is oldest first; an ACK removes exactly its packet, a second ACK nothing."""
    server, _ = pair()
    finals = [outgoing.text_final(str(i)) for i in range(3)]
    seqs = [decode(write(server, final)).seq for final in finals]
    assert server.unacked == tuple(finals)
    ack = raw(PacketType.ACK, seqs[1].to_bytes(4, "little"))
    assert server.receive(ack, now_s=0.0) == (Acked(seqs[1], finals[1]), ())
    assert server.unacked == (finals[0], finals[2])
    assert server.receive(ack, now_s=0.0) == (Ignored("unknown_ack"), ())
    assert server.unacked == (finals[0], finals[2])


def test_too_many_unacked_packets_end_the_conversation_as_ours():
    """At the declared bound the write fails with the close reason, and no seq is used."""
    server = end("server", unacked=UnackedPackets(2))
    write(server, outgoing.metadata(ESTABLISHED))
    write(server, outgoing.metadata(Ready()))
    write(server, outgoing.text_final("a"))
    write(server, outgoing.text_final("b"))
    with pytest.raises(LocalProtocolError) as caught:
        write(server, outgoing.text_final("c"))
    assert caught.value.close_reason is CloseReason.TRY_AGAIN_LATER
    assert decode(write(server, outgoing.audio(FRAME, 0.0))).seq == 4


@pytest.mark.parametrize(
    "message",
    [
        raw(PacketType.AUDIO_CHUNK, FRAME, seq=9, wants_ack=True),
        raw(PacketType.METADATA, b'{"type":"later"}', seq=9, wants_ack=True),
        raw(PacketType.METADATA, b'{"type":"vad"}', seq=9, wants_ack=True),
        raw(0x7F, b"?", seq=9, wants_ack=True),
    ],
    ids=["accepted", "unknown metadata", "refused", "unknown packet"],
)
def test_every_packet_that_wants_an_ack_gets_one(message):
    """An ACK says that a packet has arrived, also where it is refused or ignored."""
    server, _ = pair()
    _, replies = server.receive(message, now_s=0.0)
    assert replies == (outgoing.ack(9),)


def test_an_ack_is_never_acked():
    """The ack byte of an ACK is ignored: ACKs of ACKs would never end."""
    server, _ = pair()
    _, replies = server.receive(raw(PacketType.ACK, bytes(4), wants_ack=True), now_s=0.0)
    assert replies == ()


# Bad input: each row of the table that is decided here


@pytest.mark.parametrize(
    ("message", "fault", "close_reason"),
    [
        ("hello", Fault.TEXT_FRAME, CloseReason.UNSUPPORTED_DATA),
        ("", Fault.TEXT_FRAME, CloseReason.UNSUPPORTED_DATA),
        (b"", Fault.EMPTY_MESSAGE, CloseReason.PROTOCOL_ERROR),
        (raw(PacketType.HEARTBEAT)[:-1], Fault.SHORT_HEADER, CloseReason.PROTOCOL_ERROR),
        (raw(PacketType.AUDIO_CHUNK, FRAME)[:-1], Fault.LENGTH_MISMATCH, CloseReason.PROTOCOL_ERROR),
        (raw(PacketType.TEXT_FINAL, b"\xc3"), Fault.INVALID_UTF8, CloseReason.PROTOCOL_ERROR),
        (raw(PacketType.METADATA, b"\xff{}"), Fault.INVALID_UTF8, CloseReason.PROTOCOL_ERROR),
        (raw(PacketType.METADATA, b"{"), Fault.INVALID_JSON, CloseReason.PROTOCOL_ERROR),
        (raw(PacketType.METADATA, b"[]"), Fault.INVALID_METADATA, CloseReason.PROTOCOL_ERROR),
        (bytes(65_553), Fault.TOO_BIG, CloseReason.TOO_BIG),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
@pytest.mark.parametrize("ready", [False, True])
def test_a_message_that_is_no_packet_ends_the_connection(message, fault, close_reason, ready):
    """The fault names its close reason; later messages raise it again; an `error` can still be sent."""
    server, _ = pair(ready=ready)
    with pytest.raises(RemoteProtocolError) as caught:
        server.receive(message, now_s=0.0)
    assert (caught.value.fault, caught.value.close_reason) == (fault, close_reason)
    with pytest.raises(RemoteProtocolError) as again:
        server.receive(raw(PacketType.HEARTBEAT), now_s=0.0)
    assert again.value is caught.value
    notice = ErrorNotice(fault.value, str(caught.value))
    assert json.loads(decode(write(server, outgoing.metadata(notice))).payload)["code"] == fault.value


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (raw(0x00), Ignored("unknown_packet")),
        (raw(0xFF, b"?"), Ignored("unknown_packet")),
        (raw(PacketType.METADATA, b'{"type":"later"}'), Ignored("unknown_metadata")),
        (raw(PacketType.METADATA, b'{"type":"ready"}'), Ignored("unknown_metadata")),
        (raw(PacketType.ACK, bytes(4)), Ignored("unknown_ack")),
        (raw(PacketType.ACK, b"\0\0"), Refused("bad_ack", "an ACK holds one u32, this one 2 bytes")),
        (raw(PacketType.METADATA, b'{"type":"vad"}'), Refused("bad_metadata", "vad.speaking is missing")),
    ],
    ids=str,
)
def test_ignored_and_refused_packets_are_counted_and_the_session_continues(message, event):
    """The packet after it is handled as if nothing had happened."""
    server, client = pair()
    assert server.receive(message, now_s=0.0)[0] == event
    statistics = server.statistics()
    if isinstance(event, Ignored):
        assert (statistics.ignored, statistics.refused) == ({event.reason: 1}, {})
    else:
        assert (statistics.ignored, statistics.refused) == ({}, {event.code: 1})
    assert isinstance(deliver(client, server, outgoing.audio(FRAME, 1.0))[0], AudioReceived)


@pytest.mark.parametrize("timestamp_ms", [float("nan"), float("inf"), float("-inf")])
def test_audio_without_a_time_is_refused(timestamp_ms):
    """Audio needs a finite time, from which a burst is counted back; other packets may have any time."""
    server, _ = pair()
    event, _ = server.receive(raw(PacketType.AUDIO_CHUNK, FRAME, timestamp_ms=timestamp_ms), now_s=0.0)
    assert event == Refused("bad_timestamp", "the timestamp of audio must be a finite number")
    event, _ = server.receive(raw(PacketType.HEARTBEAT, timestamp_ms=timestamp_ms), now_s=0.0)
    assert event == HeartbeatReceived()


def test_audio_before_ready_is_refused_and_accepted_after():
    """A client that does not wait gets a refusal for each packet, and is not closed."""
    server, client = pair(ready=False)
    refusal = Refused("not_ready", "audio may be sent once the server has sent ready")
    message = raw(PacketType.AUDIO_CHUNK, FRAME)
    assert server.receive(message, now_s=0.0) == (refusal, ())
    deliver(server, client, outgoing.metadata(ESTABLISHED))
    assert server.receive(message, now_s=0.0) == (refusal, ())
    deliver(server, client, outgoing.metadata(Queued(1)))
    assert server.receive(message, now_s=0.0) == (refusal, ())
    deliver(server, client, outgoing.metadata(Ready()))
    assert isinstance(server.receive(message, now_s=0.0)[0], AudioReceived)
    assert server.statistics().refused == {"not_ready": 3}


def test_after_bye_only_acks_have_an_effect():
    """What was on its way is ignored and counted; the last final text can still be ACKed."""
    server, client = pair()
    deliver(client, server, outgoing.metadata(Bye()))
    for message in (
        raw(PacketType.AUDIO_CHUNK, FRAME),
        raw(PacketType.METADATA, b'{"type":"bye"}'),
        raw(PacketType.METADATA, b'{"type":"client_stats"}'),
    ):
        assert server.receive(message, now_s=0.0) == (Ignored("after_bye"), ())
    _, replies = deliver(server, client, outgoing.text_final("goodbye"))
    assert [reply.kind for reply in replies] == ["ack"]
    assert server.unacked == ()


@given(st.lists(st.one_of(
    st.binary(max_size=40),
    st.text(max_size=5),
    st.builds(
        lambda kind, payload, wants_ack: raw(kind, payload, wants_ack=wants_ack),
        st.sampled_from([*PacketType, 0x99]),
        st.one_of(st.binary(max_size=8), st.sampled_from([b'{"type":"bye"}', b'{"type":"ready"}', b"{}"])),
        st.booleans(),
    ),
), max_size=12), st.sampled_from(["server", "client"]))  # fmt: skip
def test_any_messages_are_events_until_the_first_fault(messages, role):
    """Nothing but events and one RemoteProtocolError comes out, and every reply can be written."""
    conversation = end(role)
    for i, message in enumerate(messages):
        try:
            _, replies = conversation.receive(message, now_s=float(i))
        except RemoteProtocolError:
            with pytest.raises(RemoteProtocolError):
                conversation.receive(raw(PacketType.HEARTBEAT), now_s=float(i))
            break
        for reply in replies:
            write(conversation, reply)


# The two ends are held to the same table


@pytest.mark.parametrize(
    ("role", "packet"),
    [
        ("server", outgoing.metadata(Ready())),
        ("server", outgoing.audio(FRAME, 0.0)),
        ("server", outgoing.metadata(Bye())),
        ("client", outgoing.audio(FRAME, 0.0)),
        ("server", outgoing.text_final("hi")),
        ("client", outgoing.metadata(Ready())),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_packet_out_of_turn_is_our_fault_and_takes_no_seq(role, packet):
    """Before the greeting there is no audio, and no end sends the other's kinds of packets."""
    conversation = end(role)
    with pytest.raises(LocalProtocolError):
        write(conversation, packet)
    assert decode(write(conversation, outgoing.ack(0))).seq == 0


@pytest.mark.parametrize(
    "message",
    [
        raw(PacketType.AUDIO_CHUNK, FRAME),
        raw(PacketType.TEXT_FINAL, b"hi"),
        raw(PacketType.METADATA, b'{"type":"ready"}'),
        raw(PacketType.METADATA, b'{"type":"queued","position":1}'),
    ],
)
def test_a_server_out_of_turn_is_a_fault(message):
    """A client accepts nothing from a server before `connection_established`."""
    with pytest.raises(RemoteProtocolError) as caught:
        end("client").receive(message, now_s=0.0)
    assert caught.value.fault is Fault.OUT_OF_TURN


def test_a_closed_conversation_neither_sends_nor_receives():
    """Using an end after its close is our mistake, in both directions."""
    server, _ = pair()
    server.close()
    with pytest.raises(LocalProtocolError):
        server.receive(raw(PacketType.HEARTBEAT), now_s=0.0)
    with pytest.raises(LocalProtocolError):
        write(server, outgoing.ack(0))


def test_what_fits_no_packet_is_refused_when_it_is_made():
    """A payload over 65,535 bytes and text that is no Unicode fail before they are queued."""
    with pytest.raises(LocalProtocolError):
        outgoing.text_final("é" * 32_768)
    assert len(outgoing.text_final("é" * 32_767).payload) == 65_534
    with pytest.raises(LocalProtocolError):
        outgoing.text_partial("\ud800")


# Liveness, over whole conversations


def test_two_ends_heartbeat_without_an_echo():
    """Over ten minutes each end sends its own heartbeats and at most one answer to each of the other's."""
    server, client = pair()
    ends_ = [server, client]
    for tick in range(600):
        now_s = float(tick)
        for sender, receiver in (ends_, ends_[::-1]):
            if sender.heartbeat_due(now_s):
                event, _ = deliver(sender, receiver, sender.heartbeat(now_s=now_s), now_s)
                assert event == HeartbeatReceived()
        for conversation in ends_:
            conversation.check_alive(now_s)
    for conversation in ends_:
        assert 119 <= conversation.statistics().sent["heartbeat"] <= 2 * 120


def test_a_peer_that_answers_every_heartbeat_gets_one_answer():
    """A client that also answers replies gets one reply and no more."""
    server, _ = pair()
    exchanged = 0
    _, replies = server.receive(raw(PacketType.HEARTBEAT), now_s=1.0)
    while replies and exchanged < 5:
        exchanged += 1
        write(server, replies[0])
        _, replies = server.receive(raw(PacketType.HEARTBEAT), now_s=1.0 + exchanged / 100)
    assert exchanged == 1


@pytest.mark.parametrize("kind", [*PacketType, 0x99])
def test_any_packet_is_a_sign_of_life(kind):
    """Known or not, accepted or refused: any packet ends the silence."""
    server, _ = pair()
    payload = b'{"type":"later"}' if kind == PacketType.METADATA else bytes(4)
    server.receive(raw(kind, payload), now_s=14.0)
    assert server.silence_s(15.0) == 1.0
    server.check_alive(28.9)
    with pytest.raises(RemoteProtocolError) as caught:
        server.check_alive(29.0)
    assert (caught.value.fault, caught.value.close_reason) == (Fault.SILENT, CloseReason.TRY_AGAIN_LATER)


def test_the_next_deadline_is_the_heartbeat_or_the_silence():
    """One deadline to sleep until: whichever of the two comes first."""
    server, _ = pair()
    assert server.next_deadline_s() == 5.0
    assert not server.heartbeat_due(4.9)
    for now_s in (5.0, 10.0):
        assert server.heartbeat_due(now_s)
        server.heartbeat(now_s=now_s)
    assert server.next_deadline_s() == 15.0
    server.receive(raw(PacketType.HEARTBEAT), now_s=12.0)
    server.heartbeat(now_s=14.0)
    assert server.next_deadline_s() == 19.0


def test_statistics_count_both_directions_by_name():
    """Packets are counted by the name of their type, unknown ones together."""
    server, client = pair()
    deliver(client, server, outgoing.audio(FRAME, 0.0))
    deliver(server, client, outgoing.text_final("a"))
    for kind in (0x77, 0x78):
        server.receive(raw(kind), now_s=0.0)
    statistics = server.statistics()
    assert statistics.sent == {"metadata": 2, "text_final": 1}
    assert statistics.received == {"audio_chunk": 1, "ack": 1, "unknown": 2}
    assert statistics.ignored == {"unknown_packet": 2}
    assert statistics.unacked == 0


@given(st.floats(-1e15, 1e15), st.integers(1, 8))
def test_a_burst_is_counted_back_from_its_last_frame(timestamp_ms, frames):
    """Frame i of N counts as ts − 80·(N−1−i); the last is the timestamp itself, bit for bit."""
    times = [capture_ms(timestamp_ms, i, frames) for i in range(frames)]
    assert struct.pack("<d", times[-1]) == struct.pack("<d", timestamp_ms)
    assert times == [timestamp_ms - 80 * back for back in reversed(range(frames))]
    assert capture_ms(1000.0, 0, 8) == 440.0
