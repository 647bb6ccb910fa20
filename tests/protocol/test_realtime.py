"""The Realtime API, sans-IO: turns from what the model says, events in the API's order, errors by name."""

import base64
import itertools
import json
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from support.established import DialectPeer

from pipeline.audio import g711
from pipeline.protocol import outgoing
from pipeline.protocol.events import Answered, Ignored, InputCleared, InputEnded, SessionChanged
from pipeline.protocol.faults import LocalProtocolError
from pipeline.protocol.metadata import (
    Configure,
    ErrorNotice,
    Ready,
)
from pipeline.protocol.realtime.client_events import EVENTS, UNSUPPORTED
from pipeline.protocol.realtime.dialect import RealtimeDialect
from pipeline.protocol.realtime.loudness import is_loud
from pipeline.units import AudioFormat

PCM = AudioFormat("pcm16", 24_000)
QUIET, LOUD = bytes(3840), array("h", [8000, -8000] * 960).tobytes()
APPEND = {"type": "input_audio_buffer.append", "audio": base64.b64encode(QUIET).decode()}
COMMIT = {"type": "input_audio_buffer.commit"}
CREATE = {"type": "response.create"}
CANCEL = {"type": "response.cancel"}
EVENT = TypeAdapter(RealtimeServerEvent)
COMMITTED = ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
BEGUN = ["response.output_item.added", "conversation.item.added", "response.content_part.added"]
OPENED = ["response.created", *BEGUN]
WORDS = "response.output_audio_transcript.delta"
SOUND = "response.output_audio.delta"
ENDED = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


class Peer(DialectPeer):
    """A client; every event that it receives has to be one of the API's, as `openai` has them."""

    def __init__(self, *, lane=True, voices=None):
        self.ids = set()
        super().__init__(RealtimeDialect, voices=voices)
        if lane:
            (self.created,) = self.ready()

    def ready(self, **persona):
        return self.write(outgoing.metadata(Ready(**persona)))

    def parse(self, message):
        event = super().parse(message)
        EVENT.validate_json(message)
        assert event["event_id"] not in self.ids
        self.ids.add(event["event_id"])
        return event

    def update(self, **session):
        return self.send(
            {"type": "session.update", "event_id": "u", "session": {"type": "realtime", **session}}
        )

    def text(self, *texts):
        *partials, final = texts
        events = [event for text in partials for event in self.write(outgoing.text_partial(text))]
        return events + (self.write(outgoing.text_final(final)) if final else [])

    def frames(self, *frames):
        return [event for frame in frames for event in self.write(outgoing.audio(frame, 0.0))]


def kinds(events):
    return [event["type"] for event in events]


@pytest.fixture
def peer():
    return Peer()


def test_the_session_is_created_with_its_lane():
    """`session.created` comes first, names the model that is loaded, and audio before it is not processed."""
    peer = Peer(lane=False)
    assert peer.send(APPEND) == []
    assert peer.event == Ignored("not_ready")
    (created,) = peer.ready()
    session = created["session"]
    assert (created["type"], session["id"], session["model"]) == ("session.created", "5e55", "tiny")
    assert session["expires_at"] == 1_003_600
    assert peer.ready() == []


def test_a_turn_is_what_the_model_says(peer):
    """From its first word to the quiet after its last: every event in order, with the ids of one response."""
    peer.send(APPEND)
    events = peer.text("two", "two plus", None)
    events += peer.frames(LOUD)
    events += peer.text("two plus")
    assert kinds(events) == [*COMMITTED, *OPENED, WORDS, WORDS, SOUND]
    rest = peer.frames(LOUD, QUIET)
    assert kinds(rest) == [SOUND, SOUND, *ENDED]
    user, agent = events[0]["item_id"], events[4]["item"]["id"]
    assert [event["previous_item_id"] for event in (events[1], events[5], rest[5])] == [None, user, user]
    everything = events[3:] + rest
    assert {event["item_id"] for event in everything if "item_id" in event} == {agent}
    response_ids = {event.get("response_id") or event["response"]["id"] for event in everything
                    if "conversation" not in event["type"]}  # fmt: skip
    assert len(response_ids) == 1
    response = rest[-1]["response"]
    assert (response["status"], response["output"][0]["content"][0]["transcript"]) == (
        "completed",
        "two plus",
    )
    assert base64.b64decode(rest[0]["delta"]) == LOUD


