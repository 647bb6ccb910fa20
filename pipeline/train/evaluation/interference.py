"""Background sound for false-start tests: noise, music and other people's talk, of unit loudness.

None is generated as in training: other instruments, another noise, and held-out speakers and sentences.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from pipeline.units import SAMPLE_RATE_HZ
from pipeline.values import Pcm

_NOTES: Final = (0, 3, 5, 7, 10)  # semitones of a minor pentatonic scale
_DISTANCE_TAPS: Final = 2400


def _unit(sound: Pcm) -> Pcm:
    loudness = float(np.sqrt((sound.astype(np.float64) ** 2).mean()))
    scaled: Pcm = (sound / max(loudness, 1e-9)).astype(np.float32)
    return scaled


def noise(rng: np.random.Generator, samples: int) -> Pcm:
    """Pink noise with the murmur of a fan."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    spectrum /= np.sqrt(np.maximum(frequency, 30))
    time_s = np.arange(samples) / SAMPLE_RATE_HZ
    sound = np.fft.irfft(spectrum, samples)
    sound = sound / sound.std()
    for harmonic in range(1, 6):
        sound += 0.4 / harmonic * np.sin(2 * np.pi * (117 * harmonic * time_s + rng.random()))
    return _unit(sound)


def music(rng: np.random.Generator, samples: int) -> Pcm:
    """A plucked string (Karplus and Strong 1983) over a bass, in a minor pentatonic scale."""
    sound = np.zeros(samples + 2 * SAMPLE_RATE_HZ, np.float64)
    tonic_hz, beat = float(rng.uniform(140, 260)), int(rng.uniform(0.18, 0.4) * SAMPLE_RATE_HZ)
    plucked = [_plucked(rng, tonic_hz * 2 ** (note / 12)) for note in _NOTES]
    basses = [_plucked(rng, tonic_hz / 2 * 2 ** (note / 12)) for note in _NOTES]
    for number, at in enumerate(range(0, samples, beat)):
        if rng.random() < 0.8:
            tone = plucked[int(rng.integers(len(plucked)))]
            sound[at : at + len(tone)] += tone * rng.uniform(0.4, 1)
        if number % 4 == 0:
            tone = basses[int(rng.integers(len(basses)))]
            sound[at : at + len(tone)] += tone
    return _unit(sound[:samples].astype(np.float32))


def _plucked(rng: np.random.Generator, pitch_hz: float) -> Pcm:
    period = round(SAMPLE_RATE_HZ / pitch_hz)
    rounds = SAMPLE_RATE_HZ // period
    string = rng.uniform(-1, 1, period)
    periods = []
    for _ in range(rounds):
        periods.append(string)
        string = 0.498 * (string + np.roll(string, 1))
    tone: Pcm = np.concatenate(periods).astype(np.float32)
    return tone


def talk(rng: np.random.Generator, samples: int, voices: Sequence[Pcm]) -> Pcm:
    """Two people who talk with each other at the other end of a room."""
    sound = np.zeros(samples, np.float32)
    at = int(0.5 * SAMPLE_RATE_HZ)
    while at < samples:
        voice = voices[int(rng.integers(len(voices)))][: samples - at]
        sound[at : at + len(voice)] += voice
        at += len(voice) + int(rng.uniform(-0.2, 0.9) * SAMPLE_RATE_HZ)
    fall = np.exp(-np.arange(_DISTANCE_TAPS) / (0.03 * SAMPLE_RATE_HZ))
    room = rng.standard_normal(_DISTANCE_TAPS) * fall
    size = samples + _DISTANCE_TAPS
    far = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(room, size), size)[:samples]
    return _unit(0.5 * _unit(sound) + _unit(far.astype(np.float32)))
