"""Prints the loudness goldens in `tests/audio/test_loudness.py`: what NVIDIA's code makes of a recording.

python tests/goldens/loudness_golden.py PATH/TO/personaplex/moshi tests/data/speech.wav
"""

import sys
import wave

import numpy as np

sys.path.insert(0, sys.argv[1])

from moshi.models.lm import normalize_audio

with wave.open(sys.argv[2]) as file:
    assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (1, 24000, 2), file.getparams()
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
for name, pcm in {"whole": samples, "two seconds": samples[:48000], "quiet": samples // 16}.items():
    before = pcm.astype(np.float32) / 32768
    after = normalize_audio(before[None], 24000, -24.0)
    peak = int(np.abs(before).argmax())
    print(name, len(before), "gain in dB", float(20 * np.log10(after[peak] / before[peak])))