def test_silence_between_turns_is_not_sent(peer):
    """A client of turns would take it for an answer."""
    assert peer.frames(QUIET, QUIET) == []
    peer.text("one")
    assert peer.frames(QUIET) == []


def test_a_quiet_end_is_the_end(peer):
    """The response is done with the utterance where nothing sounds any more."""
    peer.text("one", None)
    peer.frames(LOUD, QUIET)
    assert kinds(peer.text("one")) == ENDED


def test_an_utterance_of_which_only_the_end_came_is_a_turn(peer):
    """Partial texts may be dropped."""
    assert kinds(peer.text("one two")) == [*OPENED, WORDS, *ENDED]


def test_a_second_turn_is_another_response(peer):
    """With its own text, from the first letter on; also while the sound of the first goes on."""
    peer.text("one", None)
    peer.frames(LOUD)
    peer.text("one")
    events = peer.text("two", None)
    assert kinds(events) == [*ENDED, *OPENED, WORDS]
    assert events[-1]["delta"] == "two"
    assert events[-2]["item_id"] != events[0]["item_id"]


def test_sound_without_words_is_a_turn(peer):
    """It opens with a loud frame, and ends after a second of quiet."""
    assert kinds(peer.frames(QUIET, LOUD)) == [*OPENED, SOUND]
    assert kinds(peer.frames(*[QUIET] * 12)) == [SOUND] * 12
    assert kinds(peer.frames(QUIET)) == [SOUND, *ENDED]


def test_a_cancelled_response_is_silent_until_the_next_utterance(peer):
    """Its events end with `cancelled`; the rest of what the model says is not sent."""
    peer.text("one", None)
    peer.frames(LOUD)
    events = peer.send({**CANCEL, "event_id": "c"})
    assert kinds(events) == ENDED
    details = {"type": "cancelled", "reason": "client_cancelled"}
    assert (events[-1]["response"]["status"], events[-1]["response"]["status_details"]) == (
        "cancelled",
        details,
    )
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"
    assert peer.frames(LOUD, LOUD) + peer.text("one two", "one two three") + peer.frames(LOUD, QUIET) == []
    assert kinds(peer.text("four", None)) == [*OPENED, WORDS]


@pytest.mark.parametrize("response_id", [None, "resp_other"])
def test_only_the_response_in_progress_can_be_cancelled(peer, response_id):
    """The error has the code, and the words, that clients know to ignore."""
    if response_id:
        peer.text("one", None)
    error = peer.error({**CANCEL, "event_id": "c", "response_id": response_id})
    assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "c")
    assert error["message"].startswith("Cancellation failed")


def test_a_response_can_be_asked_for(peer):
    """What the model says next belongs to it, and has the metadata of who asked."""
    (created,) = peer.send({**CREATE, "response": {"metadata": {"client_event_id": "x"}}})
    assert created["response"]["metadata"] == {"client_event_id": "x"}
    assert created["response"]["status"] == "in_progress"
    assert peer.frames(QUIET) == []
    events = peer.text("one", "one")
    assert kinds(events) == [*BEGUN, WORDS, *ENDED]
    assert events[-1]["response"]["id"] == created["response"]["id"]


def test_there_is_one_response_at_a_time(peer):
    """A second one is refused by name, also where the first has not been written yet."""
    requests = [json.dumps({**CREATE, "event_id": name}) for name in ("a", "b")]
    replies = [reply for text in requests for reply in peer.dialect.receive(text, now_s=0.0)[1]]
    created, refused = [event for reply in replies for event in peer.write(reply)]
    assert created["type"] == "response.created"
    assert refused["error"]["code"] == "conversation_already_has_active_response"
    assert refused["error"]["event_id"] == "b"


def test_events_of_a_response_follow_its_creation(peer):
    """Whatever overtakes the reply on its way to the socket."""
    _, (reply,) = peer.dialect.receive(json.dumps(CREATE), now_s=0.0)
    assert kinds(peer.text("one", None)) == [*OPENED, WORDS]
    (refused,) = peer.write(reply)
    assert refused["error"]["code"] == "conversation_already_has_active_response"


def test_a_model_that_says_nothing_ends_the_response(peer):
    """After ten seconds of the session's audio it is completed, and empty."""
    peer.send(CREATE)
    assert peer.dialect.wants_silence
    assert peer.frames(*[QUIET] * 124) == []
    (done,) = peer.frames(QUIET)
    assert (done["response"]["status"], done["response"]["output"]) == ("completed", [])
    assert not peer.dialect.wants_silence


