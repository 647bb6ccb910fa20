"""Moshi's protocol, sans-IO: the server's half, as the clients of Moshi and PersonaPlex expect it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.opus import OpusEncoder
from pipeline.protocol import outgoing
from pipeline.protocol.dialect import ConnectionParameters
from pipeline.protocol.events import EncodedAudioReceived, Ignored, Refused
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.metadata import Configure, Draining, Dropped, ErrorNotice, Queued, Ready
from pipeline.protocol.moshi import dialect as moshi
from pipeline.protocol.moshi.dialect import MoshiDialect
from pipeline.protocol.moshi.ogg import OggReader, OggWriter, checksum
from pipeline.protocol.moshi.query import Query, QueryError, read_query
from pipeline.protocol.unacked import UnackedPackets

PROMPTS = {"text_prompt": "Be kind.", "voice_prompt": "NATF0.pt"}
READY = outgoing.metadata(Ready())


def open_dialect(query=None):
    parameters = ConnectionParameters(5, 15, 3600, 100.0, 0.0, UnackedPackets())
    return MoshiDialect(parameters, query or Query())


def write(dialect, packet):
    return list(dialect.messages(packet, timestamp_ms=0.0))


@pytest.fixture
def running():
    dialect = open_dialect()
    assert write(dialect, READY) == [b"\x00"]
    return dialect


def test_the_handshake_follows_the_lane():
    """One byte, once; pings before it, and none while audio is answered."""
    dialect = open_dialect()
    assert not dialect.heartbeat_due(104.9)
    assert dialect.heartbeat_due(105.0)
    assert write(dialect, dialect.heartbeat(now_s=105.0)) == [b"\x06"]
    assert not dialect.heartbeat_due(109.0)
    assert write(dialect, outgoing.metadata(Queued(1))) == [b"\x06"]
    assert write(dialect, READY) == [b"\x00"]
    assert not dialect.heartbeat_due(111.0)
    assert dialect.next_deadline_s() > 111.0
    assert write(dialect, outgoing.metadata(Queued(1))) == [b"\x06"]
    assert dialect.heartbeat_due(116.0)
    assert write(dialect, READY) == []


def test_audio_is_opus_in_ogg(running):
    """The headers of the stream go with the first page; then one page a message."""
    messages = [write(running, outgoing.audio(packet, 80.0))[0] for packet in (b"first", b"second")]
    assert [message[0] for message in messages] == [1, 1]
    assert messages[0][1:].count(b"OggS") == 3
    reader = OggReader()
    assert [reader.push(message[1:]) for message in messages] == [[b"first"], [b"second"]]


def test_the_stream_names_the_lookahead_of_its_encoder():
    """Players leave out as much as libopus is behind."""
    assert OpusEncoder().lookahead_samples == moshi._LOOKAHEAD_SAMPLES


def test_text_is_what_is_new(running):
    """Pieces that a client appends, whichever partial text was dropped."""
    assert write(running, outgoing.text_partial("three")) == [b"\x02three"]
    assert write(running, outgoing.text_final("three plus")) == [b"\x02 plus"]
    assert write(running, outgoing.text_final("é")) == ["\x02 é".encode()]


def test_the_packets_of_any_page_are_received(running):
    """In order; other kinds of messages are ignored and counted."""
    writer = OggWriter()
    running.receive(b"\x01" + writer.headers(), now_s=0.0)
    event, _ = running.receive(b"\x01" + writer.page(b"a", 480) + writer.page(b"b", 480), now_s=0.0)
    assert event == EncodedAudioReceived((b"a", b"b"))
    for kind in (0, 3, 4, 255):
        assert running.receive(bytes([kind]) + b"x", now_s=0.0)[0] == Ignored("unknown_packet")
    assert running.statistics().received == {
        "audio": 2,
        "handshake": 1,
        "control": 1,
        "json": 1,
        "unknown": 1,
    }


def test_audio_before_the_handshake_is_not_processed():
    """But the stream's headers count, because they come only once."""
    dialect, writer = open_dialect(), OggWriter()
    early, _ = dialect.receive(b"\x01" + writer.headers() + writer.page(b"a", 480), now_s=0.0)
    assert early == Ignored("not_ready")
    write(dialect, READY)
    event, _ = dialect.receive(b"\x01" + writer.page(b"b", 480), now_s=0.0)
    assert event == EncodedAudioReceived((b"b",))


