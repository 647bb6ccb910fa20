"""`PYTHONPATH=tests python tests/support/browser/questions.py`: make the recordings of questions again.

The voice page plays them for people without a microphone (`web/static/voice/questions.js` has the list):
speech of Kokoro, 24 kHz, 16 bit, in a voice that the embedded model was not trained on. Needs the extra
`train-voices`.
"""

import json
import wave

import numpy as np

from pipeline.train.synthesizers.packages import cache_folder
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.train.synthesizers.synthesis import Synthesizers
from pipeline.units import SAMPLE_RATE_HZ
from support.browser.servers import ROOT

FOLDER = ROOT / "web/static/voice/questions"
SPEAKER = Speaker("kokoro", (("bf_emma", 1.0),))
PEAK = 0.5
PAUSE_S = 0.15  # before and after the words


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    config = json.loads((ROOT / "configs/tiny/config.json").read_text())
    synthesizers = Synthesizers(cache_folder())
    for question in config["pipeline"]["greeting"]["suggestions"]:
        pcm = synthesizers.synthesize(question, SPEAKER, "?").pcm
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