def test_a_committed_turn_waits_for_its_answer(peer):
    """The session goes on in silence until the answer is complete, or the user speaks again."""
    peer.send(APPEND)
    assert not peer.dialect.wants_silence
    assert kinds(peer.send(COMMIT)) == COMMITTED
    assert peer.event == InputEnded(QUIET)
    assert peer.dialect.wants_silence
    peer.text("one", None)
    peer.frames(*[QUIET] * 200)
    assert peer.dialect.wants_silence
    peer.text("one")
    assert not peer.dialect.wants_silence
    peer.send(APPEND)
    peer.send(COMMIT)
    peer.send(APPEND)
    assert not peer.dialect.wants_silence


def test_time_to_answer_begins_behind_what_was_appended(peer):
    """A question that was sent at once takes its time to be heard."""
    for _ in range(100):
        peer.send(APPEND)
    peer.send(COMMIT)
    peer.frames(*[QUIET] * 224)
    assert peer.dialect.wants_silence
    peer.frames(QUIET)
    assert not peer.dialect.wants_silence


def test_an_empty_buffer_cannot_be_committed(peer):
    """Nor one that was cleared."""
    code = "input_audio_buffer_commit_empty"
    assert peer.error({**COMMIT, "event_id": "e"})["code"] == code
    peer.send(APPEND)
    assert kinds(peer.send({"type": "input_audio_buffer.clear"})) == ["input_audio_buffer.cleared"]
    assert peer.event == InputCleared()
    assert peer.error(COMMIT)["code"] == code
    assert peer.event == Answered()


def test_a_turn_may_be_answered_before_it_is_over(peer):
    """The model may begin to speak at any time; what it has not heard by then can still be committed."""
    peer.send(APPEND)
    peer.send(APPEND)
    assert kinds(peer.frames(LOUD))[:3] == COMMITTED
    assert kinds(peer.send(COMMIT)) == COMMITTED
    assert peer.event == InputEnded(QUIET)
    assert peer.dialect.wants_silence


def test_a_turn_that_was_answered_can_be_ended(peer):
    """There is nothing to commit, and the session still goes on in silence until the answer ends."""
    peer.send(APPEND)
    assert kinds(peer.frames(LOUD))[:3] == COMMITTED
    assert peer.error(COMMIT)["code"] == "input_audio_buffer_commit_empty"
    assert peer.event == InputEnded(QUIET)
    assert peer.dialect.wants_silence


def test_items_can_be_truncated(peer):
    """It is acknowledged and changes nothing; an item that there is not is an error."""
    item_id = peer.text("one")[1]["item"]["id"]
    request = {"type": "conversation.item.truncate", "content_index": 0, "audio_end_ms": 80, "event_id": "t"}
    (truncated,) = peer.send({**request, "item_id": item_id})
    assert (truncated["type"], truncated["item_id"], truncated["audio_end_ms"]) == (
        "conversation.item.truncated",
        item_id,
        80,
    )
    error = peer.error({**request, "item_id": "item_none"})
    assert (error["code"], error["param"], error["event_id"]) == ("item_not_found", "item_id", "t")


