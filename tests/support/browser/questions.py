"""`PYTHONPATH=tests python tests/support/browser/questions.py`: make the recordings of questions again.

The voice page plays them for people without a microphone (`web/static/voice/questions.js` has the list):
speech of espeak-ng, 24 kHz, 16 bit, in a voice that the embedded model was not trained on.
"""

import json
import wave

import numpy as np

from pipeline.train.synthesizers.espeak import Synthesizer
from pipeline.train.synthesizers.voices import Voice
from pipeline.units import SAMPLE_RATE_HZ
from support.browser.servers import ROOT

FOLDER = ROOT / "web/static/voice/questions"
VOICE = Voice("en-us+f3", speed=150, pitch=55)
PEAK = 0.5
PAUSE_S = 0.15  # before and after the words


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    config = json.loads((ROOT / "configs/tiny/config.json").read_text())
    synthesizer = Synthesizer()
    for question in config["pipeline"]["greeting"]["suggestions"]:
        pcm = synthesizer.synthesize(question, VOICE).pcm
        pause = np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ))
        samples = np.concatenate([pause, pcm * PEAK / np.abs(pcm).max(), pause])
        path = FOLDER / f"{question.replace(' ', '-')}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
