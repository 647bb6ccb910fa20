"""Voices of the formant synthesizer: one agent, and users of many voices, speeds and pitches, some held out.

A user is an accent and a variant of the synthesizer, a speed, a pitch, a range of pitch and
a pause between words. Held out by construction: whole variants, and a band of speeds.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipeline.train.conversation.wording import Split


@dataclass(frozen=True, slots=True)
class Voice:
    """Settings of the synthesizer; `speed` in words a minute, `gap` in its units of about 10 ms."""

    name: str
    speed: int
    pitch: int
    pitch_range: int = 50
    gap: int = 0


# The gap leaves silence between words, where `sessions` may wait for the next frame.
AGENT: Final = Voice("en-us", speed=170, pitch=42, pitch_range=45, gap=1)

_ACCENTS: Final = (
    "en-us",
    "en",
    "en-us-nyc",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
_VARIANTS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f4", "f5", "klatt", "klatt2", "klatt4",
        "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Gene", "Henrique", "Hugo", "Jacky", "Lee",
        "Mario", "Michael", "Mike", "Nguyen", "adam", "anika", "antonio", "aunty", "belinda", "benjamin",
        "boris", "caleb", "david", "ed", "edward", "grandma", "grandpa", "gustave", "iven", "iven3", "john",
        "linda", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob",
        "sandro", "steph", "travis", "victor", "zac",
    ),
    "held_out": ("m5", "f3", "klatt3", "Marco", "shelby", "steph3", "robert", "Diogo"),
}  # fmt: skip
_SPEEDS: Final[dict[Split, tuple[tuple[int, int], ...]]] = {
    "train": ((115, 150), (160, 195)),
    "held_out": ((150, 160), (195, 205)),
}


def draw_user(rng: np.random.Generator, *, voice: Split = "train", speed: Split = "train") -> Voice:
    """A user; the caller chooses which aspects are held out."""
    accent = str(rng.choice(_ACCENTS))
    bands = _SPEEDS[speed]
    low, high = bands[int(rng.integers(len(bands)))]
    return Voice(
        f"{accent}+{rng.choice(_VARIANTS[voice])}",
        speed=int(rng.integers(low, high)),
        pitch=int(rng.integers(25, 76)),
        pitch_range=int(rng.integers(25, 76)),
        gap=int(rng.choice((0, 0, 0, 1, 2, 4))),
    )
