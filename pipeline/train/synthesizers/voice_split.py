"""Which voices are for training and which for evaluation, and random speakers for training.

Held out: the hidden Markov model of Festival and the statistical voice of the same speaker in
flite; Festival's "ked"; six voices of Kokoro, which no blend contains; and Piper, which
is never used for training.
"""

from typing import Final

import numpy as np

from pipeline.train.conversation.wording import Split
from pipeline.train.synthesizers.speaker import Blend, Family, Speaker

KOKORO: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole", "af_river",
        "af_sarah", "af_sky", "am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_puck",
        "am_santa", "bf_alice", "bf_isabella", "bf_lily", "bm_daniel", "bm_lewis",
    ),
    "held_out": ("af_nova", "am_michael", "am_onyx", "bf_emma", "bm_fable", "bm_george"),
}  # fmt: skip
_PROGRAMS: Final[dict[Split, tuple[tuple[Family, str], ...]]] = {
    "train": (("flite", "awb"), ("flite", "rms"), ("flite", "kal16"), ("festival", "kal")),
    "held_out": (("flite", "slt"), ("festival", "slt_hts"), ("festival", "ked"), ("piper", "joe")),
}
NEURAL_SHARE: Final = 0.88
_BLENDED: Final = (0.35, 0.4, 0.25)  # of one voice, of two, of three
_PACES: Final = (0.78, 1.3)
_MOVED: Final = 0.35


def _blend(rng: np.random.Generator, voices: tuple[str, ...]) -> Blend:
    count = 1 + int(rng.choice(len(_BLENDED), p=_BLENDED))
    chosen = rng.choice(len(voices), count, replace=False)
    shares = rng.dirichlet(np.full(count, 2.0))
    return tuple((voices[int(index)], float(share)) for index, share in zip(chosen, shares, strict=True))


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """A random speaker for training."""
    tract = float(rng.choice((1.0, rng.uniform(0.88, 1.0), rng.uniform(1.0, 1.3)), p=(0.5, 0.2, 0.3)))
    pace = float(rng.uniform(*_PACES))
    seed = int(rng.integers(2**31))
    if rng.random() < NEURAL_SHARE:
        voices = KOKORO["train"]
        timbre, prosody = _blend(rng, voices), _blend(rng, voices)
        return Speaker("kokoro", timbre, prosody, pace, tract, float(rng.uniform(0, _MOVED)), seed)
    family, voice = _PROGRAMS["train"][int(rng.integers(len(_PROGRAMS["train"])))]
    return Speaker(family, ((voice, 1.0),), pace=pace, tract=tract)


def evaluation_speakers() -> list[Speaker]:
    """The speakers of an evaluation, in turn; half of them are Kokoro voices."""
    neural = [Speaker("kokoro", ((voice, 1.0),)) for voice in KOKORO["held_out"]]
    others = [Speaker(family, ((voice, 1.0),)) for family, voice in _PROGRAMS["held_out"]]
    joe = others[-1]
    return [*neural, *others, joe, joe]  # Piper, of which nothing is known to training, three times
