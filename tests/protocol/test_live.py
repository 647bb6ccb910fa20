"""The Live API, sans-IO: every message is answered in the API's own form, and none ends the session."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.established import DialectPeer

from pipeline.protocol import outgoing
from pipeline.protocol.events import EncodedAudioReceived, MetadataReceived
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.live.client_events import EVENTS, UNSUPPORTED
from pipeline.protocol.live.dialect import LiveDialect
from pipeline.protocol.metadata import (
    Bye,
    Draining,
    Dropped,
    ErrorNotice,
    Queued,
    Ready,
    Stats,
)
from pipeline.units import AudioFormat

START = {"type": "session.start", "event_id": "e1", "session": {"model": "any"}}


class Peer(DialectPeer):
    """A client, which has a lane or not."""

    def __init__(self, *, lane=True, voices=None):
        super().__init__(LiveDialect, voices=voices)
        if lane:
            assert self.write(outgoing.metadata(Ready())) == []


@pytest.fixture
def peer():
    started = Peer()
    started.send(START)
    return started


@pytest.mark.parametrize("lane_first", [True, False])
def test_a_session_starts_once_there_is_a_lane(lane_first):
    """`session.started` follows `session.start` and the lane, whichever comes last."""
    peer = Peer(lane=lane_first)
    answers = peer.send(START)
    if not lane_first:
        assert answers == []
        answers = peer.write(outgoing.metadata(Ready()))
    (started,) = answers
    assert (started["type"], started["client_event_id"]) == ("session.started", "e1")
    session = started["session"]
    assert (session["id"], session["model"], session["status"]) == ("5e55", "tiny", "active")
    assert session["expires_at"] == 1_003_600
    assert session["audio"]["format"] == {"type": "audio/pcm", "rate": 24_000}


@pytest.mark.parametrize(
    ("field", "audio_format"),
    [
        ({"type": "audio/pcm", "rate": 24000}, AudioFormat("pcm16", 24_000)),
        ({"type": "audio/pcm", "rate": 16000}, AudioFormat("pcm16", 16_000)),
        ({"type": "audio/pcmu", "rate": 8000}, AudioFormat("mulaw", 8_000)),
        ({"type": "audio/pcma"}, AudioFormat("alaw", 8_000)),
    ],
)
def test_the_client_chooses_the_format(field, audio_format):
    """PCM16 at two rates and both laws of G.711; the answer names what was chosen."""
    peer = Peer()
    (started,) = peer.send({**START, "session": {"model": "m", "audio": {"format": field}}})
    assert (peer.dialect.input_format, peer.dialect.output_format) == (audio_format, audio_format)
    assert started["session"]["audio"]["format"] == {"type": field["type"], "rate": audio_format.rate_hz}


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"instructions": "Be brief."}, "session.instructions"),
        ({"audio": {"output": {"voice": "NATF0"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"voice": {"id": "v"}}}}, "session.audio.output.voice"),
        ({"input": [{"role": "user"}]}, "session.input"),
        ({"store": True}, "session.store"),
        ({"client": {"data_channel": {}}}, "session.client"),
        ({"delegation": {"type": "responses"}}, "session.delegation.type"),
        ({"triggers": [{}]}, "session.triggers"),
    ],
)
def test_what_no_model_has_is_refused_by_name(session, param):
    """The session does not start with less than what was asked for; it starts once that is left out."""
    peer = Peer()
    error = peer.error({**START, "session": {"model": "m", **session}})
    assert (error["code"], error["param"]) == ("unsupported_parameter", param)
    assert error["client_event_id"] == "e1"
    assert peer.send(START)[0]["type"] == "session.started"


@pytest.mark.parametrize("ready_first", [True, False])
@pytest.mark.parametrize(
    ("asked", "begins_with"),
    [
        ({}, Ready("X", "be kind")),
        ({"instructions": "be brief"}, Ready("X", "be brief")),
        ({"audio": {"output": {"voice": "Y"}}}, Ready("Y", "be kind")),
        ({"instructions": "be brief", "audio": {"output": {"voice": "Y"}}}, Ready("Y", "be brief")),
    ],
)
def test_what_is_not_asked_for_is_the_servers_default(asked, begins_with, ready_first):
    """The session starts once it has what was asked for, and says what it begins with."""
    peer = Peer(lane=False, voices=("X", "Y"))
    default = outgoing.metadata(Ready("X", "be kind"))
    if ready_first:
        assert peer.write(default) == []
    answers = peer.send({**START, "session": {"model": "m", **asked}})
    if not ready_first or asked:
        assert answers == []
        answers = peer.write(outgoing.metadata(begins_with))
    (started,) = answers
    assert started["type"] == "session.started"
    assert started["session"]["audio"]["output"]["voice"] == begins_with.voice
    assert started["session"]["instructions"] == begins_with.role


def test_a_default_that_is_impossible_by_now_is_no_error_of_the_clients():
    """It is told, and the session starts without."""
    peer = Peer(lane=False, voices=("X",))
    assert peer.send(START) == []
    (told,) = peer.write(outgoing.metadata(ErrorNotice("prompt_refused", "there is no voice Y")))
    assert (told["type"], told["message"]) == ("info", "there is no voice Y")
    (started,) = peer.write(outgoing.metadata(Ready()))
    assert started["type"] == "session.started"


def test_a_voice_that_clients_name_by_themselves_is_told_not_to_apply():
    """The session starts, in the model's own voice, and says so."""
    peer = Peer()
    started, info = peer.send({**START, "session": {"model": "m", "audio": {"output": {"voice": "marin"}}}})
    assert "output" not in started["session"]["audio"]
    assert (info["type"], info["code"]) == ("info", "voice_not_applied")