@pytest.mark.parametrize(
    ("field", "audio_format"),
    [
        ({"type": "audio/pcm", "rate": 24000}, PCM),
        ({"type": "audio/pcmu"}, AudioFormat("mulaw", 8_000)),
        ({"type": "audio/pcma"}, AudioFormat("alaw", 8_000)),
    ],
)
def test_each_direction_has_its_format(field, audio_format):
    """PCM16 at 24 kHz, or either law of G.711; `session.updated` shows both."""
    peer = Peer()
    (updated,) = peer.update(audio={"input": {"format": field}})
    assert (peer.dialect.input_format, peer.dialect.output_format) == (audio_format, PCM)
    assert updated["session"]["audio"]["input"]["format"]["type"] == field["type"]
    peer.update(audio={"output": {"format": field}})
    assert peer.dialect.output_format == audio_format
    peer.send(APPEND)
    assert peer.update(audio={"output": {"format": field}})[0]["type"] == "session.updated"
    other = {"type": "audio/pcm" if audio_format != PCM else "audio/pcma"}
    (error,) = peer.update(audio={"output": {"format": other}})
    assert error["error"]["param"] == "session.audio"


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "session.tools"),
        ({"output_modalities": ["text"]}, "unsupported_parameter", "session.output_modalities"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}, "invalid_value",
         "session.audio.input.format.rate"),
        ({"audio": {"output": {"format": {"type": "audio/opus"}}}}, "invalid_value",
         "session.audio.output.format.type"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_by_name(peer, session, code, param):
    """And nothing is changed."""
    before = peer.created["session"]
    (error,) = peer.update(**{"type": "realtime", **session})
    assert (error["error"]["code"], error["error"]["param"], error["error"]["event_id"]) == (code, param, "u")
    assert peer.update()[0]["session"] == before


def test_what_clients_always_send_is_shown_not_to_apply(peer):
    """Voices of OpenAI, how to detect turns: the session is what it was; each is reported once."""
    asked = {
        "instructions": "Be brief.",
        "max_output_tokens": 100,
        "audio": {
            "input": {"transcription": {"model": "whisper-1"}, "turn_detection": None},
            "output": {"voice": "marin", "speed": 1.5},
        },
    }
    (updated,) = peer.update(**asked)
    assert updated["session"] == peer.created["session"]
    assert isinstance(peer.event, SessionChanged)
    assert peer.event.change is None
    assert set(peer.event.unsupported) == {
        "session.instructions",
        "session.max_output_tokens",
        "session.audio.input.transcription",
        "session.audio.output.voice",
        "session.audio.output.speed",
    }
    peer.update(**asked)
    assert peer.event.unsupported == ()


def test_a_model_with_voices_takes_a_role_and_a_voice():
    """`session.updated` follows once the session has both; asked for again, it has them already."""
    peer = Peer(voices=("NATF0", "NATF1"))
    session = {"instructions": "You sell bread.", "audio": {"output": {"voice": {"id": "NATF1"}}}}
    assert peer.update(**session) == []
    assert peer.event == SessionChanged(Configure(voice="NATF1", role="You sell bread."), ())
    assert peer.update(**session) == []
    assert peer.event == SessionChanged(None, ())
    assert peer.ready() == []
    (updated,) = peer.ready(voice="NATF1", role="You sell bread.")
    assert updated["session"]["audio"]["output"]["voice"] == "NATF1"
    assert updated["session"]["instructions"] == "You sell bread."
    assert kinds(peer.update(**session)) == ["session.updated"]


def test_a_voice_that_there_is_not_is_refused():
    """Unless it is one that clients name by themselves."""
    peer = Peer(voices=("NATF0",))
    (error,) = peer.update(audio={"output": {"voice": "NATF9"}})
    assert error["error"]["param"] == "session.audio.output.voice"
    assert kinds(peer.update(audio={"output": {"voice": "alloy"}})) == ["session.updated"]


def test_a_role_that_is_refused_is_an_error():
    """With the id of the event that asked for it."""
    peer = Peer(voices=("NATF0",))
    peer.update(instructions="You sell bread.")
    (error,) = peer.write(outgoing.metadata(ErrorNotice("prompt_refused", "too late")))
    assert (error["error"]["message"], error["error"]["event_id"]) == ("too late", "u")
    assert kinds(peer.update()) == ["session.updated"]


def test_the_session_can_be_updated_before_there_is_a_lane():
    """As soon as it is created, the update is answered."""
    peer = Peer(lane=False)
    assert peer.update(audio={"output": {"format": {"type": "audio/pcmu"}}}) == []
    assert kinds(peer.ready()) == ["session.created", "session.updated"]


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        (b"\x00", "invalid_event", None),
        ("", "invalid_json", None),
        ("[]", "invalid_json", None),
        ({"event_id": "e"}, "invalid_value", "type"),
        ({"type": "nonsense", "event_id": "e"}, "unknown_event", "type"),
        ({"type": "input_audio_buffer.append", "event_id": "e"}, "missing_parameter", "audio"),
        ({**APPEND, "audio": "*", "event_id": "e"}, "invalid_value", "audio"),
        ({**APPEND, "audio": 7, "event_id": "e"}, "invalid_value", "audio"),
        ({"type": "session.update", "session": {}, "event_id": "e"}, "missing_parameter", "session.type"),
        ({**CREATE, "response": {"instructions": "Greet."}, "event_id": "e"}, "unsupported_parameter",
         "response.instructions"),
        ({**CREATE, "response": {"metadata": {"a": 1}}, "event_id": "e"}, "invalid_value",
         "response.metadata"),
        *(({"type": name, "event_id": "e"}, "unsupported_event", "type") for name in sorted(UNSUPPORTED)),
    ],
)  # fmt: skip
def test_bad_events_are_answered_by_name(peer, message, code, param):
    """With the field, and the client's name for the event where it has one."""
    error = peer.error(message)
    assert (error["code"], error.get("param"), error["type"]) == (code, param, "invalid_request_error")
    assert error.get("event_id") == ("e" if isinstance(message, dict) else None)


