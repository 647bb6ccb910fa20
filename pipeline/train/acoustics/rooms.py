"""Rooms and noise for training, generated for every batch, on the device that trains.

`evaluate` has noises of its own, so that a model is not tested with those of its training.
"""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.train.acoustics.music import music
from pipeline.units import SAMPLE_RATE_HZ

_LEVELS_DB: Final = (-42.0, -9.0)  # of full scale, root mean square of the voice
_TELEPHONE: Final = 0.12


def uniform(shape: tuple[int, ...], low: float, high: float, device: torch.device) -> Tensor:
    """Evenly from `low` to `high`."""
    return low + (high - low) * torch.rand(shape, device=device)


def chance(count: int, probability: float, device: torch.device) -> Tensor:
    """`[count, 1]` bool."""
    return torch.rand(count, 1, device=device) < probability


def from_db(decibels: Tensor) -> Tensor:
    """A factor of amplitude."""
    return 10.0 ** (decibels / 20)


def loudness(x: Tensor) -> Tensor:
    """`[B, S]` → `[B, 1]`: root mean square over the samples that are not silent."""
    audible = (x.abs() > 1e-3).float()
    return (x.square().sum(1, keepdim=True) / audible.sum(1, keepdim=True).clamp(min=1)).sqrt()


def _shaped(x: Tensor, response: Tensor) -> Tensor:
    """`x [B, S]` filtered by `response [B, F]`, spread over all frequencies."""
    samples = x.shape[1]
    spectrum = torch.fft.rfft(x)
    full = functional.interpolate(response[:, None], spectrum.shape[1], mode="linear")[:, 0]
    return torch.fft.irfft(spectrum * full, samples)


def _convolved(x: Tensor, response: Tensor) -> Tensor:
    """`x [B, S]` by the causal `response [B, L]`, cut to `S` samples."""
    size = x.shape[1] + response.shape[1]
    return torch.fft.irfft(torch.fft.rfft(x, size) * torch.fft.rfft(response, size), size)[:, : x.shape[1]]


def coloured(batch: int, samples: int, device: torch.device) -> Tensor:
    """`[B, S]` noise of unit loudness: of any slope, steady or not, some with hum, some with knocks."""
    x = torch.randn(batch, samples, device=device)
    spectrum = torch.fft.rfft(x)
    frequency = torch.linspace(0, SAMPLE_RATE_HZ / 2, spectrum.shape[1], device=device).clamp(min=40)
    slope = uniform((batch, 1), 0.0, 1.2, device)
    x = torch.fft.irfft(spectrum * (frequency / 1000) ** -slope, samples)
    x = x / x.std(1, keepdim=True)
    time_s = torch.arange(samples, device=device) / SAMPLE_RATE_HZ
    swell = 1 + 0.9 * torch.sin(
        2 * torch.pi * (uniform((batch, 1), 0.2, 4, device) * time_s + torch.rand(batch, 1, device=device))
    )
    x = torch.where(chance(batch, 0.4, device), x * swell, x)
    hum = torch.sin(2 * torch.pi * uniform((batch, 1), 48, 400, device) * time_s)
    x = torch.where(chance(batch, 0.2, device), x + uniform((batch, 1), 0.3, 2, device) * hum, x)
    knocks = (torch.rand(batch, samples, device=device) < 1.5 / SAMPLE_RATE_HZ).float()
    fall = torch.exp(-torch.arange(1200, device=device) / 200) * torch.randn(1200, device=device)
    knocking = _convolved(knocks, fall[None])
    x = torch.where(chance(batch, 0.2, device), x + uniform((batch, 1), 1, 8, device) * knocking, x)
    return unit(x)


def unit(x: Tensor) -> Tensor:
    """`[B, S]` of a root mean square of 1."""
    return x / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)


