"""The synthesizer: text to speech with the instant of every word and sound, by espeak-ng's own library.

The command-line program reports no timings, and starting it costs more than speaking.
`LD_LIBRARY_PATH` and `ESPEAK_DATA_PATH` point at a copy that is not installed.
Interface: espeak-ng 1.51, `speak_lib.h`.
"""

import ctypes
import ctypes.util
import re
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import soxr

from pipeline.errors import StartupError
from pipeline.train.synthesizers.spoken import Sound, Spoken
from pipeline.train.synthesizers.voices import Voice
from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_SYNCHRONOUS: Final = 2
_PHONEME_EVENTS: Final = 0x0001
_DO_NOT_EXIT: Final = 0x8000
_UTF8: Final = 1
_CHARACTERS: Final = 1
_RATE, _PITCH, _RANGE, _GAP = 1, 3, 4, 7
_WORD, _PHONEME = 1, 7
_FULL_SCALE: Final = 32768


class SynthesizerError(StartupError):
    """espeak-ng is missing, or lacks a voice."""

    exit_code = 2


class _Id(ctypes.Union):
    _fields_: ClassVar = [
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    ]


class _Event(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Synthesizer:
    """One espeak-ng in this process: the library is a single state, so there can be no second."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise SynthesizerError("espeak-ng is not installed (Debian: apt-get install espeak-ng)") from None
        self._rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _DO_NOT_EXIT)
        if self._rate_hz <= 0:
            raise SynthesizerError("espeak-ng finds no data (ESPEAK_DATA_PATH)")
        self._samples: list[npt.NDArray[np.int16]] = []
        self._words: dict[int, int] = {}  # first sample by place in the text; some are reported twice
        self._sounds: list[Sound] = []
        self._callback = _Callback(self._take)  # or it is collected while the library still calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:  # noqa: ANN401 - pointers
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            event = events[index]
            if event.type == _WORD:
                self._words.setdefault(event.text_position, event.sample)
            elif event.type == _PHONEME:
                self._sounds.append(Sound(event.id.string.decode(), event.sample))
            index += 1
        return 0

    def synthesize(self, text: str, voice: Voice) -> Spoken:
        """Synthesize `text`; the same text in the same voice is the same samples.

        Raises:
            SynthesizerError: there is no such voice.
        """
        library = self._library
        if library.espeak_SetVoiceByName(voice.name.encode()):
            raise SynthesizerError(f"espeak-ng has no voice {voice.name}")
        knobs = ((_RATE, voice.speed), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range), (_GAP, voice.gap))
        for knob, value in knobs:
            library.espeak_SetParameter(knob, value, 0)
        self._samples, self._words, self._sounds = [], {}, []
        raw = text.encode()
        library.espeak_Synth(raw, len(raw) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        return self._finished(text, (np.concatenate(self._samples) / _FULL_SCALE).astype(np.float32))

    def _finished(self, text: str, pcm: Pcm) -> Spoken:
        ratio = SAMPLE_RATE_HZ / self._rate_hz
        pcm = soxr.resample(pcm, self._rate_hz, SAMPLE_RATE_HZ).astype(np.float32)
        audible = np.flatnonzero(np.abs(pcm) > 1e-3)
        first, last = (int(audible[0]), int(audible[-1])) if len(audible) else (0, len(pcm) - 1)

        def at(sample: int) -> int:
            return min(max(round(sample * ratio) - first, 0), last - first)

        sounds = tuple(Sound(sound.phoneme, at(sound.start)) for sound in self._sounds)
        # Places count from 1. Words that are spoken as one ("did not") are reported once: the
        # second is put half-way to the next.
        places = [match.start() + 1 for match in re.finditer(r"\S+", text)]
        known = [(place, at(self._words[place])) for place in places if place in self._words]
        known.append((len(text) + 1, last - first))
        starts = np.interp(places, [place for place, _ in known], [sample for _, sample in known]).astype(int)
        return Spoken(pcm[first : last + 1], tuple(starts.tolist()), sounds)