@pytest.mark.parametrize("lane_first", [True, False])
@pytest.mark.parametrize("asked", [{}, {"voice": "NATF1"}])
def test_a_server_may_have_a_voice_and_a_role_of_its_own(lane_first, asked):
    """What the client leaves open is the server's, and shown."""
    peer = Peer(lane=False, voices=("NATF0", "NATF1"))
    start = {**START, "session": {"model": "m", "audio": {"output": asked}}}
    ready = outgoing.metadata(Ready("NATF0", "You sell bread."))
    answers = peer.write(ready) + peer.send(start) if lane_first else peer.send(start) + peer.write(ready)
    if asked:
        assert answers == []
        answers = peer.write(outgoing.metadata(Ready("NATF1", "You sell bread.")))
    (started,) = answers
    assert started["session"]["audio"]["output"] == {"voice": asked.get("voice", "NATF0")}
    assert started["session"]["instructions"] == "You sell bread."


def test_instructions_are_bounded():
    """Before a model is asked."""
    error = Peer().error({**START, "session": {"model": "m", "instructions": "a" * 4001}})
    assert (error["code"], error["param"]) == ("invalid_value", "session.instructions")


def test_what_is_sent_back_each_time_is_bounded():
    """Otherwise a short event, sent over and over, would have an answer as long as a message."""
    error = Peer().error({**START, "session": {"model": "m", "safety_identifier": "a" * 513}})
    assert (error["code"], error["param"]) == ("invalid_value", "session.safety_identifier")


def test_empty_fields_ask_for_nothing():
    """Blank instructions, no voice, an empty history and the client's own delegation are the defaults."""
    session = {"model": "m", "instructions": " ", "input": [], "audio": {"output": {"voice": None}}}
    session |= {"delegation": {"type": "client"}, "triggers": [], "store": False, "safety_identifier": "u1"}
    (started,) = Peer().send({**START, "session": session})
    assert started["session"]["safety_identifier"] == "u1"


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        (b"\x00", "invalid_event", None),
        ("", "invalid_json", None),
        ("[]", "invalid_json", None),
        ('{"type":1', "invalid_json", None),
        ('{"type":"session.input_audio.append","audio":"AAAA","audio":"AAAA"}', "invalid_json", None),
        ('{"type":"session.close","type":"session.input_audio.append","audio":""}', "invalid_json", None),
        ({"event_id": "e2"}, "invalid_value", "type"),
        ({"type": 7, "event_id": "e2"}, "invalid_value", "type"),
        ({"type": "session.hop", "event_id": "e2"}, "unknown_event", "type"),
        ({"type": "response.create", "event_id": "e2"}, "unsupported_event", "type"),
        ({"type": "session.input_audio.append", "event_id": "e2"}, "missing_parameter", "audio"),
        ({"type": "session.input_audio.append", "event_id": "e2", "audio": 1}, "invalid_value", "audio"),
        ({"type": "session.input_audio.append", "event_id": "e2", "audio": "?"}, "invalid_value", "audio"),
        ({"type": "session.input_audio.append", "event_id": "e2", "audio": "é"}, "invalid_value", "audio"),
        ({"type": "session.start", "event_id": "e2"}, "missing_parameter", "session"),
        ({"type": "session.start", "event_id": "e2", "session": {}}, "missing_parameter", "session.model"),
        ({**START, "event_id": "e2"}, "session_already_started", None),
        ({"type": "session.thinking.append", "event_id": "e2", "content": "x"}, "unsupported_event", "type"),
        (
            {"type": "session.update", "event_id": "e2", "session": {"triggers": [1]}},
            None,
            "session.triggers",
        ),
    ],
)
def test_a_bad_event_is_answered_by_name(peer, message, code, param):
    """The error has the field and the client's event_id, and the session goes on."""
    error = peer.error(message)
    assert error["code"] == code or code is None
    assert error.get("param") == param
    assert error.get("client_event_id") == ("e2" if isinstance(message, dict) else None)
    assert peer.send({"type": "session.input_audio.mute"})[0]["type"] == "session.input_audio.muted"


