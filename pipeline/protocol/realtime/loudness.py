"""Whether encoded audio is more than the silence of a codec, without decoding it."""

from collections.abc import Mapping
from typing import Final

from pipeline.units import AudioFormat

LOUD: Final = 3  # 256ths of full scale: −38 dB at the peak; a neural codec's silence is below −50 dB


def is_loud(data: bytes, audio_format: AudioFormat) -> bool:
    """Whether any sample of PCM16 or G.711 is loud."""
    # Of PCM16 the high byte of each sample is enough.
    codes = data[1::2] if audio_format.encoding == "pcm16" else data
    return max(codes.translate(_LEVELS[audio_format.encoding]), default=0) >= LOUD


def _pcm16(high: int) -> int:
    return 2 * (high if high < 0x80 else 0xFF - high)


def _mulaw(code: int) -> int:
    magnitude = ~code & 0x7F
    return (((((magnitude & 15) << 3) + 0x84) << (magnitude >> 4)) - 0x84) >> 7


def _alaw(code: int) -> int:
    magnitude = (code ^ 0x55) & 0x7F
    segment, step = magnitude >> 4, (magnitude & 15) << 4
    return (step + 8 if segment == 0 else (step + 0x108) << (segment - 1)) >> 7


# The level of each code, in 256ths of full scale (ITU-T G.711).
_LEVELS: Final[Mapping[str, bytes]] = {
    "pcm16": bytes(map(_pcm16, range(256))),
    "mulaw": bytes(map(_mulaw, range(256))),
    "alaw": bytes(map(_alaw, range(256))),
}