def test_the_end_of_a_session_ends_its_response(peer):
    """What was being said is incomplete; an expiry is an error of the API."""
    peer.text("one", None)
    events = [json.loads(message) for message in peer.dialect.farewell("expired")]
    assert kinds(events) == [*ENDED, "error"]
    assert events[-2]["response"]["status"] == "incomplete"
    assert events[-1]["error"]["code"] == "session_expired"
    assert peer.dialect.farewell("drained") == ()
    peer.dialect.close()
    with pytest.raises(LocalProtocolError):
        peer.dialect.receive("{}", now_s=0.0)


@pytest.mark.parametrize(("encoding", "silence"), [("pcm16", 0x00), ("mulaw", 0xFF), ("alaw", 0xD5)])
def test_loudness_is_that_of_the_samples(encoding, silence):
    """Every code is judged as the sample that it stands for."""
    audio_format = AudioFormat(encoding, 24_000 if encoding == "pcm16" else 8_000)
    assert not is_loud(bytes([silence]) * 640, audio_format)
    assert not is_loud(b"", audio_format)
    for code in range(256):
        if encoding == "pcm16":
            sample = bytes([0, code])
            level = abs(int.from_bytes(sample, "little", signed=True)) / 32_768
        else:
            sample = bytes([code])
            level = abs(float(g711.decode(sample, encoding)[0]))
        if abs(level - 3 / 256) > 1 / 128:
            assert is_loud(sample, audio_format) == (level > 3 / 256), code


FIELDS = {
    "audio": st.text(max_size=9) | st.binary(max_size=9).map(lambda data: base64.b64encode(data).decode()),
    "session": st.fixed_dictionaries(
        {"type": st.just("realtime")}, optional={"instructions": st.text(max_size=9)}
    ),
    "event_id": st.text(max_size=9),
    "item_id": st.sampled_from(["item_5e55_1", "item_none"]),
    "content_index": st.integers(0, 2),
    "audio_end_ms": st.integers(0, 9),
    "response": st.fixed_dictionaries(
        {}, optional={"metadata": st.dictionaries(st.text(), st.text(), max_size=2)}
    ),
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
CLIENT_EVENTS = st.fixed_dictionaries(
    {"type": st.sampled_from([*EVENTS, *UNSUPPORTED, "nonsense"])},
    optional={name: values | ANYTHING for name, values in FIELDS.items()},
)
STEPS = st.lists(
    CLIENT_EVENTS
    | st.text(max_size=20)
    | st.sampled_from(
        [("frame", LOUD), ("frame", QUIET), ("partial", "a b"), ("final", "a b c"), ("final", "")]
    ),
    max_size=30,
)


PACKETS = {
    "frame": lambda data: outgoing.audio(data, 0.0),
    "partial": outgoing.text_partial,
    "final": outgoing.text_final,
}
CONTENT = {SOUND, WORDS, "response.output_audio.done"}
IN_ORDER = ["response.created", "response.output_item.added", "response.content_part.added"]
AT_THE_END = [kind for kind in ENDED if kind.startswith("response.")]
NEXT = {
    **{kind: {after} for kind, after in itertools.pairwise([*IN_ORDER, *AT_THE_END, "response.created"])},
    "response.created": {"response.output_item.added", "response.done"},
    **dict.fromkeys(["response.content_part.added", SOUND, WORDS], CONTENT),
}


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_every_conversation_keeps_the_order_of_the_api(steps):
    """Whatever comes, and whatever the model says: each response begins and ends once, in order."""
    peer, events = Peer(), []
    for step in steps:
        if isinstance(step, tuple):
            kind, content = step
            events += peer.write(PACKETS[kind](content))
        else:
            events += peer.send(step)
    events += [json.loads(message) for message in peer.dialect.farewell("bye")]
    expected = {"response.created"}
    for kind in (kind for kind in kinds(events) if kind.startswith("response.")):
        assert kind in expected, kinds(events)
        expected = NEXT[kind]
    assert expected == {"response.created"}
