"""Random messages to the dialects of other clients, and what must hold whatever comes.

* No message makes a dialect fail: it is answered in the dialect's own form, or breaks the protocol
  (Moshi's, by a text frame or an empty message) and the connection ends.
* What is sent is of that form, and bounded: no answer is longer than what caused it, but for a margin.
* What is kept is bounded, however long it goes on.
* Whatever audio a dialect accepts can be decoded, to a bounded number of finite samples.

The messages are mutations of those that clients send.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from pipeline.audio.noise import noise_frames
from pipeline.audio.opus import PACKET_SAMPLES_MAX
from pipeline.audio.transcoding import PIECES_SAMPLES_MAX, AudioDecoder, decoder_of
from pipeline.client.scripts import ClientScript, scripts
from pipeline.loadtest.client import ViolationError
from pipeline.protocol import outgoing
from pipeline.protocol.dialect import ConnectionParameters, Dialect, Message
from pipeline.protocol.events import EncodedAudioReceived, MetadataReceived
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
from pipeline.protocol.moshi.dialect import AUDIO, MoshiDialect
from pipeline.protocol.moshi.ogg import OggWriter, checksum
from pipeline.protocol.moshi.query import Query
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.realtime.dialect import RealtimeDialect
from pipeline.protocol.unacked import UnackedPackets
from pipeline.units import FRAME_SAMPLES

MESSAGES_PER_CONNECTION: Final = 500
ANSWER_MARGIN: Final = 4096  # bytes of an answer beyond the message that caused it
_FRAMES: Final = 8
_CHECKSUM: Final = slice(22, 26)  # of an Ogg page
_SEGMENTS_AT: Final = 26
# What is refused beyond it has been decoded as far as a packet, and a frame was incomplete before.
_SAMPLES_MAX: Final = PIECES_SAMPLES_MAX + PACKET_SAMPLES_MAX + FRAME_SAMPLES
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
        self._writer = OggWriter()

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
        match rng.randrange(40):
            case 0 | 1:
                return rng.randbytes(rng.randrange(1, 200))
            case 2 | 3:
                message[rng.randrange(len(message))] ^= 1 << rng.randrange(8)
            case 4:
                del message[rng.randrange(1, len(message) + 1) :]
            case 5:
                message += b"OggS" + rng.randbytes(rng.randrange(60))
            case 6 | 7:
                message[0] = rng.randrange(256)
            case 8 | 9 | 10 | 11 | 12:
                return bytes([AUDIO]) + self._page(rng.randbytes(rng.randrange(80)))
            case 13 | 14 | 15 | 16 | 17 | 18:
                for _ in range(rng.randrange(1, 4)):
                    message[rng.randrange(1, len(message))] = rng.randrange(256)
                _mend_checksum(message)
        return bytes(message)

    def _page(self, packet: bytes) -> bytes:
        """An intact page with any packet in it, which the decoder gets."""
        return self._writer.page(packet, FRAME_SAMPLES)

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


def _mend_checksum(message: bytearray) -> None:
    """Make the first page of a message intact, whatever is in it."""
    page = message[1:]
    if len(page) > _SEGMENTS_AT:
        lacing = page[_SEGMENTS_AT + 1 : _SEGMENTS_AT + 1 + page[_SEGMENTS_AT]]
        page = page[: _SEGMENTS_AT + 1 + len(lacing) + sum(lacing)]
        page[_CHECKSUM] = bytes(4)
        message[1 + _CHECKSUM.start : 1 + _CHECKSUM.stop] = checksum(bytes(page)).to_bytes(4, "little")


def fuzz_dialects(messages: int, seed: int, names: Collection[str] = tuple(_DIALECTS)) -> Counter[str]:
    """Give so many messages to each of these dialects; counts of what became of them.

    Raises:
        ViolationError: something that must hold does not.
    """
    outcomes = Counter[str]()
    for script in scripts(noise_frames(_FRAMES)):
        if script.dialect in names:
            _fuzz(script, messages, seed, outcomes)
    return outcomes


def _fuzz(script: ClientScript, messages: int, seed: int, outcomes: Counter[str]) -> None:
    fuzzer, name = DialectFuzzer(script, seed), script.dialect
    dialect, decoder, left = None, None, 0
    for number in range(messages):
        if dialect is None or not left:
            dialect = _connected(script, has_voices=number % 2 == 0, begins=number % 3 != 0)
            decoder, left = None, MESSAGES_PER_CONNECTION
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
        if isinstance(event, EncodedAudioReceived):
            decoder = decoder or decoder_of(dialect.input_format)
            _decode(name, decoder, event.pieces)
        for reply in replies:
            _write(dialect, reply, 6 * len(message) + ANSWER_MARGIN)
        if event == MetadataReceived(Bye()):
            dialect = None
            continue
        packet = fuzzer.packet()
        if packet is not None:
            _write(dialect, packet, 2 * len(packet.payload) + ANSWER_MARGIN)


def _connected(script: ClientScript, *, has_voices: bool, begins: bool) -> Dialect:
    """The server's end of a new connection; whose client has begun as it should, or not."""
    dialect = _DIALECTS[script.dialect](_parameters(("NATF0",) if has_voices else None))
    _write(dialect, outgoing.metadata(_ESTABLISHED), ANSWER_MARGIN)
    if begins:
        _begin(dialect, script)
    return dialect


def _decode(name: str, decoder: AudioDecoder, pieces: Sequence[bytes]) -> None:
    """Decode audio that a dialect accepted, as a session does."""
    try:
        frames = decoder.decode(pieces).frames
    except Exception as error:
        shown = [piece[:60] for piece in pieces[:4]]
        raise ViolationError(f"{name}: the audio {shown!r} raised {error!r}") from error
    if not np.isfinite(frames).all():
        raise ViolationError(f"{name}: {len(pieces)} pieces of audio became samples that are not finite")
    if frames.size > _SAMPLES_MAX:
        raise ViolationError(f"{name}: {len(pieces)} pieces of audio became {frames.size} samples")


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
