"""One client's audio between its dialect and its session: decoded as it comes in, encoded as it goes out.

Opus takes milliseconds a frame, so it runs on a thread; the other formats take microseconds. A packet
client sends and gets what the models use, and nothing is done.

Neighbours: `pipeline.audio.transcoding` does the arithmetic; `actors.ingress` and `actors.egress` call this,
each from its own task and in order.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from pipeline.audio.framing import payload_of
from pipeline.audio.transcoding import (
    AudioDecoder,
    AudioEncoder,
    DecodedAudio,
    decoder_of,
    encoder_of,
    frame_of,
)
from pipeline.protocol.dialect import Dialect
from pipeline.protocol.events import AudioReceived
from pipeline.protocol.outgoing import OutgoingPacket
from pipeline.protocol.packets import PacketType
from pipeline.units import BURST_FRAMES, FRAME_MS

ON_THREADS: Final = ("opus",)  # encodings that are too slow for the event loop


@dataclass(frozen=True, slots=True)
class Decoded:
    """The audio of one message, in bursts.

    Attributes:
        refusal: why some of it was not used; None where all was.
        thread_s: processor time of the thread that decoded it; 0 where none did.
    """

    audio: Sequence[AudioReceived]
    refusal: str | None
    thread_s: float = 0.0


class Transcoding:
    """The audio of one connection. Frames have the time at which they end, from the first one on.

    Attributes:
        dialect: how the client speaks.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._decoder: AudioDecoder | None = None
        self._encoder: AudioEncoder | None = None
        self._frames = 0
        self._threads = _threads()

    async def decode(self, pieces: Sequence[bytes]) -> Decoded:
        """The frames that are complete with these pieces of audio."""
        audio_format = self.dialect.input_format
        self._decoder = decoder = self._decoder or decoder_of(audio_format)
        thread_s = 0.0
        if audio_format.encoding in ON_THREADS:
            decoded, thread_s = await trio.to_thread.run_sync(
                partial(_timed, decoder, pieces), limiter=self._threads
            )
        else:
            decoded = decoder.decode(pieces)
        return Decoded(list(self._bursts(decoded)), decoded.refusal, thread_s)

    async def encode(self, packet: OutgoingPacket) -> OutgoingPacket:
        """The packet with its audio as the client wants it; any other packet as it is."""
        audio_format = self.dialect.output_format
        if packet.type != PacketType.AUDIO_CHUNK or audio_format.encoding == "float32":
            return packet
        self._encoder = encoder = self._encoder or encoder_of(audio_format)
        frame = frame_of(packet.payload)
        if audio_format.encoding in ON_THREADS:
            payload = await trio.to_thread.run_sync(partial(encoder.encode, frame), limiter=self._threads)
        else:
            payload = encoder.encode(frame)
        return dataclasses.replace(packet, payload=payload)

    def _bursts(self, decoded: DecodedAudio) -> Sequence[AudioReceived]:
        bursts = []
        for begin in range(0, len(decoded.frames), BURST_FRAMES):
            frames = decoded.frames[begin : begin + BURST_FRAMES]
            self._frames += len(frames)
            bursts.append(AudioReceived(0, float(FRAME_MS * self._frames), payload_of(frames)))
        return bursts


def _timed(decoder: AudioDecoder, pieces: Sequence[bytes]) -> tuple[DecodedAudio, float]:
    began_s = time.thread_time()
    decoded = decoder.decode(pieces)
    return decoded, time.thread_time() - began_s


_LIMITER = trio.lowlevel.RunVar[trio.CapacityLimiter]("_LIMITER")


def _threads() -> trio.CapacityLimiter:
    """The threads of all connections together: half the cores, so that codecs do not crowd out the models."""
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = trio.CapacityLimiter(max(1, (os.cpu_count() or 1) // 2))
        _LIMITER.set(limiter)
        return limiter