def test_a_wrong_format_names_its_field():
    """A rate that the format does not have."""
    audio = {"format": {"type": "audio/pcm", "rate": 44100}}
    error = Peer().error({**START, "session": {"model": "m", "audio": audio}})
    assert (error["code"], error["param"]) == ("invalid_value", "session.audio.format.rate")


def test_nothing_is_accepted_before_the_session_has_started():
    """Audio before `session.started` is an error."""
    error = Peer().error({"type": "session.input_audio.append", "audio": "AAAA", "event_id": "a"})
    assert (error["code"], error["client_event_id"]) == ("session_not_started", "a")


def test_audio_is_passed_on_as_it_is(peer):
    """Raw bytes of any length, without an answer."""
    assert peer.send({"type": "session.input_audio.append", "audio": base64.b64encode(b"abc").decode()}) == []
    assert peer.event == EncodedAudioReceived((b"abc",))


@pytest.mark.parametrize(("kind", "silence"), [("audio/pcm", 0), ("audio/pcmu", 0xFF), ("audio/pcma", 0xD5)])
def test_a_muted_session_processes_silence(kind, silence):
    """As long as the audio that came; both commands are acknowledged."""
    peer = Peer()
    peer.send({**START, "session": {"model": "m", "audio": {"format": {"type": kind}}}})
    append = {"type": "session.input_audio.append", "audio": "AQIDBA=="}
    (muted,) = peer.send({"type": "session.input_audio.mute", "event_id": "m"})
    assert (muted["type"], muted["client_event_id"]) == ("session.input_audio.muted", "m")
    peer.send(append)
    assert peer.event == EncodedAudioReceived((bytes([silence] * 4),))
    assert peer.send({"type": "session.input_audio.unmute"})[0]["type"] == "session.input_audio.unmuted"
    peer.send(append)
    assert peer.event == EncodedAudioReceived((b"\x01\x02\x03\x04",))


def test_a_transcript_only_grows(peer):
    """Whole utterances become fragments with times, whichever partial texts were dropped on the way."""
    fragments = []
    for end_ms, packet in [
        (160, outgoing.text_partial("Hi")),
        (320, outgoing.text_partial("Hi there \ufffd")),
        (400, outgoing.text_final("Hi there é")),
        (800, outgoing.text_final("Bye")),
    ]:
        peer.write(outgoing.audio(b"ab", end_ms))
        fragments += peer.write(packet)
    assert "".join(fragment["delta"] for fragment in fragments) == "Hi there é Bye"
    times = [(fragment["start_ms"], fragment["end_ms"]) for fragment in fragments]
    assert times == [(80, 160), (240, 320), (320, 400), (720, 800)]


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"session.input_audio.append","audio":"YWJj"}',
        '{"event_id":"e\\"1","type":"session.input_audio.append","audio":"YWJj"}',
        '{ "audio" : "Y\\u0057Jj", "type" : "session.input_audio.append", "event_id" : null }',
        '{"type":"session.input_audio.append","audio":"YWJj","future":[1,{"audio":"?"}]}',
    ],
)
def test_audio_is_the_same_however_its_event_is_written(peer, message):
    """With more fields, escapes and spaces than clients usually write."""
    assert peer.send(message) == []
    assert peer.event == EncodedAudioReceived((b"abc",))


