"""Random messages to the dialects of other clients, and what must hold whatever comes.

* No message makes a dialect fail: it is answered in the dialect's own form, or breaks the protocol
  (Moshi's, by a text frame or an empty message) and the connection ends.
* What is sent is of that form, and bounded: no answer is longer than what caused it, but for a margin.
* What is kept is bounded, however long it goes on.

The messages are mutations of those that clients send.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipeline.audio.noise import noise_frames
from pipeline.client.scripts import ClientScript, scripts
from pipeline.loadtest.client import ViolationError
from pipeline.protocol import outgoing
from pipeline.protocol.dialect import ConnectionParameters, Dialect, Message
from pipeline.protocol.events import MetadataReceived
from pipeline.protocol.faults import LocalProtocolError, RemoteProtocolError
from pipeline.protocol.live.dialect import LiveDialect
from pipeline.protocol.metadata import (
    Bye,
    ConnectionEstablished,
    Draining,
    Dropped,
    ErrorNotice,
    LimitsInfo,
    ModelInfo,
    Queued,
    Ready,
)
from pipeline.protocol.moshi.dialect import MoshiDialect
from pipeline.protocol.moshi.query import Query
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.realtime.dialect import RealtimeDialect
from pipeline.protocol.unacked import UnackedPackets

MESSAGES_PER_CONNECTION: Final = 500
ANSWER_MARGIN: Final = 4096  # bytes of an answer beyond the message that caused it
_FRAMES: Final = 8
_NAMES: Final = (
    *("session.start", "session.update", "session.close", "session.input_audio.append"),
    *("session.input_audio.mute", "session.input_audio.unmute", "session.instructions.append"),
    *("input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"),
    *("response.create", "response.cancel", "conversation.item.truncate", "conversation.item.create"),
    *("decision.create", "nonsense", "", "\ud800"),
)
_KEYS: Final = (
    *("audio", "session", "event_id", "content", "response", "response_id", "item_id", "content_index"),
    *("audio_end_ms", "future"),
)
_VALUES: Final[tuple[object, ...]] = (
    *(0, 1, -1, 3.5, 10**400, 1e308, True, False, None, "", "AAAA", "AAA", "*", "\ud800", [], {}, [[1]]),
    *({"model": "m"}, {"type": "realtime"}, {"type": "realtime", "tools": [1]}, "e" * 600),
    {"model": "m", "audio": {"format": {"type": "audio/pcmu"}}},
    {"type": "realtime", "audio": {"input": {"format": {"type": "audio/pcma"}}}},
    {"metadata": {"a": "b"}},
)
_TEXTS: Final = (
    "",
    "{",
    "[]",
    "null",
    "7",
    '{"type":',
    '{"type":"x","type":"x"}',
    "[" * 20_000,
    "é",
    "\ud800",
)


def _parameters(voices: tuple[str, ...] | None) -> ConnectionParameters:
    return ConnectionParameters(5, 15, 3600, 0.0, 1_000_000.0, UnackedPackets(), voices)


_DIALECTS: Final[Mapping[str, Callable[[ConnectionParameters], Dialect]]] = {
    "live": LiveDialect,
    "realtime": RealtimeDialect,
    "moshi": lambda parameters: MoshiDialect(parameters, Query()),
}
_ESTABLISHED: Final = ConnectionEstablished(
    protocol=1,
    session_id="0",
    resume_token=None,
    server_time=0.0,
    sample_rate=24_000,
    frame_samples=1920,
    model=ModelInfo("none", "none", trained=False, model_delay_ms=80, text="ids"),
    limits=LimitsInfo(65_552, 8, 400, 5000, 15_000),
)


class DialectFuzzer:
    """An endless source of random messages for one dialect, the same for the same seed."""

    def __init__(self, script: ClientScript, seed: int) -> None:
        self._rng = random.Random(f"{script.dialect} {seed}")  # noqa: S311 - nothing secret
        self._is_binary = isinstance(script.frames[0], bytes)
        self._valid = (*script.opening, *script.frames, *script.ending)

    def message(self) -> Message:
        """The next message: some are valid, most are not quite."""
        rng = self._rng
        if rng.random() < 0.02:
            return rng.choice((b"", "", b"\x01", "{}", rng.randbytes(40)))
        if self._is_binary:
            return self._binary()
        roll = rng.random()
        if roll < 0.1:
            return rng.choice(_TEXTS)
        if roll < 0.3:
            return self._mutated_text(str(rng.choice(self._valid)))
        fields: dict[str, Any] = {"type": rng.choice(_NAMES) if rng.random() < 0.95 else rng.choice(_VALUES)}
        fields |= {rng.choice(_KEYS): rng.choice(_VALUES) for _ in range(rng.randrange(4))}
        text = json.dumps(fields)
        return self._mutated_text(text) if rng.random() < 0.1 else text

    def packet(self) -> OutgoingPacket | None:
        """Something that the server has to say meanwhile, or nothing."""
        rng = self._rng
        if rng.random() < 0.6:
            return None
        audio = bytes(3840) if rng.random() < 0.5 else rng.randbytes(3840)
        return rng.choice(
            (
                outgoing.audio(audio, 80.0 * rng.randrange(1000)),
                outgoing.text_partial(rng.choice(("one", "one two", "", "\ufffd"))),
                outgoing.text_final(rng.choice(("one two three", "", "é"))),
                outgoing.metadata(
                    rng.choice(
                        (
                            Ready(),
                            Ready("NATF0", "a role"),
                            Queued(1),
                            Dropped("audio", 3),
                            Draining(),
                            ErrorNotice("audio_refused", "no"),
                            ErrorNotice("prompt_refused", "no"),
                        )
                    )
                ),
            )
        )

    def _binary(self) -> bytes:
        rng = self._rng
        message = bytearray(rng.choice(self._valid))  # type: ignore[arg-type]  # bytes, of this dialect
        match rng.randrange(6):
            case 0:
                return rng.randbytes(rng.randrange(1, 200))
            case 1:
                message[rng.randrange(len(message))] ^= 1 << rng.randrange(8)
            case 2:
                del message[rng.randrange(1, len(message) + 1) :]
            case 3:
                message += b"OggS" + rng.randbytes(rng.randrange(60))
            case 4:
                message[0] = rng.randrange(256)
        return bytes(message)

    def _mutated_text(self, text: str) -> str:
        """One of: cut off, a character changed, one doubled; valid text otherwise."""
        rng = self._rng
        if not text:
            return text
        place = rng.randrange(len(text))
        match rng.randrange(4):
            case 0:
                return text[:place]
            case 1:
                return text[:place] + rng.choice('"{}[]:,*\\\x00é') + text[place + 1 :]
            case 2:
                return text[:place] + text[place] + text[place:]
            case _:
                return text


def fuzz_dialects(messages: int, seed: int) -> Counter[str]:
    """Give so many messages to each dialect; counts of what became of them.

    Raises:
        ViolationError: something that must hold does not.
    """
    outcomes = Counter[str]()
    for script in scripts(noise_frames(_FRAMES)):
        if script.dialect in _DIALECTS:
            _fuzz(script, messages, seed, outcomes)
    return outcomes


def _fuzz(script: ClientScript, messages: int, seed: int, outcomes: Counter[str]) -> None:
    fuzzer, name = DialectFuzzer(script, seed), script.dialect
    dialect, left = None, 0
    for number in range(messages):
        if dialect is None or not left:
            dialect = _DIALECTS[name](_parameters(("NATF0",) if number % 2 else None))
            _write(dialect, outgoing.metadata(_ESTABLISHED), ANSWER_MARGIN)
            if number % 3:
                _begin(dialect, script)
            left = MESSAGES_PER_CONNECTION
        left -= 1
        message = fuzzer.message()
        try:
            event, replies = dialect.receive(message, now_s=0.0)
        except RemoteProtocolError as fault:
            if name != "moshi":
                raise ViolationError(f"{name}: {message[:60]!r} ended the connection: {fault}") from None
            outcomes[f"{name} {fault.fault}"] += 1
            dialect = None
            continue
        except Exception as error:
            raise ViolationError(f"{name}: {message[:60]!r} raised {error!r}") from error
        outcomes[f"{name} {type(event).__name__}"] += 1
        for reply in replies:
            _write(dialect, reply, 6 * len(message) + ANSWER_MARGIN)
        if event == MetadataReceived(Bye()):
            dialect = None
            continue
        packet = fuzzer.packet()
        if packet is not None:
            _write(dialect, packet, 2 * len(packet.payload) + ANSWER_MARGIN)


def _begin(dialect: Dialect, script: ClientScript) -> None:
    """Begin as a client should."""
    for message in script.opening:
        _, replies = dialect.receive(message, now_s=0.0)
        for reply in replies:
            _write(dialect, reply, ANSWER_MARGIN)
    _write(dialect, outgoing.metadata(Ready()), ANSWER_MARGIN)


def _write(dialect: Dialect, packet: OutgoingPacket, bytes_max: int) -> None:
    """Write a packet, and check what is written."""
    try:
        messages = dialect.messages(packet, timestamp_ms=0.0)
    except LocalProtocolError as error:
        raise ViolationError(f"{dialect.name}: {packet.kind} cannot be sent: {error}") from None
    for message in messages:
        if len(message) > bytes_max:
            raise ViolationError(f"{dialect.name}: {packet.kind} became {len(message)} bytes")
        if dialect.name == "moshi":
            valid = isinstance(message, bytes) and message[:1] in {b"\0", b"\1", b"\2", b"\4", b"\5", b"\6"}
        else:
            valid = isinstance(message, str) and "type" in json.loads(message)
        if not valid:
            raise ViolationError(f"{dialect.name}: {packet.kind} became {message[:60]!r}")
