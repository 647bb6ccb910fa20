"""The constants of the audio format, from which all others are derived.

Mimi runs at 24 kHz and 12.5 frames a second (Défossez et al. 2024, "Moshi: a
speech-text foundation model for real-time dialogue"), so a frame is 80 ms long.
"""

from dataclasses import dataclass
from typing import Final, Literal

SAMPLE_RATE_HZ: Final = 24_000
FRAMES_PER_MINUTE: Final = 750  # 12.5 Hz, kept integral
FRAME_SAMPLES: Final = SAMPLE_RATE_HZ * 60 // FRAMES_PER_MINUTE
FRAME_MS: Final = 1000 * FRAME_SAMPLES // SAMPLE_RATE_HZ
BURST_FRAMES: Final = 8  # frames that one packet may carry, and that one lane may have waiting


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a client's audio is encoded, mono. Opus is a packet at a time; the others are samples."""

    encoding: Literal["float32", "pcm16", "mulaw", "alaw", "opus"]
    rate_hz: int


assert FRAME_SAMPLES == 1920
assert FRAME_MS == 80
