"""A client's audio to frames of samples at 24 kHz, and frames back to the client's audio.

Pieces of any length come in; whole frames go out. Decoding is bounded: what one call decodes is at most
`PIECES_SAMPLES_MAX`, however well it was compressed. What does not belong here: containers and base64
(`pipeline.protocol`), and threads (`actors`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.audio import g711
from pipeline.audio.framing import BLOCK_SAMPLES, Framer
from pipeline.audio.opus import OpusDecoder, OpusEncoder, OpusPacketError
from pipeline.audio.resampling import StreamResampler
from pipeline.units import BURST_FRAMES, FRAME_SAMPLES, SAMPLE_RATE_HZ, AudioFormat
from pipeline.values import Pcm

PIECES_SAMPLES_MAX: Final = 2 * BURST_FRAMES * FRAME_SAMPLES  # twice what a session would accept
_INT16: Final = np.dtype("<i2")
_FLOAT32: Final = np.dtype("<f4")
_INT16_STEPS: Final = 32_768
_LAWS: Final[Mapping[str, g711.Law]] = {"mulaw": "mulaw", "alaw": "alaw"}


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """Whole frames `[n, 1920]` of what was received, and why the rest of it was refused, if it was."""

    frames: Pcm
    refusal: str | None = None


class AudioDecoder(Protocol):
    """Decodes one client's audio, in order."""

    def decode(self, pieces: Sequence[bytes]) -> DecodedAudio:
        """The frames that are complete with these pieces."""
        ...


class AudioEncoder(Protocol):
    """Encodes the audio for one client, in order."""

    def encode(self, frame: Pcm) -> bytes:
        """One frame `[1920]`; what a resampler holds back follows with the next."""
        ...


class SampleDecoder:
    """PCM16, µ-law or A-law; a sample may be cut between two pieces."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._law = _LAWS.get(audio_format.encoding)
        self._resampler = StreamResampler(audio_format.rate_hz, SAMPLE_RATE_HZ)
        self._framer = Framer()
        self._rest = b""
        self._bytes_max = (
            PIECES_SAMPLES_MAX * audio_format.rate_hz // SAMPLE_RATE_HZ * _sample_bytes(audio_format)
        )

    def decode(self, pieces: Sequence[bytes]) -> DecodedAudio:
        """The frames that are complete with these pieces."""
        data = self._rest + b"".join(pieces)
        refusal = None
        if len(data) > self._bytes_max:
            data, refusal = data[: self._bytes_max], _too_long()
        if self._law is not None:
            samples = g711.decode(data, self._law)
            self._rest = b""
        else:
            whole = len(data) - len(data) % _INT16.itemsize
            samples = _from_int16(np.frombuffer(data[:whole], _INT16))
            self._rest = data[whole:]
        return DecodedAudio(self._framer.push(self._resampler.push(samples)), refusal)


class SampleEncoder:
    """PCM16, µ-law or A-law. A frame of PCM16 at 24 kHz is 3840 bytes, rounded to the nearest step."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._law = _LAWS.get(audio_format.encoding)
        self._resampler = StreamResampler(SAMPLE_RATE_HZ, audio_format.rate_hz)

    def encode(self, frame: Pcm) -> bytes:
        """One frame `[1920]`; what the resampler holds back follows with the next."""
        samples = self._resampler.push(frame)
        if self._law is not None:
            return g711.encode(samples, self._law)
        return _to_int16(samples).tobytes()


class OpusStreamDecoder:
    """Opus packets of any legal length."""

    def __init__(self) -> None:
        self._decoder = OpusDecoder()
        self._framer = Framer()

    def decode(self, pieces: Sequence[bytes]) -> DecodedAudio:
        """The frames that are complete with these packets; an invalid packet is left out."""
        decoded: list[Pcm] = []
        samples, refusal = 0, None
        for packet in pieces:
            if samples >= PIECES_SAMPLES_MAX:
                refusal = _too_long()
                break
            try:
                pcm = self._decoder.decode(packet)
            except OpusPacketError:
                refusal = "an Opus packet is invalid"
                continue
            decoded.append(pcm)
            samples += len(pcm)
        joined = np.concatenate(decoded) if decoded else np.empty(0, np.float32)
        return DecodedAudio(self._framer.push(joined), refusal)


class OpusStreamEncoder:
    """One packet of 80 ms a frame."""

    def __init__(self) -> None:
        self._encoder = OpusEncoder()

    def encode(self, frame: Pcm) -> bytes:
        """One frame `[1920]` as one packet."""
        return self._encoder.encode(frame)


def decoder_of(audio_format: AudioFormat) -> AudioDecoder:
    """A decoder of one stream in this format."""
    return OpusStreamDecoder() if audio_format.encoding == "opus" else SampleDecoder(audio_format)


def encoder_of(audio_format: AudioFormat) -> AudioEncoder:
    """An encoder of one stream in this format."""
    return OpusStreamEncoder() if audio_format.encoding == "opus" else SampleEncoder(audio_format)


def frame_of(payload: bytes | memoryview) -> Pcm:
    """The float32 payload of one frame as samples `[1920]`."""
    return np.frombuffer(payload, _FLOAT32).astype(np.float32, copy=False)


def _from_int16(steps: npt.NDArray[np.int16]) -> Pcm:
    """Samples of 16 bits as floats within ±1, in blocks (`BLOCK_SAMPLES`)."""
    samples = np.empty(len(steps), np.float32)
    for begin in range(0, len(steps), BLOCK_SAMPLES):
        block = slice(begin, begin + BLOCK_SAMPLES)
        np.divide(steps[block], np.float32(_INT16_STEPS), out=samples[block], dtype=np.float32)
    return samples


def _to_int16(samples: Pcm) -> npt.NDArray[np.int16]:
    """Floats to the nearest steps of 16 bits, in blocks."""
    steps = np.empty(len(samples), _INT16)
    for begin in range(0, len(samples), BLOCK_SAMPLES):
        block = slice(begin, begin + BLOCK_SAMPLES)
        scaled = np.rint(samples[block] * np.float32(_INT16_STEPS))
        np.maximum(scaled, np.float32(-_INT16_STEPS), out=scaled)
        steps[block] = np.minimum(scaled, np.float32(_INT16_STEPS - 1), out=scaled)
    return steps


def _sample_bytes(audio_format: AudioFormat) -> int:
    return _INT16.itemsize if audio_format.encoding == "pcm16" else 1


def _too_long() -> str:
    return f"more than {PIECES_SAMPLES_MAX / SAMPLE_RATE_HZ:g} s of audio in one message"
