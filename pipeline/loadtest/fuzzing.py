"""Random packets, and the outcome that the specification requires for each of them.

The packets are mutations of well-formed ones. The expected outcome follows the table in
docs/reference/protocol.md and shares no code with the implementation that it checks: a packet is
accepted ("taken"), refused, ignored, or ends the connection, each under its own name.
"""

import json
import math
import random
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from pipeline.audio.framing import AudioRefusedError, frames_of
from pipeline.loadtest.client import ViolationError, speech
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, Event, Ignored, MetadataReceived, Refused, TextReceived
from pipeline.protocol.faults import RemoteProtocolError
from pipeline.protocol.metadata import Bye, ConnectionEstablished, LimitsInfo, ModelInfo, Ready
from pipeline.units import FRAME_SAMPLES

Effect = Literal["fatal", "refused", "ignored", "taken", "bye"]

_HEADER: Final = struct.Struct("<BBIdHB")
_MESSAGE_BYTES: Final = 65_552
_HEARTBEAT, _ACK, _AUDIO, _PARTIAL, _FINAL, _METADATA = 0x01, 0x02, 0x10, 0x20, 0x21, 0x30
_KNOWN: Final = (_HEARTBEAT, _ACK, _AUDIO, _PARTIAL, _FINAL, _METADATA)
_CLOSE_CODES: Final = {"text_frame": 1003, "too_big": 1009}  # every other fault: 1002


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens to a packet: `name` is the code of the fault or refusal, `ack` the seq that is ACKed."""

    effect: Effect
    name: str = ""
    ack: int | None = None

    @property
    def ends(self) -> bool:
        """Whether the connection ends with this packet."""
        return self.effect in ("fatal", "bye")

    @property
    def close_code(self) -> int:
        """The close code of a connection that ends with this packet."""
        return 1000 if self.effect == "bye" else _CLOSE_CODES.get(self.name, 1002)


def expected_outcome(message: bytes | str) -> Outcome:
    """The outcome by the table of docs/reference/protocol.md, for a server that has sent ready."""
    if isinstance(message, str):
        return Outcome("fatal", "text_frame")
    if not message:
        return Outcome("fatal", "empty_message")
    if len(message) > _MESSAGE_BYTES:
        return Outcome("fatal", "too_big")
    if len(message) < _HEADER.size:
        return Outcome("fatal", "short_header")
    kind, _, seq, timestamp_ms, announced, ack = _HEADER.unpack_from(message)
    payload = message[_HEADER.size :]
    if announced != len(payload):
        return Outcome("fatal", "length_mismatch")
    effect, name = _expected_for_payload(kind, payload, timestamp_ms)
    return Outcome(effect, name, seq if ack and kind != _ACK and effect != "fatal" else None)


def _expected_for_payload(kind: int, payload: bytes, timestamp_ms: float) -> tuple[Effect, str]:
    match kind:
        case 0x01:
            return "taken", "heartbeat"
        case 0x02:
            return ("ignored", "unknown_ack") if len(payload) == 4 else ("refused", "bad_ack")
        case 0x10:
            return _expected_for_audio(payload, timestamp_ms)
        case 0x20 | 0x21:
            return ("fatal", "invalid_utf8") if _text(payload) is None else ("taken", "text")
        case 0x30:
            return _expected_for_metadata(payload)
        case _:
            return "ignored", "unknown_packet"


def _expected_for_audio(payload: bytes, timestamp_ms: float) -> tuple[Effect, str]:
    if not math.isfinite(timestamp_ms):
        return "refused", "bad_timestamp"
    frames, rest = divmod(len(payload), 4 * FRAME_SAMPLES)
    if rest or not 1 <= frames <= 8 or not np.isfinite(np.frombuffer(payload, "<f4")).all():
        return "refused", "audio_refused"
    return "taken", "audio"


def _expected_for_metadata(payload: bytes) -> tuple[Effect, str]:
    text = _text(payload)
    if text is None:
        return "fatal", "invalid_utf8"
    try:
        fields = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return "fatal", "invalid_json"
    kind = fields.get("type") if isinstance(fields, dict) else None
    if not isinstance(kind, str):
        return "fatal", "invalid_metadata"
    if kind not in _RULES:
        return "ignored", "unknown_metadata"
    valid = all(fields.get(key) is None or rule(fields[key]) for key, rule in _RULES[kind].items())
    if not valid or (kind == "vad" and fields.get("speaking") is None):
        return "refused", "bad_metadata"
    return ("bye", "") if kind == "bye" else ("taken", kind)


def _number(low: float, high: float, *, whole: bool = False) -> Any:  # noqa: ANN401 - a predicate
    def is_valid(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return False
        return not whole or value == int(value)

    return is_valid


_SAFE: Final = 2**53 - 1
_RULES: Final[dict[str, dict[str, Any]]] = {
    "configure": {
        "temperature": _number(0, 10),
        "topK": _number(0, 65_536, whole=True),
        "textTemperature": _number(0, 10),
        "textTopK": _number(0, 65_536, whole=True),
        "paddingBias": _number(-100, 100),
        "repetitionPenalty": _number(0.1, 10),
        "seed": _number(0, _SAFE, whole=True),
        "replay": lambda value: isinstance(value, bool),
    },
    "vad": {"speaking": lambda value: isinstance(value, bool)},
    "client_stats": {
        "underruns": _number(0, _SAFE, whole=True),
        "bufferMs": _number(0, _SAFE),
        "lastPlayedFrame": _number(0, _SAFE, whole=True),
    },
    "bye": {},
}


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


class Fuzzer:
    """An endless source of random messages, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - nothing secret

    def message(self) -> bytes | str:
        """The next message: most are invalid packets, some are no packets at all."""
        rng = self._rng
        roll = rng.random()
        if roll < 0.02:
            return rng.choice(("", "hello", "{}", "\x00", "é" * 40))
        if roll < 0.12:
            return rng.randbytes(rng.choice((0, 1, 16, 17, 18, 40)))
        if roll < 0.125:
            return bytes(_MESSAGE_BYTES + rng.choice((0, 1, 1000)))
        kind, payload = self._content()
        seq = rng.choice((0xDEADBEEF, 0x12345678, 2**32 - 1))
        # Infinities, NaN, the smallest number, and extreme times.
        stamp = (
            rng.choice((0.0, 1.8e12, -1.0, 1e308, 5e-324))
            if rng.random() < 0.97
            else rng.choice((math.nan, math.inf, -math.inf))
        )
        announced = len(payload) if rng.random() < 0.97 else rng.randrange(1 << 16)
        ack = rng.choice((0, 0, 0, 1, 255))
        message = _HEADER.pack(kind, rng.choice((0, 1, 2, 3, 9, 255)), seq, stamp, announced, ack) + payload
        return self._mutated(message) if rng.random() < 0.25 else message

    def _content(self) -> tuple[int, bytes]:
        rng = self._rng
        match rng.randrange(8):
            case 0:
                return _HEARTBEAT, rng.choice((b"", b"", b"beat"))
            case 1:
                return _ACK, rng.choice((struct.pack("<I", rng.randrange(2**32)), b"", b"123", bytes(5)))
            case 2:
                return _AUDIO, self._audio()
            case 3:
                return rng.choice((_PARTIAL, _FINAL)), rng.choice(
                    ("wörter".encode(), b"\xff", b"", b"\xed\xa0\x80")
                )
            case 4:
                return rng.choice([k for k in range(256) if k not in _KNOWN]), rng.randbytes(
                    rng.randrange(30)
                )
            case _:
                return _METADATA, self._metadata()

    def _audio(self) -> bytes:
        rng, frame = self._rng, speech()[0]
        match rng.randrange(6):
            case 0:
                return frame[: rng.randrange(len(frame))]
            case 1:
                return frame + bytes(rng.choice((1, 2, 4)))
            case 2:
                return b""
            case 3:
                place = 4 * rng.randrange(FRAME_SAMPLES)
                wrong = struct.pack("<f", rng.choice((math.nan, math.inf, -math.inf)))
                return frame[:place] + wrong + frame[place + 4 :]
            case 4:
                return frame
            case _:
                return rng.randbytes(4 * rng.randrange(64))

    def _metadata(self) -> bytes:
        rng = self._rng
        kind = rng.choice(
            (*_RULES, "configure", "configure", "client_stats", "ready", "nonsense", "", 7, None)
        )
        if kind == "bye" and rng.random() < 0.8:
            kind = "vad"
        fields: dict[str, object] = {"type": kind}
        for key in rng.sample(_KEYS, rng.randrange(4)):
            fields[key] = rng.choice(_VALUES)
        encoded = json.dumps(fields).encode()
        match rng.randrange(12):
            case 0:
                return rng.choice(_INVALID_METADATA)
            case 1:
                return encoded[: rng.randrange(len(encoded) + 1)]
            case _:
                return encoded

    def _mutated(self, message: bytes) -> bytes:
        """One of: a bit flipped, a tail cut off, a tail added, a byte doubled."""
        rng, mutated = self._rng, bytearray(message)
        place = rng.randrange(len(mutated))
        match rng.randrange(4):
            case 0:
                mutated[place] ^= 1 << rng.randrange(8)
            case 1:
                del mutated[place:]
            case 2:
                mutated += rng.randbytes(rng.randrange(1, 9))
            case _:
                mutated.insert(place, mutated[place])
        return bytes(mutated)