@pytest.mark.parametrize(("message", "fault"), [("text", Fault.TEXT_FRAME), (b"", Fault.EMPTY_MESSAGE)])
def test_what_is_no_message_ends_the_connection(running, message, fault):
    """A text frame and an empty message."""
    with pytest.raises(RemoteProtocolError) as raised:
        running.receive(message, now_s=0.0)
    assert raised.value.fault is fault


def test_errors_are_a_message_of_their_own(running):
    """With a sentence; other notices are none."""
    assert write(running, outgoing.metadata(ErrorNotice("idle", "No audio."))) == [b"\x05No audio."]
    assert write(running, outgoing.metadata(Draining())) == []


def test_audio_that_was_dropped_is_told(running):
    """In a message that clients ignore or log, not in one that they take for the end."""
    (notice,) = write(running, outgoing.metadata(Dropped("audio", 3)))
    assert notice[0] == 4
    assert json.loads(notice[1:]) == {"type": "dropped", "what": "audio", "count": 3}


def test_another_codec_is_refused(running):
    """The session goes on."""
    head = bytearray(OggWriter().headers()[:47])
    head[28:36] = b"\x01vorbis\x00"
    head[22:26] = bytes(4)
    head[22:26] = checksum(bytes(head)).to_bytes(4, "little")
    event, _ = running.receive(b"\x01" + bytes(head), now_s=0.0)
    assert isinstance(event, Refused)
    assert event.code == "audio_refused"


def test_a_prompt_is_named_once_where_no_model_takes_it():
    """In a message that clients ignore, with the handshake."""
    dialect = open_dialect(read_query(PROMPTS, takes_prompts=False))
    assert dialect.unsupported == ("voice_prompt", "text_prompt")
    handshake, notice = write(dialect, READY)
    assert (handshake, notice[0]) == (b"\x00", 4)
    assert json.loads(notice[1:])["parameters"] == ["voice_prompt", "text_prompt"]


def test_a_model_that_takes_prompts_begins_with_them():
    """The voice by the name of its file; nothing is left to say."""
    query = read_query(PROMPTS, takes_prompts=True)
    assert query == Query(Configure(voice="NATF0", role="Be kind."))
    assert write(open_dialect(query), outgoing.metadata(Ready("NATF0", "Be kind."))) == [b"\x00"]


def test_the_query_chooses_the_sampling():
    """All that Moshi's web client sends."""
    query = read_query(
        {
            "text_temperature": "0.7",
            "text_topk": "25",
            "audio_temperature": "0.8",
            "audio_topk": "250",
            "pad_mult": "0",
            "repetition_penalty": "1.1",
            "repetition_penalty_context": "64",
            "email": "",
            "text_prompt": "",
        },
        takes_prompts=False,
    )
    assert query.prompts == ()
    assert query.request == Configure(
        temperature=0.8,
        top_k=250,
        text_temperature=0.7,
        text_top_k=25,
        padding_bias=0,
        repetition_penalty=1.1,
    )
    assert read_query({}, takes_prompts=False).request is None


def test_seeds_are_one_seed():
    """The same two seeds give the same one, others another; a negative one is random."""
    both = read_query({"text_seed": "3", "audio_seed": "4"}, takes_prompts=False).request
    assert both == read_query({"audio_seed": "4", "text_seed": "3"}, takes_prompts=False).request
    assert both != read_query({"text_seed": "4", "audio_seed": "3"}, takes_prompts=False).request
    assert read_query({"seed": "42"}, takes_prompts=False).request == Configure(seed=42)
    assert read_query({"seed": "-1"}, takes_prompts=False).request is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("text_temperature", "hot"),
        ("text_temperature", "-1"),
        ("audio_topk", "2.5"),
        ("pad_mult", "nan"),
        ("repetition_penalty", "1e999"),
        ("seed", "0.5"),
    ],
)
def test_a_bad_parameter_is_named(name, text):
    """Not a number, or out of range."""
    with pytest.raises(QueryError, match=name):
        read_query({name: text}, takes_prompts=False)


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_no_bytes_break_anything_else(messages):
    """Every binary message that is not empty is an event."""
    dialect = open_dialect()
    write(dialect, READY)
    for message in messages:
        if message:
            dialect.receive(message, now_s=0.0)


def test_a_closed_conversation_sends_and_receives_nothing(running):
    """Either is this end's mistake."""
    running.close()
    with pytest.raises(LocalProtocolError):
        running.receive(b"\x01", now_s=0.0)
    with pytest.raises(LocalProtocolError):
        write(running, READY)
