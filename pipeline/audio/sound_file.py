"""Sound files of speech: read as mono at 24 kHz, written as mono at 24 kHz in the format of their name.

`-` is stdin and stdout. Every failure is an `AudioFileError` with the path and one sentence. What would
make a recording worthless without any failure (silence, channels that cancel each other) is a notice.
"""

import contextlib
import io
import math
import os
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
import soundfile

from pipeline.audio.framing import OVER_FULL_SCALE
from pipeline.audio.resampling import to_speech_rate
from pipeline.errors import AudioFileError, OutputError
from pipeline.system.outputs import STDOUT, OutputFile
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

STDIN: Final = "-"
PIPED_BYTES_MAX: Final = 512 * 2**20  # from a pipe, which has no length: three hours of 16-bit mono
FORMATS: Final = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_BLOCK_SAMPLES: Final = 1 << 20
_INT16_STEPS: Final = 32_768  # per unit of float, as in libsndfile
_UNKNOWN_LENGTH: Final = 0xFFFF_FFFF  # in a WAV header; as written by sox and ffmpeg to a pipe
_RATES_HZ: Final = (4_000, 768_000)
# Sampling rates of sound cards, telephones, recorders and codecs.
_USUAL_RATES_HZ: Final = frozenset(
    base * factor for base in (8_000, 11_025, 12_000) for factor in (1, 2, 3, 4, 6, 8, 16, 32, 64)
)
_CLIPPED_SHARE: Final = 1e-3
_CANCELLED: Final = 0.1  # 20 dB: channels that have nothing in common lose 3
_QUIET_DB: Final = -30.0


@dataclass(frozen=True, slots=True)
class Speech:
    """A recording: `pcm [S]` at 24 kHz within ±1, and warnings about it for the user."""

    pcm: Pcm
    notices: tuple[str, ...]


def read_speech(path: str | Path) -> Pcm:
    """`read_sound` without its notices."""
    return read_sound(path).pcm


def read_sound(path: str | Path) -> Speech:
    """Read any sound file that libsndfile supports, a pipe of one, or stdin (`-`). Channels are averaged.

    Raises:
        AudioFileError: the file is missing, unreadable, not a sound file, or holds no usable samples.
    """
    shown = "stdin" if str(path) == STDIN else str(path)
    try:
        channels, rate_hz = _read_all_samples(path)
    except soundfile.LibsndfileError as error:
        raise AudioFileError(
            shown, f"cannot be read as a sound file ({error.error_string.rstrip('.')})"
        ) from None
    except OSError as error:
        raise AudioFileError(shown, f"cannot be read ({error.strerror or error})") from None
    except (ValueError, TypeError):  # a null character in the name; `.raw` needs arguments that are not given
        raise AudioFileError(shown, "cannot be read as a sound file") from None
    if not len(channels):
        raise AudioFileError(shown, "holds no samples")
    if not np.isfinite(channels).all():
        raise AudioFileError(shown, "holds samples that are NaN or infinite")
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise AudioFileError(
            shown,
            f"has a sample rate of {rate_hz} Hz; those that can be read are {_RATES_HZ[0]} to {_RATES_HZ[1]}",
        )
    mono = channels.mean(axis=1)
    notices = tuple(f"{shown}: {notice}" for notice in _notices(channels, mono, rate_hz))
    return Speech(to_speech_rate(mono, rate_hz).clip(-1, 1), notices)