def test_audio_is_base64_of_the_payload(peer):
    """One event for one packet."""
    (event,) = peer.write(outgoing.audio(b"\x01\x02", 80.0))
    assert event == {"type": "session.output_audio.delta", "delta": "AQI="}


def test_usage_is_the_audio_that_was_answered(peer):
    """Cumulative whole seconds, every ten of them."""
    stats = outgoing.metadata(Stats(0, 0, 0, 0, 0, 0, 0))
    assert peer.write(stats) == []
    peer.write(outgoing.audio(b"", 12_400.0))
    (usage,) = peer.write(stats)
    assert (usage["type"], usage["usage"]) == ("session.usage.updated", {"seconds": 12})
    assert peer.write(stats) == []


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ("bye", "close_requested"),
        ("hangup", "close_requested"),
        ("expired", "expired"),
        ("idle", "expired"),
        ("drained", "connection_lost"),
    ],
)
def test_a_closed_session_says_why(peer, cause, reason):
    """With the final usage, and the event_id of the command that asked for it."""
    peer.write(outgoing.audio(b"", 2_000.0))
    assert peer.send({"type": "session.close", "event_id": "c"}) == []
    assert peer.event == MetadataReceived(Bye())
    (closed,) = map(json.loads, peer.dialect.farewell(cause))
    assert (closed["type"], closed["reason"], closed["usage"]) == ("session.closed", reason, {"seconds": 2})
    assert (closed["session"]["id"], closed["client_event_id"]) == ("5e55", "c")


def test_a_session_that_never_started_is_not_closed():
    """There is nothing to close, so there is no event."""
    assert Peer().dialect.farewell("bye") == ()


@pytest.mark.parametrize(
    ("notice", "code"), [(Queued(2), "queued"), (Dropped("audio", 3), "dropped"), (Draining(), "draining")]
)
def test_notices_are_information(peer, notice, code):
    """What the API has no event for is `info`, which has a code and a message."""
    (info,) = peer.write(outgoing.metadata(notice))
    assert (info["type"], info["code"]) == ("info", code)
    assert info["message"]


def test_a_session_that_was_put_back_is_told_when_it_goes_on(peer):
    """A second lane does not start the session again."""
    (info,) = peer.write(outgoing.metadata(Ready()))
    assert (info["type"], info["code"]) == ("info", "ready")


@pytest.mark.parametrize(
    ("code", "kind"), [("audio_refused", "invalid_request_error"), ("internal_error", "server_error")]
)
def test_errors_say_whose_they_are(peer, code, kind):
    """The client's own mistakes are `invalid_request_error`."""
    (event,) = peer.write(outgoing.metadata(ErrorNotice(code, "why")))
    assert event["error"] == {"type": kind, "code": code, "message": "why"}


def test_a_client_has_to_start_in_time():
    """Without `session.start` the connection ends; a started session may be silent."""
    peer = Peer()
    peer.dialect.check_alive(14.9)
    with pytest.raises(RemoteProtocolError) as fault:
        peer.dialect.check_alive(peer.dialect.next_deadline_s())
    assert fault.value.fault is Fault.SILENT
    peer.send(START)
    peer.dialect.check_alive(1e9)


def test_a_closed_conversation_sends_and_receives_nothing(peer):
    """Either is this end's mistake."""
    peer.dialect.close()
    with pytest.raises(LocalProtocolError):
        peer.send(START)
    with pytest.raises(LocalProtocolError):
        peer.write(outgoing.metadata(Draining()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["session", "audio", "event_id", "content", "model", "format", "type", "rate", "output"]
)
OBJECTS = st.recursive(JSON, lambda inner: st.dictionaries(FIELDS, inner, max_size=4), max_leaves=8)
EVENT = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from([*EVENTS, *sorted(UNSUPPORTED), "nonsense"]),
    st.dictionaries(FIELDS, OBJECTS, max_size=4),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text() | st.binary() | OBJECTS.map(json.dumps) | EVENT.map(json.dumps), max_size=6))
def test_no_message_breaks_a_session(messages):
    """Whatever comes is an event, ignored, or answered with JSON; the counters have a bounded vocabulary."""
    peer = Peer()
    peer.send(START)
    for message in messages:
        for answer in peer.send(message):
            assert isinstance(answer["type"], str)
    assert set(peer.dialect.statistics().received) <= set(EVENTS)
