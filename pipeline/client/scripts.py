"""What a client of each dialect sends: its messages for some audio, encoded once, for load and measurements.

What does not belong here: sockets and pace (`pipeline.loadtest`).
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.audio.framing import payload_of
from pipeline.audio.opus import OpusEncoder
from pipeline.protocol.dialect import Message
from pipeline.protocol.metadata import Bye
from pipeline.protocol.metadata import encode as encode_metadata
from pipeline.protocol.moshi.ogg import OggWriter
from pipeline.protocol.packets import Packet, PacketType, Priority, encode
from pipeline.units import FRAME_MS, FRAME_SAMPLES
from pipeline.values import Pcm

LIVE_START: Final = '{"type":"session.start","session":{"model":"any"}}'
_INT16_STEPS: Final = 32_767


@dataclass(frozen=True, slots=True)
class ClientScript:
    """One client: what it sends first, then for each frame, and what it gets.

    Attributes:
        dialect: the name of how it speaks.
        path: of its WebSocket.
        opening: its first messages.
        frames: a message for each frame of its audio.
        ending: its last messages.
        begins: whether a message from the server lets the audio begin.
        is_sound: whether it is sound.
    """

    dialect: str
    path: str
    opening: tuple[Message, ...]
    frames: tuple[Message, ...]
    ending: tuple[Message, ...]
    begins: Callable[[Message], bool]
    is_sound: Callable[[Message], bool]


def scripts(pcm: Pcm) -> list[ClientScript]:
    """A client of each dialect with the audio `pcm [T, 1920]`."""
    steps = [np.rint(frame * _INT16_STEPS).astype("<i2").tobytes() for frame in pcm]
    encoded = [base64.b64encode(data).decode() for data in steps]
    return [_packets(pcm), _live(encoded), _realtime(encoded), _moshi(pcm)]


def _packets(pcm: Pcm) -> ClientScript:
    frames = [
        encode(
            Packet(
                PacketType.AUDIO_CHUNK, Priority.CRITICAL, index, float(FRAME_MS * index), payload_of(frame)
            )
        )
        for index, frame in enumerate(pcm)
    ]
    content = encode_metadata(Bye())
    bye = encode(Packet(PacketType.METADATA, Priority.HIGH, len(pcm), 0.0, content))
    return ClientScript(
        "packets",
        "/ws",
        (),
        tuple(frames),
        (bye,),
        lambda message: isinstance(message, bytes) and message[:1] == _METADATA and b'"ready"' in message,
        lambda message: message[:1] == _AUDIO,
    )


_METADATA: Final = bytes([PacketType.METADATA])
_AUDIO: Final = bytes([PacketType.AUDIO_CHUNK])


def _live(encoded: Sequence[str]) -> ClientScript:
    frames = tuple(json.dumps({"type": "session.input_audio.append", "audio": audio}) for audio in encoded)
    return ClientScript(
        "live",
        "/v1/live/sessions",
        (LIVE_START,),
        frames,
        ('{"type":"session.close"}',),
        _is_event("session.started"),
        _is_event("session.output_audio.delta"),
    )


def _realtime(encoded: Sequence[str]) -> ClientScript:
    frames = tuple(json.dumps({"type": "input_audio_buffer.append", "audio": audio}) for audio in encoded)
    return ClientScript(
        "realtime",
        "/v1/realtime?model=any",
        (),
        frames,
        (),
        _is_event("session.created"),
        _is_event("response.output_audio.delta"),
    )


def _is_event(kind: str) -> Callable[[Message], bool]:
    start = f'{{"type":"{kind}"'
    return lambda message: isinstance(message, str) and message.startswith(start)


def _moshi(pcm: Pcm) -> ClientScript:
    encoder, writer = OpusEncoder(), OggWriter()
    pages = [writer.page(encoder.encode(frame), FRAME_SAMPLES) for frame in pcm]
    return ClientScript(
        "moshi",
        "/api/chat",
        (b"\x01" + writer.headers(),),
        tuple(b"\x01" + page for page in pages),
        (),
        lambda message: message == b"\x00",
        lambda message: message[:1] == b"\x01",
    )