def in_a_room(speech: Tensor) -> Tensor:
    """`[B, S]` through a microphone of some tone, at some level, half of them with some echo."""
    batch, samples = speech.shape
    device = speech.device
    speech = _shaped(speech, from_db(uniform((batch, 7), -6, 6, device)))
    length = min(samples, SAMPLE_RATE_HZ // 4)
    time_s = torch.arange(length, device=device) / SAMPLE_RATE_HZ
    tail = torch.randn(batch, length, device=device) * torch.exp(
        -time_s / uniform((batch, 1), 0.02, 0.08, device)
    )
    tail = tail / tail.square().sum(1, keepdim=True).sqrt() * uniform((batch, 1), 0.05, 0.5, device)
    echo = _convolved(speech, tail)
    speech = torch.where(chance(batch, 0.4, device), speech + echo, speech)
    speech = torch.where(chance(batch, _TELEPHONE, device), telephone(speech), speech)
    level = from_db(uniform((batch, 1), *_LEVELS_DB, device))
    return (speech * level / loudness(speech).clamp(min=1e-4)).clamp(-1, 1)


def across_a_room(speech: Tensor) -> Tensor:
    """`[B, S]` from people at the other end of it: more of its echo than of their voices."""
    batch, samples = speech.shape
    device = speech.device
    length = min(samples, SAMPLE_RATE_HZ // 3)
    time_s = torch.arange(length, device=device) / SAMPLE_RATE_HZ
    tail = torch.randn(batch, length, device=device) * torch.exp(
        -time_s / uniform((batch, 1), 0.02, 0.09, device)
    )
    echo = _convolved(speech, tail)
    near = uniform((batch, 1), 0.15, 0.8, device) * speech / loudness(speech).clamp(min=1e-4)
    level = from_db(uniform((batch, 1), -42, -14, device))
    far = _shaped(echo / loudness(echo).clamp(min=1e-4) + near, from_db(uniform((batch, 7), -6, 6, device)))
    return (level * far / loudness(far).clamp(min=1e-4)).clamp(-1, 1)


def telephone(x: Tensor) -> Tensor:
    """`[B, S]` within 300 to 3,400 Hz, its amplitudes in the 8-bit μ-law of a telephone (G.711)."""
    spectrum = torch.fft.rfft(x)
    frequency = torch.linspace(0, SAMPLE_RATE_HZ / 2, spectrum.shape[1], device=x.device)
    # Half down at the edges, a slope of about 24 dB an octave.
    passed = 1 / (1 + (300 / frequency.clamp(min=1)) ** 4) / (1 + (frequency / 3400) ** 4)
    narrow = torch.fft.irfft(spectrum * passed, x.shape[1])
    peak = narrow.abs().amax(1, keepdim=True).clamp(min=1e-6)
    coded = torch.sign(narrow) * torch.log1p(255 * narrow.abs() / peak) / math.log(256)
    coded = (coded * 127).round() / 127
    return torch.sign(coded) * torch.expm1(coded.abs() * math.log(256)) / 255 * peak


def noisy(speech: Tensor, babble: Tensor, *, least_db: float = 3) -> Tensor:
    """`[B, S]` with background noise, music, a television or `babble [B, S]`.

    `least_db` to 35 dB below the voice; a quarter stays clean. Where there is no speech, the
    background has a random level of its own, and music is more frequent.
    """
    batch, samples = speech.shape
    device = speech.device
    noise = coloured(batch, samples, device)
    voice = loudness(speech)
    silent = voice < 1e-4
    kind = torch.rand(batch, 1, device=device) * torch.where(silent, 0.6, 1.0)
    others = babble / loudness(babble).clamp(min=1e-4)
    noise = torch.where(kind < 0.45, others, noise)
    some = (kind[:, 0] < 0.25).nonzero()[:, 0]  # music takes longest to make
    if len(some):
        played = music(len(some), samples, device)
        television = unit(played * 0.4 + others[some])
        noise[some] = torch.where(kind[some] < 0.1, television, played)
    reference = torch.where(silent, from_db(uniform((batch, 1), -45, -5, device)), voice)
    noise = noise * reference * from_db(-uniform((batch, 1), least_db, 35, device))
    return torch.where(chance(batch, 0.25, device), speech, speech + noise).clamp(-1, 1)
