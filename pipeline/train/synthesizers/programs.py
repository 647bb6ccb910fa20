"""Synthesizers that are programs of their own: flite and Festival, a process for each utterance.

flite has unit selection (kal16) and statistical voices (awb, rms, slt); Festival diphones (kal,
ked) and, in `festvox-us-slt-hts`, a hidden Markov model.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import soundfile
import soxr

from pipeline.train.synthesizers.espeak import SynthesizerError
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

FESTIVAL_VOICES: Final = {
    "kal": "kal_diphone",
    "ked": "ked_diphone",
    "slt_hts": "cmu_us_slt_arctic_hts",
}


def _recorded(command: Sequence[str], wav: Path, package: str) -> Pcm:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a synthesizer
    except FileNotFoundError:
        raise SynthesizerError(f"{command[0]} is not installed (Debian: apt-get install {package})") from None
    if done.returncode or not wav.is_file():
        raise SynthesizerError(
            f"{command[0]} cannot speak (Debian: apt-get install {package}): {done.stderr}"
        )
    sound, rate_hz = soundfile.read(wav, dtype="float32")
    pcm: Pcm = soxr.resample(sound, rate_hz, SAMPLE_RATE_HZ).astype("float32")
    return pcm


def flite(text: str, speaker: Speaker) -> Pcm:
    """`[S]` at 24 kHz.

    Raises:
        SynthesizerError: flite is not installed, or has no such voice.
    """
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        stretch = f"duration_stretch={1 / speaker.pace:.3f}"
        command = ["flite", "-voice", speaker.voice, "--setf", stretch, "-t", text, "-o", str(wav)]
        return _recorded(command, wav, "flite")


def festival(text: str, speaker: Speaker) -> Pcm:
    """`[S]` at 24 kHz.

    Raises:
        SynthesizerError: Festival or the voice is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        wav, script = Path(folder) / "speech.wav", Path(folder) / "script.scm"
        quoted = text.replace("\\", "").replace('"', "")
        script.write_text(
            f"(voice_{FESTIVAL_VOICES[speaker.voice]})\n"
            f"(Parameter.set 'Duration_Stretch {1 / speaker.pace:.3f})\n"
            f'(utt.save.wave (SynthText "{quoted}") "{wav}")\n',
            encoding="utf-8",
        )
        packages = "festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
        return _recorded(["festival", "-b", str(script)], wav, packages)
