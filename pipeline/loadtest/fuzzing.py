"""Packets nobody should send, and what the protocol's table says to each of them.

The packets are mutations of well-formed ones. The verdict is read off the table in
docs/reference/protocol.md, with none of the code that it judges: a packet is taken, refused, passed
over, or ends the connection, each under its own name.
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
from pipeline.loadtest.client import WrongAnswerError, speech
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
class Verdict:
    """What has to happen: `name` is the code of the fault or refusal, `ack` the seq that is acknowledged."""

    effect: Effect
    name: str = ""
    ack: int | None = None

    @property
    def ends(self) -> bool:
        """Whether nothing follows on this connection."""
        return self.effect in ("fatal", "bye")

    @property
    def close_code(self) -> int:
        """How the connection ends that this packet ends."""
        return 1000 if self.effect == "bye" else _CLOSE_CODES.get(self.name, 1002)


def judge(message: bytes | str) -> Verdict:
    """The table of docs/reference/protocol.md, for a server that has said ready."""
    if isinstance(message, str):
        return Verdict("fatal", "text_frame")
    if not message:
        return Verdict("fatal", "empty_message")
    if len(message) > _MESSAGE_BYTES:
        return Verdict("fatal", "too_big")
    if len(message) < _HEADER.size:
        return Verdict("fatal", "short_header")
    kind, _, seq, timestamp_ms, announced, ack = _HEADER.unpack_from(message)
    payload = message[_HEADER.size :]
    if announced != len(payload):
        return Verdict("fatal", "length_mismatch")
    effect, name = _judge_payload(kind, payload, timestamp_ms)
    return Verdict(effect, name, seq if ack and kind != _ACK and effect != "fatal" else None)


def _judge_payload(kind: int, payload: bytes, timestamp_ms: float) -> tuple[Effect, str]:
    match kind:
        case 0x01:
            return "taken", "heartbeat"
        case 0x02:
            return ("ignored", "unknown_ack") if len(payload) == 4 else ("refused", "bad_ack")
        case 0x10:
            return _judge_audio(payload, timestamp_ms)
        case 0x20 | 0x21:
            return ("fatal", "invalid_utf8") if _text(payload) is None else ("taken", "text")
        case 0x30:
            return _judge_metadata(payload)
        case _:
            return "ignored", "unknown_packet"


def _judge_audio(payload: bytes, timestamp_ms: float) -> tuple[Effect, str]:
    if not math.isfinite(timestamp_ms):
        return "refused", "bad_timestamp"
    frames, rest = divmod(len(payload), 4 * FRAME_SAMPLES)
    if rest or not 1 <= frames <= 8 or not np.isfinite(np.frombuffer(payload, "<f4")).all():
        return "refused", "audio_refused"
    return "taken", "audio"


def _judge_metadata(payload: bytes) -> tuple[Effect, str]:
    text = _text(payload)
    if text is None:
        return "fatal", "invalid_utf8"
    try:
        said = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return "fatal", "invalid_json"
    kind = said.get("type") if isinstance(said, dict) else None
    if not isinstance(kind, str):
        return "fatal", "invalid_metadata"
    if kind not in _RULES:
        return "ignored", "unknown_metadata"
    holds = all(said.get(key) is None or rule(said[key]) for key, rule in _RULES[kind].items())
    if not holds or (kind == "vad" and said.get("speaking") is None):
        return "refused", "bad_metadata"
    return ("bye", "") if kind == "bye" else ("taken", kind)


def _number(low: float, high: float, *, whole: bool = False) -> Any:  # noqa: ANN401 - a predicate
    def holds(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return False
        return not whole or value == int(value)

    return holds


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


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


def _no_number(name: str) -> float:
    raise ValueError(name)


class Fuzzer:
    """An endless source of messages, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)  # noqa: S311 - nothing secret

    def message(self) -> bytes | str:
        """The next one: most are packets with something wrong, some are not packets at all."""
        dice = self._dice
        roll = dice.random()
        if roll < 0.02:
            return dice.choice(("", "hello", "{}", "\x00", "é" * 40))
        if roll < 0.12:
            return dice.randbytes(dice.choice((0, 1, 16, 17, 18, 40)))
        if roll < 0.125:
            return bytes(_MESSAGE_BYTES + dice.choice((0, 1, 1000)))
        kind, payload = self._content()
        seq = dice.choice((0xDEADBEEF, 0x12345678, 2**32 - 1))
        # An infinity, the smallest number there is, and the far ends of time.
        stamp = (
            dice.choice((0.0, 1.8e12, -1.0, 1e308, 5e-324))
            if dice.random() < 0.97
            else dice.choice((math.nan, math.inf, -math.inf))
        )
        announced = len(payload) if dice.random() < 0.97 else dice.randrange(1 << 16)
        ack = dice.choice((0, 0, 0, 1, 255))
        message = _HEADER.pack(kind, dice.choice((0, 1, 2, 3, 9, 255)), seq, stamp, announced, ack) + payload
        return self._bent(message) if dice.random() < 0.25 else message

    def _content(self) -> tuple[int, bytes]:
        dice = self._dice
        match dice.randrange(8):
            case 0:
                return _HEARTBEAT, dice.choice((b"", b"", b"beat"))
            case 1:
                return _ACK, dice.choice((struct.pack("<I", dice.randrange(2**32)), b"", b"123", bytes(5)))
            case 2:
                return _AUDIO, self._audio()
            case 3:
                return dice.choice((_PARTIAL, _FINAL)), dice.choice(
                    ("wörter".encode(), b"\xff", b"", b"\xed\xa0\x80")
                )
            case 4:
                return dice.choice([k for k in range(256) if k not in _KNOWN]), dice.randbytes(
                    dice.randrange(30)
                )
            case _:
                return _METADATA, self._metadata()

    def _audio(self) -> bytes:
        dice, frame = self._dice, speech()[0]
        match dice.randrange(6):
            case 0:
                return frame[: dice.randrange(len(frame))]
            case 1:
                return frame + bytes(dice.choice((1, 2, 4)))
            case 2:
                return b""
            case 3:
                place = 4 * dice.randrange(FRAME_SAMPLES)
                wrong = struct.pack("<f", dice.choice((math.nan, math.inf, -math.inf)))
                return frame[:place] + wrong + frame[place + 4 :]
            case 4:
                return frame
            case _:
                return dice.randbytes(4 * dice.randrange(64))

    def _metadata(self) -> bytes:
        dice = self._dice
        kind = dice.choice(
            (*_RULES, "configure", "configure", "client_stats", "ready", "nonsense", "", 7, None)
        )
        if kind == "bye" and dice.random() < 0.8:
            kind = "vad"
        said: dict[str, object] = {"type": kind}
        for key in dice.sample(_KEYS, dice.randrange(4)):
            said[key] = dice.choice(_VALUES)
        spelled = json.dumps(said).encode()
        match dice.randrange(12):
            case 0:
                return dice.choice(_NO_METADATA)
            case 1:
                return spelled[: dice.randrange(len(spelled) + 1)]
            case _:
                return spelled

    def _bent(self, message: bytes) -> bytes:
        """One of: a bit flipped, a tail cut off, a tail added, a byte doubled."""
        dice, bent = self._dice, bytearray(message)
        place = dice.randrange(len(bent))
        match dice.randrange(4):
            case 0:
                bent[place] ^= 1 << dice.randrange(8)
            case 1:
                del bent[place:]
            case 2:
                bent += dice.randbytes(dice.randrange(1, 9))
            case _:
                bent.insert(place, bent[place])
        return bytes(bent)


