"""METADATA: any bytes are an object of the vocabulary, an unknown one, a refusal or a fault."""

import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace
from support.established import ESTABLISHED

from pipeline.protocol import metadata
from pipeline.protocol.faults import Fault, LocalProtocolError, RefusedPacketError, RemoteProtocolError
from pipeline.protocol.metadata import (
    Bye,
    CapacityInfo,
    ClientStats,
    Configure,
    Draining,
    Dropped,
    ErrorNotice,
    Queued,
    Ready,
    RecordingNotice,
    Resumed,
    Stats,
    Vad,
)

SUGGESTING = replace(
    ESTABLISHED,
    model=replace(ESTABLISHED.model, about="Sums, “spoken”.", suggestions=("what is <b>1</b> plus 2", "bye")),
)

# What docs/reference/protocol.md promises a client in another language, field by field.
ENCODED_MODEL = {"name": "tiny", "shape": "moshi", "trained": True, "modelDelayMs": 80, "text": "text"}
ENCODED_ESTABLISHED = {
    "type": "connection_established",
    "protocol": 1,
    "sessionId": "5e55",
    "resumeToken": None,
    "serverTime": 0.25,
    "sampleRate": 24000,
    "frameSamples": 1920,
    "model": ENCODED_MODEL,
    "limits": {
        "messageBytes": 65552,
        "burstFrames": 8,
        "maxLagMs": 400,
        "heartbeatEveryMs": 5000,
        "heartbeatTimeoutMs": 15000,
    },
}
ENCODED = [
    (ESTABLISHED, ENCODED_ESTABLISHED),
    (
        SUGGESTING,
        {
            **ENCODED_ESTABLISHED,
            "model": {
                **ENCODED_MODEL,
                "about": "Sums, “spoken”.",
                "suggestions": ["what is <b>1</b> plus 2", "bye"],
            },
        },
    ),
    (
        replace(ESTABLISHED, capacity=CapacityInfo(8)),
        {**ENCODED_ESTABLISHED, "capacity": {"sessions": 8}},
    ),
    (
        replace(ESTABLISHED, capacity=CapacityInfo(0, "Use a smaller model.")),
        {**ENCODED_ESTABLISHED, "capacity": {"sessions": 0, "advice": "Use a smaller model."}},
    ),
    (Queued(3), {"type": "queued", "position": 3}),
    (Ready(), {"type": "ready"}),
    (RecordingNotice(True, "5e55"), {"type": "recording", "on": True, "name": "5e55"}),
    (
        Resumed("5e55", "t0", (3, 5), 6),
        {"type": "resumed", "sessionId": "5e55", "resumeToken": "t0", "unacked": [3, 5], "nextId": 6},
    ),
    (ErrorNotice("bad_ack", "No."), {"type": "error", "code": "bad_ack", "message": "No."}),
    (
        ErrorNotice("full", "Later.", 2000),
        {"type": "error", "code": "full", "message": "Later.", "retryAfterMs": 2000},
    ),
    (Draining(), {"type": "draining"}),
    (Dropped("audio", 4), {"type": "dropped", "what": "audio", "count": 4}),
    (
        Stats(10, 8, 1, 2, 3, 16, 0, encode_ms=1.5, added_ms=0.25),
        {
            "type": "stats",
            "framesIn": 10,
            "framesOut": 8,
            "framesDropped": 1,
            "underruns": 2,
            "lanesOpen": 3,
            "lanesMax": 16,
            "queued": 0,
            "encodeMs": 1.5,
            "addedMs": 0.25,
        },
    ),
    (
        Configure(0.0, 250, 0.7, 25, -0.5, 1.1, 42),
        {
            "type": "configure",
            "temperature": 0.0,
            "topK": 250,
            "textTemperature": 0.7,
            "textTopK": 25,
            "paddingBias": -0.5,
            "repetitionPenalty": 1.1,
            "seed": 42,
        },
    ),
    (Configure(), {"type": "configure"}),
    (Vad(speaking=True), {"type": "vad", "speaking": True}),
    (
        ClientStats(0, 81.5, 12),
        {"type": "client_stats", "underruns": 0, "bufferMs": 81.5, "lastPlayedFrame": 12},
    ),
    (Bye(), {"type": "bye"}),
]


def sender_of(value):
    return next(role for role, known in metadata.VOCABULARY.items() if value.TYPE in known)


@pytest.mark.parametrize(("value", "encoded"), ENCODED, ids=lambda item: getattr(item, "TYPE", ""))
def test_each_object_is_encoded_as_documented_and_read_back(value, encoded):
    """Field names, `type` and explicit null are exactly those of the protocol, both ways."""
    payload = metadata.encode(value)
    assert json.loads(payload) == encoded
    assert metadata.decode(payload, sender_of(value)) == value