# Without those that change the session beyond the answer to the packet.
_KEYS: Final = (
    *sorted({key for rules in _RULES.values() for key in rules} - {"lastPlayedFrame", "replay"}),
    "future",
)
_VALUES: Final[tuple[object, ...]] = (
    *(0, 1, -1, 3.5, 0.05, 11, 65_536, 65_537, 10**400, 2**53, 1e308, -1e308),
    *(True, False, None, "", "1", [], {}, [[1]]),
)
_INVALID_METADATA: Final = (
    *(b"", b"null", b"[]", b"7", b'"bye"', b"{}", b"{", b"\xff", b'{"type":"vad","speaking":NaN}'),
    *(
        b'{"type":"bye","type":"bye"}',
        b"[" * 20_000,
        b'{"type":"\xed\xa0\x80"}',
        b'{"type":"vad","speaking":1}',
    ),
)


def fuzz_protocol(packets: int, seed: int) -> Counter[str]:
    """Give `packets` messages to server ends of conversations; counts of each effect and name.

    Raises:
        ViolationError: an outcome differs from the expected one.
        Exception: the implementation raised an undeclared error, which is a crash.
    """
    fuzzer, outcomes = Fuzzer(seed), Counter[str]()
    conversation = _ready_server()
    for _ in range(packets):
        message = fuzzer.message()
        expected, actual = expected_outcome(message), _actual_outcome(conversation, message)
        if actual != expected:
            raise ViolationError(f"{_excerpt(message)}: expected {expected}, got {actual}")
        outcomes[f"{expected.effect} {expected.name}".strip()] += 1
        if expected.ends:
            conversation = _ready_server()
    return outcomes


