"""A voice's recording has the loudness that NVIDIA's code gives it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.audio.loudness import normalized
from pipeline.audio.sound_file import read_speech
from pipeline.errors import AudioFileError

QUESTION = Path(__file__).parents[1] / "data" / "question.wav"


@pytest.mark.parametrize(
    ("length", "divisor", "gain_db"),
    [  # printed by tests/goldens/loudness_golden.py
        (122_880, 1, -1.9939311564620823),
        (48_000, 1, -2.379929751682298),
        (122_880, 16, 22.08848009274311),
    ],
)
def test_the_gain_is_that_of_the_official_code(length, divisor, gain_db):
    """Within a thousandth of a decibel, for other lengths and levels."""
    pcm = np.floor(read_speech(QUESTION)[:length] * 32768 / divisor) / 32768
    after = normalized(pcm.astype(np.float32), "question.wav")
    peak = np.abs(pcm).argmax()
    assert 20 * np.log10(after[peak] / pcm[peak]) == pytest.approx(gain_db, abs=1e-3)
    np.testing.assert_allclose(after, pcm * 10 ** (gain_db / 20), atol=1e-4)


@pytest.mark.parametrize(("pcm", "reason"), [(np.zeros(48_000), "is silent"), (np.ones(9_000), "is shorter")])
def test_what_has_no_loudness_is_refused(pcm, reason):
    """Digital silence, and less than one block."""
    with pytest.raises(AudioFileError, match=rf"x\.wav: {reason}"):
        normalized(pcm.astype(np.float32), "x.wav")
