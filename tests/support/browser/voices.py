"""Recordings of voices that the embedded model was never trained on, one of each family and longer ones.

`PYTHONPATH=.:tests python tests/support/browser/voices.py` makes them again, with the extra `train-voices`,
espeak-ng and flite: 16 kHz, 16 bit, in tests/data/voices, and `voices.json` with what is said and when.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from support.browser.servers import ROOT

FOLDER = ROOT / "tests/data/voices"
RATE_HZ = 16_000
SILENCE_S = 6.0  # after a question: longer than any answer
NOISE = 1e-4  # a microphone's, −80 dB


@dataclass(frozen=True)
class Recording:
    """`words` with the start of each in seconds; it sounds from 0 to `end_s`."""

    name: str
    voice: str
    words: tuple[tuple[str, float], ...]
    end_s: float

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.wav"

    @property
    def samples(self) -> np.ndarray:
        samples, rate_hz = soundfile.read(self.path, dtype="float32")
        assert rate_hz == RATE_HZ
        return samples


def recording(name: str) -> Recording:
    held = json.loads((FOLDER / "voices.json").read_text(encoding="utf-8"))[name]
    words = tuple((word, start_s) for word, start_s in held["words"])
    return Recording(name, held["voice"], words, held["end_s"])


def quiet(seconds: float) -> np.ndarray:
    """Silence, as a microphone records it."""
    noise = np.random.default_rng(0).normal(0, NOISE, round(seconds * RATE_HZ))
    return noise.astype(np.float32)


def as_microphone(name: str, folder: Path) -> Path:
    """The recording, with silence before and after it, as a file that the fake microphone repeats."""
    path = folder / f"{name}.wav"
    sound = np.concatenate([quiet(1), recording(name).samples, quiet(SILENCE_S)])
    soundfile.write(path, sound, RATE_HZ, subtype="PCM_16")
    return path


def main() -> None:
    import soxr  # noqa: PLC0415 - only to make them again

    from pipeline.train.synthesizers.packages import cache_folder  # noqa: PLC0415
    from pipeline.train.synthesizers.speaker import Speaker  # noqa: PLC0415
    from pipeline.train.synthesizers.synthesis import Synthesizers  # noqa: PLC0415
    from pipeline.units import SAMPLE_RATE_HZ  # noqa: PLC0415

    asked = {
        "question-piper": ("what is three plus four", Speaker("piper", (("joe", 1.0),))),
        "question-kokoro": ("what is two plus five", Speaker("kokoro", (("bf_emma", 1.0),))),
        "question-flite": ("what is six plus three", Speaker("flite", (("slt", 1.0),))),
        "question-espeak": ("what is five plus one", Speaker("espeak", (("en-us+f3", 1.0),))),
        "sentence-piper": (
            "the children are playing behind the old house by the river",
            Speaker("piper", (("joe", 1.0),)),
        ),
        "sentence-kokoro": (
            "my sister reads the morning paper in the garden",
            Speaker("kokoro", (("bf_emma", 1.0),)),
        ),
    }
    synthesizers = Synthesizers(cache_folder())
    about = {}
    FOLDER.mkdir(exist_ok=True)
    for name, (text, speaker) in asked.items():
        mark = "." if name.startswith("sentence") else "?"
        spoken = synthesizers.synthesize(text, speaker, mark)
        pcm = soxr.resample(spoken.pcm, SAMPLE_RATE_HZ, RATE_HZ)
        path = FOLDER / f"{name}.wav"
        soundfile.write(path, pcm, RATE_HZ, subtype="PCM_16")
        starts = [round(start / SAMPLE_RATE_HZ, 2) for start in spoken.word_starts]
        words = list(zip(text.split(), starts, strict=True))
        about[name] = {"voice": speaker.name, "words": words, "end_s": round(len(pcm) / RATE_HZ, 2)}
        print(path, path.stat().st_size)
    (FOLDER / "voices.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
