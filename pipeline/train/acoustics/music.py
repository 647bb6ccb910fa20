"""Music for training, composed at random: chords, a melody and drums, of unit loudness.

`evaluation.interference` composes its own, of other instruments.
"""

import math
from typing import Final

import torch
from torch import Tensor

from pipeline.units import SAMPLE_RATE_HZ

_SCALE: Final = (0, 2, 4, 5, 7, 9, 11)  # semitones of a major key; its sixth degree begins a minor one
_TRIAD: Final = (0, 2, 4)
_PARTIALS: Final = 5
_LONGEST_S: Final = 1.2


def _tone(pitch_hz: float, samples: int, brightness: float, decay_s: float, device: torch.device) -> Tensor:
    time_s = torch.arange(samples, device=device) / SAMPLE_RATE_HZ
    envelope = torch.exp(-time_s / decay_s) * (1 - torch.exp(-time_s / 0.008))
    tone = torch.zeros(samples, device=device)
    for partial in range(1, _PARTIALS + 1):
        if partial * pitch_hz < SAMPLE_RATE_HZ / 2:
            tone += brightness ** (partial - 1) * torch.sin(2 * math.pi * partial * pitch_hz * time_s)
    return tone * envelope


def _piece(samples: int, device: torch.device) -> Tensor:
    """One of them, `[S]`."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(()))

    def degree(step: int) -> float:
        return tonic * 2 ** ((12 * (step // 7) + _SCALE[step % 7]) / 12)

    tonic, beat = between(110, 220), round(between(0.28, 0.7) * SAMPLE_RATE_HZ)
    bright, decay_s = between(0.2, 0.8), between(0.12, 1.0)
    drums, singing = between(0, 1.2), between(0.3, 1.2)
    length = min(samples, round(_LONGEST_S * SAMPLE_RATE_HZ))
    hit = torch.randn(SAMPLE_RATE_HZ // 10, device=device)
    hit *= torch.exp(-torch.arange(len(hit), device=device) / (SAMPLE_RATE_HZ * between(0.01, 0.04)))
    piece = torch.zeros(samples + length, device=device)
    tones: dict[tuple[int, float], Tensor] = {}
    root, step = 0, 7
    for number, at in enumerate(range(0, samples, beat)):
        if number % 4 == 0:
            root = int(torch.randint(7, ()))
        step = min(14, max(4, step + int(torch.randint(-2, 3, ()))))
        for note, level in (*((root + third, 0.4) for third in _TRIAD), (step, singing)):
            tone = tones.get((note, level))
            if tone is None:
                tone = tones[note, level] = level * _tone(degree(note), length, bright, decay_s, device)
            piece[at : at + length] += tone
        struck = hit[: len(piece) - at]
        piece[at : at + len(struck)] += drums * (1 if number % 2 else 0.5) * struck
    return piece[:samples]


def music(batch: int, samples: int, device: torch.device) -> Tensor:
    """`[B, S]`, each another piece."""
    pieces = torch.stack([_piece(samples, device) for _ in range(batch)])
    return pieces / pieces.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