def _read_all_samples(path: str | Path) -> tuple[Pcm, int]:
    """`channels [S, C]` and the sample rate. The length in a header is not believed: it may be terabytes."""
    with soundfile.SoundFile(_source(path)) as file:
        block = max(1, _BLOCK_SAMPLES // file.channels)
        blocks = [np.empty((0, file.channels), np.float32)]
        while len(samples := file.read(block, dtype="float32", always_2d=True)):
            blocks.append(samples)
        return np.concatenate(blocks), file.samplerate


def _source(path: str | Path) -> bytes | io.BytesIO:
    """The name of the file as bytes, which may be any, or the content of a pipe, which is read once."""
    if str(path) == STDIN:
        return io.BytesIO(_read_all(sys.stdin.buffer, "stdin"))
    path = Path(path)
    if not path.exists():
        raise AudioFileError(str(path), "no such file")
    if path.is_dir():
        raise AudioFileError(str(path), "is a folder")
    if path.is_file():
        return os.fsencode(path)
    with path.open("rb") as file:
        return io.BytesIO(_read_all(file, str(path)))


def _read_all(file: BinaryIO, shown: str) -> bytes:
    content = file.read(PIPED_BYTES_MAX + 1)
    if len(content) > PIPED_BYTES_MAX:
        raise AudioFileError(shown, f"does not end within {PIPED_BYTES_MAX // 2**20} MiB")
    return content


def _notices(channels: Pcm, mono: Pcm, rate_hz: int) -> Iterable[str]:
    """What is wrong with `channels [S, C]`, of which `mono [S]` is the mean, though it can be read."""
    if rate_hz not in _USUAL_RATES_HZ:
        yield f"has an unusual sample rate, {rate_hz} Hz; if it is wrong, the speech is too fast or too slow"
    peak = float(np.abs(channels).max())
    if peak == 0:
        yield "holds only zeros: the model gets silence"
        return
    clipped = float((np.abs(channels) > 1).mean())
    if peak > OVER_FULL_SCALE:
        yield (
            f"reaches {peak:.4g} where 1 is full scale, and {clipped:.0%} of it is cut off; "
            "divide the samples by their full scale (32768 for 16-bit integers)"
        )
    elif clipped > _CLIPPED_SHARE:
        yield f"is louder than full scale (peak {peak:.3g}), and {clipped:.1%} of it is cut off"
    level, level_mono = _rms(channels), _rms(mono)
    if level_mono < _CANCELLED * level:
        lost = "nothing is left" if level_mono == 0 else f"{_db(level_mono / level):.0f} dB are left"
        yield f"has channels that cancel each other out: of their mean, {lost}; keep one channel"
    elif (peak_db := _db(peak)) < _QUIET_DB:
        yield f"is very quiet: its loudest sample is at {peak_db:.0f} dB; the model may take it for silence"


def _rms(samples: Pcm) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _db(ratio: float) -> float:
    return 20 * math.log10(ratio)


class SoundWriter:
    """Writes a mono sound file at 24 kHz, piece by piece, in the format that the name's extension says.

    Without an extension, and to stdout (`-`), a pipe or a device, it is WAV. An earlier file stays as it
    was until `commit`; without it, the new one is discarded. Reading a WAV or FLAC file back gives the same
    samples to within one 16-bit step, and writing the samples read from such a file gives the same file.

    Raises:
        AudioFileError: the file cannot be created or written to, its extension is of no format that can be
            written, or it is one of `inputs`.
    """

    def __init__(self, path: str | Path, *, inputs: Iterable[str | Path | None] = ()) -> None:
        self.path = str(path)
        self.samples = 0
        self._clipped_samples = 0
        self._stream: BinaryIO | None = None
        self._output: OutputFile | None = None
        if self.path == STDOUT:
            self._stream = sys.stdout.buffer
            self._write_header(self._stream)
            return
        container, encoding = self._format(Path(path).suffix.lower())
        try:
            self._output = OutputFile(path, inputs=inputs)
        except OutputError as error:
            raise AudioFileError(error.path, error.problem) from None
        try:
            if self._output.is_stream:
                if container != "WAV":
                    raise AudioFileError(self.path, "only WAV can be written to a pipe or a device")
                self._stream = self._output.path.open("wb")
                self._write_header(self._stream)
            else:
                self._file = soundfile.SoundFile(
                    os.fsencode(self._output.path),
                    "w",
                    SAMPLE_RATE_HZ,
                    channels=1,
                    subtype=encoding,
                    format=container,
                )
        except (soundfile.LibsndfileError, OSError) as error:
            if self._stream is not None:
                with contextlib.suppress(OSError):
                    self._stream.close()
            self._output.discard()
            raise self._failed(error) from None

    def write(self, pcm: Pcm) -> None:
        """Append `pcm [S]`, clipped at ±1."""
        self._clipped_samples += int(np.count_nonzero(np.abs(pcm) > 1))
        steps = np.rint(pcm * _INT16_STEPS).clip(-_INT16_STEPS, _INT16_STEPS - 1).astype(np.int16)
        try:
            if self._stream is None:
                self._file.write(steps)
            else:
                self._stream.write(steps.astype("<i2").tobytes())
                self._stream.flush()
        except BrokenPipeError:
            raise  # the reader has left: nothing went wrong
        except (soundfile.LibsndfileError, OSError) as error:
            raise self._failed(error) from None
        self.samples += len(pcm)

    @property
    def notice(self) -> str | None:
        """A warning about what was written, for the user: how much of it was cut off."""
        share = self._clipped_samples / max(1, self.samples)
        if share <= _CLIPPED_SHARE:
            return None
        return f"{self.path}: the sound was louder than full scale, and {share:.1%} of it is cut off"

    def commit(self) -> None:
        """End the file, and put it in place of an earlier one."""
        self.close(keep=True)

    def close(self, *, keep: bool = False) -> None:
        """End the file, and discard it unless it is to be kept; closing twice is harmless."""
        try:
            if self._stream is None:
                self._file.close()
            elif self._output is not None:
                self._stream.close()
            if keep and self._output is not None:
                self._output.commit()
        except (soundfile.LibsndfileError, OSError) as error:
            raise self._failed(error) from None
        except OutputError as error:
            raise AudioFileError(error.path, error.problem) from None
        finally:
            if self._output is not None:
                self._output.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _format(self, extension: str) -> tuple[str, str]:
        known = FORMATS if extension else {"": FORMATS[".wav"]}
        if extension not in known:
            raise AudioFileError(self.path, f"cannot write {extension}; use {', '.join(FORMATS)}")
        container, encoding = known[extension]
        if not soundfile.check_format(container, encoding):
            raise AudioFileError(self.path, f"this system's libsndfile cannot write {extension}; use .wav")
        return container, encoding

    def _write_header(self, stream: BinaryIO) -> None:
        """The header of a WAV file of unknown length. Source: Multimedia Programming Interface 1.0."""
        sample_bytes = 2
        form = struct.pack(
            "<HHIIHH", 1, 1, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * sample_bytes, sample_bytes, 8 * sample_bytes
        )
        length = struct.pack("<I", _UNKNOWN_LENGTH)
        stream.write(b"RIFF" + length + b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + length)
        stream.flush()

    def _failed(self, error: soundfile.LibsndfileError | OSError) -> AudioFileError:
        reason = error.strerror if isinstance(error, OSError) else None
        return AudioFileError(self.path, "cannot be written" + (f" ({reason})" if reason else ""))