# Not those that change what the session does beyond its answer.
_KEYS: Final = (
    *sorted({key for rules in _RULES.values() for key in rules} - {"lastPlayedFrame", "replay"}),
    "future",
)
_VALUES: Final[tuple[object, ...]] = (
    *(0, 1, -1, 3.5, 0.05, 11, 65_536, 65_537, 10**400, 2**53, 1e308, -1e308),
    *(True, False, None, "", "1", [], {}, [[1]]),
)
_NO_METADATA: Final = (
    *(b"", b"null", b"[]", b"7", b'"bye"', b"{}", b"{", b"\xff", b'{"type":"vad","speaking":NaN}'),
    *(
        b'{"type":"bye","type":"bye"}',
        b"[" * 20_000,
        b'{"type":"\xed\xa0\x80"}',
        b'{"type":"vad","speaking":1}',
    ),
)


def fuzz_protocol(packets: int, seed: int) -> Counter[str]:
    """Say `packets` messages to servers' ends of conversations; how many of each effect and name.

    Raises:
        WrongAnswerError: one was answered differently from what the table says.
        Exception: the protocol failed in any other way than it may: a crash.
    """
    fuzzer, outcomes = Fuzzer(seed), Counter[str]()
    conversation = _listening()
    for _ in range(packets):
        message = fuzzer.message()
        wanted, got = judge(message), _hear(conversation, message)
        if got != wanted:
            raise WrongAnswerError(f"{_shown(message)}: the table says {wanted}, the protocol did {got}")
        outcomes[f"{wanted.effect} {wanted.name}".strip()] += 1
        if wanted.ends:
            conversation = _listening()
    return outcomes


def _hear(conversation: Conversation, message: bytes | str) -> Verdict:
    """What a server does about one message, in the table's words."""
    try:
        event, replies = conversation.receive(message, now_s=0.0)
    except RemoteProtocolError as fault:
        return Verdict("fatal", fault.fault)
    acks = [struct.unpack("<I", reply.payload)[0] for reply in replies if reply.act == "ack"]
    return Verdict(*_effect(event), acks[0] if acks else None)


def _effect(event: Event) -> tuple[Effect, str]:
    match event:
        case Refused(code):
            return "refused", code
        case Ignored(what):
            return "ignored", what
        case MetadataReceived(value):
            return ("bye", "") if isinstance(value, Bye) else ("taken", value.TYPE)
        case AudioReceived(payload=payload):
            return _heard(payload)
        case TextReceived():
            return "taken", "text"
        case _:
            return "taken", "heartbeat"


def _heard(payload: bytes) -> tuple[Effect, str]:
    try:
        frames_of(payload)
    except AudioRefusedError:
        return "refused", "audio_refused"
    return "taken", "audio"


def _listening() -> Conversation:
    """A server's end that has said ready."""
    conversation = Conversation("server", heartbeat_every_s=5, heartbeat_timeout_s=15, now_s=0.0)
    for said in _GREETING, Ready():
        conversation.number(outgoing.metadata(said), timestamp_ms=0.0)
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


def _shown(message: bytes | str) -> str:
    return repr(message[:60]) + (f" … {len(message)} in all" if len(message) > 60 else "")
