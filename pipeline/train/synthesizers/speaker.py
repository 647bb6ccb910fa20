"""A speaker of a synthesizer with whole voices: the voice, its pace and its vocal tract length."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["kokoro", "flite", "festival", "espeak", "piper"]
Blend = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice of a synthesizer.

    `timbre` and `prosody` are voices and their shares; only Kokoro has more than one, and only
    there the two may differ. `pace` is relative to the voice's own. `tract` scales formants and
    pitch: above 1 a shorter vocal tract, as a child has. `moved` is how far, and `seed` where, the
    style is moved from any blend (Kokoro alone).
    """

    family: Family
    timbre: Blend
    prosody: Blend = ()
    pace: float = 1.0
    tract: float = 1.0
    moved: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """`"kokoro/af_heart*0.62+am_puck*0.38"`."""
        blend = "+".join(f"{voice}*{share:.2f}" if share < 1 else voice for voice, share in self.timbre)
        return f"{self.family}/{blend}" + (f" tract {self.tract:.2f}" if self.tract != 1 else "")

    @property
    def speed(self) -> int:
        """Percent of the voice's own."""
        return round(100 * self.pace)

    @property
    def voice(self) -> str:
        """The one with the largest share; it decides the accent."""
        return max(self.timbre, key=lambda pair: pair[1])[0]