def test_every_type_of_the_vocabulary_is_encoded_above():
    """No object can be added without its spelling being held."""
    named = {type(value) for value, _ in ENCODED}
    assert named == set(typing.get_args(metadata.Metadata))
    assert named == {cls for known in metadata.VOCABULARY.values() for cls in known.values()}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELD_NAMES = sorted({name for _, encoded in ENCODED for name in encoded} - {"type"})
objects_of_known_types = st.builds(
    lambda name, content: {**content, "type": name},
    st.sampled_from([value.TYPE for value, _ in ENCODED]),
    st.dictionaries(st.sampled_from(FIELD_NAMES), json_values, max_size=6),
)
any_payload = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_values.map(lambda value: json.dumps(value).encode()),
    objects_of_known_types.map(lambda value: json.dumps(value).encode()),
)


@given(any_payload, st.sampled_from(["server", "client"]))
def test_any_bytes_are_valid_unknown_refused_or_a_fault(payload, sender):
    """Nothing else comes out; a valid object can be encoded again and means the same."""
    try:
        value = metadata.decode(payload, sender)
    except (RemoteProtocolError, RefusedPacketError) as error:
        str(error).encode()  # the message for the peer can always be encoded
    else:
        if value is not None:
            assert metadata.decode(metadata.encode(value), sender) == value


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b"\xff", Fault.INVALID_UTF8),
        (b'{"type":"bye\xc3"}', Fault.INVALID_UTF8),
        ('{"type":"bye"}'.encode("utf-16"), Fault.INVALID_UTF8),
        (b"", Fault.INVALID_JSON),
        (b"\xef\xbb\xbf{}", Fault.INVALID_JSON),
        (b'{"type":"bye"', Fault.INVALID_JSON),
        (b'{"type":"bye"} {}', Fault.INVALID_JSON),
        (b'{"type":"configure","temperature":NaN}', Fault.INVALID_JSON),
        (b'{"type":"configure","temperature":-Infinity}', Fault.INVALID_JSON),
        (b'{"type":"bye","type":"vad"}', Fault.INVALID_JSON),
        (b'{"type":"configure","seed":' + b"9" * 60_000 + b"}", Fault.INVALID_JSON),
        (b"[" * 65_535, Fault.INVALID_JSON),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, Fault.INVALID_JSON),
        (b"[]", Fault.INVALID_METADATA),
        (b"null", Fault.INVALID_METADATA),
        (b'"bye"', Fault.INVALID_METADATA),
        (b"{}", Fault.INVALID_METADATA),
        (b'{"type":1}', Fault.INVALID_METADATA),
        (b'{"type":null}', Fault.INVALID_METADATA),
    ],
)
def test_what_is_no_metadata_has_its_fault(payload, fault):
    """Not UTF-8, not JSON, not an object, no string `type`: each has its name."""
    with pytest.raises(RemoteProtocolError) as caught:
        metadata.decode(payload, "client")
    assert caught.value.fault is fault


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("temperature", -0.1),
        ("temperature", 10.5),
        ("temperature", "warm"),
        ("temperature", True),
        ("temperature", [1]),
        ("temperature", 10**400),
        ("topK", -1),
        ("topK", 2.5),
        ("topK", 65_537),
        ("topK", False),
        ("textTemperature", {}),
        ("textTopK", "25"),
        ("paddingBias", 101),
        ("repetitionPenalty", 0),
        ("seed", -1),
        ("seed", 1 << 53),
        ("seed", 1.5),
    ],
)
def test_a_wrong_field_of_configure_is_refused_by_its_name(field, content):
    """Type and range are checked by field; the message gives its name on the wire."""
    payload = json.dumps({"type": "configure", field: content}).encode()
    with pytest.raises(RefusedPacketError, match=f"^configure\\.{field} must be a ") as caught:
        metadata.decode(payload, "client")
    assert caught.value.code == "bad_metadata"


def test_an_infinite_number_without_the_word_is_refused():
    """1e999 is JSON and reads as infinity; no bound admits it."""
    with pytest.raises(RefusedPacketError, match="temperature"):
        metadata.decode(b'{"type":"configure","temperature":1e999}', "client")
    with pytest.raises(RefusedPacketError, match="seed"):
        metadata.decode(b'{"type":"configure","seed":1e999}', "client")


@pytest.mark.parametrize("extreme", [{"temperature": 0}, {"temperature": 10}, {"topK": 0}, {"topK": 65_536},
                                     {"seed": (1 << 53) - 1}, {"paddingBias": -100}])  # fmt: skip
