"""Read and write speech files: whatever is read becomes mono at 24 kHz, and what is written is that.

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

_INT16_STEPS: Final = 32_768  # per unit of float, as libsndfile reads them


def read_speech(path: str | Path) -> Pcm:
    """Read any sound file libsndfile knows as `pcm [S]`: mono (the mean of its channels), 24 kHz, within ±1.

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
    """A 16-bit mono WAV file at 24 kHz, appended to as speech arrives; whole once closed.

    Reading what was written gives the same samples to within one 16-bit step, and writing
    what was read from such a file gives the same file.

    Raises:
        AudioFileError: the file cannot be made, or not be written any further.
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