def _actual_outcome(conversation: Conversation, message: bytes | str) -> Outcome:
    """What the implementation does with one message."""
    try:
        event, replies = conversation.receive(message, now_s=0.0)
    except RemoteProtocolError as fault:
        return Outcome("fatal", fault.fault)
    acks = [struct.unpack("<I", reply.payload)[0] for reply in replies if reply.kind == "ack"]
    return Outcome(*_effect(event), acks[0] if acks else None)


def _effect(event: Event) -> tuple[Effect, str]:
    match event:
        case Refused(code):
            return "refused", code
        case Ignored(reason):
            return "ignored", reason
        case MetadataReceived(value):
            return ("bye", "") if isinstance(value, Bye) else ("taken", value.TYPE)
        case AudioReceived(payload=payload):
            return _audio_effect(payload)
        case TextReceived():
            return "taken", "text"
        case _:
            return "taken", "heartbeat"


def _audio_effect(payload: bytes) -> tuple[Effect, str]:
    try:
        frames_of(payload)
    except AudioRefusedError:
        return "refused", "audio_refused"
    return "taken", "audio"


def _ready_server() -> Conversation:
    """A server's end that has sent ready."""
    conversation = Conversation("server", heartbeat_every_s=5, heartbeat_timeout_s=15, now_s=0.0)
    for value in _GREETING, Ready():
        conversation.encode_next(outgoing.metadata(value), timestamp_ms=0.0)
    return conversation


_GREETING: Final = ConnectionEstablished(
    protocol=1,
    session_id="0",
    resume_token=None,
    server_time=0.0,
    sample_rate=24_000,
    frame_samples=FRAME_SAMPLES,
    model=ModelInfo("none", "none", trained=False, model_delay_ms=80, text="ids"),
    limits=LimitsInfo(_MESSAGE_BYTES, 8, 400, 5000, 15000),
)


def _excerpt(message: bytes | str) -> str:
    return repr(message[:60]) + (f" … {len(message)} in all" if len(message) > 60 else "")