def test_bounds_are_included(extreme):
    """The bounds themselves are allowed."""
    payload = json.dumps({"type": "configure", **extreme}).encode()
    encoded = json.loads(metadata.encode(metadata.decode(payload, "client")))
    assert encoded == {"type": "configure", **extreme}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"configure","temperature":null,"later":{"deep":[1]}}', Configure()),
        (b'{"type":"configure","topK":5.0,"temperature":1}', Configure(temperature=1.0, top_k=5)),
        (b'{"type":"client_stats"}', ClientStats()),
        (b'{"type":"bye","reason":"tea"}', Bye()),
    ],
)
def test_what_clients_may_write_differently_is_accepted(payload, expected):
    """null is absent, 5.0 is whole, fields of a later protocol are ignored."""
    decoded = metadata.decode(payload, "client")
    assert decoded == expected
    if isinstance(decoded, Configure) and decoded.top_k is not None:
        assert isinstance(decoded.top_k, int)
        assert isinstance(decoded.temperature, float)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b'{"type":"vad"}', "vad.speaking is missing"),
        (b'{"type":"vad","speaking":null}', "vad.speaking is missing"),
        (b'{"type":"vad","speaking":1}', "vad.speaking must be true or false"),
        (
            b'{"type":"client_stats","lastPlayedFrame":-1}',
            "client_stats.lastPlayedFrame must be a whole number from 0 to 9007199254740991",
        ),
    ],
)
def test_other_client_objects_are_held_to_their_fields(payload, sentence):
    """A required field that is missing, and a bool that is a number, are refused in one sentence."""
    with pytest.raises(RefusedPacketError) as caught:
        metadata.decode(payload, "client")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": 1}, "connection_established.model must be an object"),
        ({"sessionId": 7}, "connection_established.sessionId must be a string"),
        ({"model": {"name": "tiny"}}, "connection_established.model.shape is missing"),
        (
            {"model": {"name": "t", "shape": "s", "trained": True, "modelDelayMs": 0, "text": []}},
            "connection_established.model.text must be one of text, ids",
        ),
        (
            {"model": {**ENCODED_MODEL, "suggestions": "hello"}},
            "connection_established.model.suggestions must be a list",
        ),
        (
            {"model": {**ENCODED_MODEL, "suggestions": ["hello", 1]}},
            "connection_established.model.suggestions[1] must be a string",
        ),
    ],
)
def test_a_field_inside_an_object_is_named_by_its_path(change, sentence):
    """Nested objects are read as strictly, and named by their dotted path."""
    encoded = json.loads(metadata.encode(ESTABLISHED)) | change
    with pytest.raises(RefusedPacketError) as caught:
        metadata.decode(json.dumps(encoded).encode(), "server")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("value", "_encoded"), ENCODED, ids=lambda item: getattr(item, "TYPE", ""))
def test_an_object_is_known_only_from_its_own_sender(value, _encoded):
    """A type that only the server sends is unknown from a client, and the other way round."""
    other = "client" if sender_of(value) == "server" else "server"
    assert metadata.decode(metadata.encode(value), other) is None
    assert metadata.decode(b'{"type":"not yet invented"}', other) is None


def test_a_number_that_json_cannot_express_is_our_fault():
    """NaN never leaves as a bare word that other parsers refuse."""
    with pytest.raises(LocalProtocolError):
        metadata.encode(Stats(0, 0, 0, 0, 0, 0, 0, step_ms=float("nan")))


@given(st.text())
def test_any_text_of_ours_can_be_sent(text):
    """A message with a lone surrogate still becomes valid UTF-8, and is read back."""
    notice = ErrorNotice("bad_ack", text + "\ud800")
    assert metadata.decode(metadata.encode(notice), "server") == notice


@pytest.mark.parametrize("field", ["seed", "topK", "temperature"])
def test_half_a_surrogate_pair_is_no_number(field):
    """It is refused by name, as any other text is."""
    payload = f'{{"type":"configure","{field}":"\\ud800"}}'.encode()
    with pytest.raises(RefusedPacketError, match=field):
        metadata.decode(payload, "client")


@pytest.mark.parametrize(
    ("field", "encoded"),
    [("seed", "seed"), ("top_k", "topK"), ("retry_after_ms", "retryAfterMs"), ("text_top_k", "textTopK")],
)
def test_wire_names_follow_from_field_names(field, encoded):
    """snake_case here, camelCase on the wire, by one rule."""
    names = {each.name: each.encode_name for each in (*fields(Configure), *fields(ErrorNotice))}
    assert names[field] == encoded
