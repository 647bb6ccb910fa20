"""Sound files of speech: read as mono at 24 kHz, written as 16-bit mono WAV at 24 kHz.

Every failure is an `AudioFileError` with the path and one sentence.
"""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import soundfile

from pipeline.audio.resampling import to_speech_rate
from pipeline.errors import AudioFileError
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_INT16_STEPS: Final = 32_768  # per unit of float, as in libsndfile


def read_speech(path: str | Path) -> Pcm:
    """Read any sound file that libsndfile supports as `pcm [S]`: mono, 24 kHz, within ±1.

    Channels are averaged.

    Raises:
        AudioFileError: the file is missing, unreadable, not a sound file, or holds no usable samples.
    """
    path = Path(path)
    if not path.exists():
        raise AudioFileError(str(path), "no such file")
    if not path.is_file():
        raise AudioFileError(str(path), "not a file")
    try:
        channels, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioFileError(
            str(path), f"cannot be read as a sound file ({error.error_string.rstrip('.')})"
        ) from None
    except OSError as error:
        raise AudioFileError(str(path), f"cannot be read ({error.strerror})") from None
    if not len(channels):
        raise AudioFileError(str(path), "holds no samples")
    if not np.isfinite(channels).all():
        raise AudioFileError(str(path), "holds samples that are NaN or infinite")
    return to_speech_rate(channels.mean(axis=1), rate_hz).clip(-1, 1)


class WavWriter:
    """Writes a 16-bit mono WAV file at 24 kHz, piece by piece; the file is complete once closed.

    Reading it back gives the same samples to within one 16-bit step, and writing the samples
    read from such a file gives the same file.

    Raises:
        AudioFileError: the file cannot be created or written to.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        try:
            self._file = soundfile.SoundFile(
                self._path, "w", SAMPLE_RATE_HZ, channels=1, subtype="PCM_16", format="WAV"
            )
        except (soundfile.LibsndfileError, OSError) as error:
            raise self._failed(error) from None

    def write(self, pcm: Pcm) -> None:
        """Append `pcm [S]`, clipped at ±1."""
        steps = np.rint(pcm * _INT16_STEPS).clip(-_INT16_STEPS, _INT16_STEPS - 1).astype(np.int16)
        try:
            self._file.write(steps)
        except (soundfile.LibsndfileError, OSError) as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Write the lengths into the header; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, error: soundfile.LibsndfileError | OSError) -> AudioFileError:
        path = Path(self._path)
        if path.is_dir():
            problem = "is a folder"
        elif not path.parent.is_dir():
            problem = f"the folder {path.parent} does not exist"
        else:
            problem = "cannot be written"
            if isinstance(error, OSError) and error.strerror:
                problem += f" ({error.strerror})"
        return AudioFileError(self._path, problem)
