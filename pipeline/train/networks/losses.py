"""A perceptual distance of two sounds: log-mel spectra at several resolutions."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.units import SAMPLE_RATE_HZ

_RESOLUTIONS: Final = ((128, 12), (256, 24), (512, 40), (1024, 80), (2048, 100))  # window samples, mel bands
_FLOOR: Final = 1e-4  # of full scale: what is quieter is silence


def mel_bank(bands: int, window: int) -> Tensor:
    """Triangles `[bands, window / 2 + 1]`, evenly spaced in mel, each of unit sum."""
    frequencies = torch.linspace(0, SAMPLE_RATE_HZ / 2, window // 2 + 1)
    highest = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE_HZ / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(highest), bands + 2) / 2595) - 1)
    rise = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    bank = torch.minimum(rise, fall).clamp(min=0)
    # A narrow band between two bins of a short window would have no weight.
    nearest = (frequencies - edges[1:-1, None]).abs().argmin(1)
    bank[torch.arange(bands), nearest] = bank[torch.arange(bands), nearest].clamp(min=0.1)
    return bank / bank.sum(1, keepdim=True)


class SpectralLoss(nn.Module):
    """The mean distance of log-mel magnitudes over all resolutions, in nepers."""

    def __init__(self) -> None:
        super().__init__()
        for window, bands in _RESOLUTIONS:
            self.register_buffer(f"bank_{window}", mel_bank(bands, window), persistent=False)
            self.register_buffer(f"window_{window}", torch.hann_window(window), persistent=False)

    def spectrum(self, x: Tensor, window: int) -> Tensor:
        """`x [B, S]` → log-mel magnitudes `[B, bands, T]`; a full-scale sine reads about 0."""
        hann: Tensor = getattr(self, f"window_{window}")
        bank: Tensor = getattr(self, f"bank_{window}")
        bins = torch.stft(x.float(), window, window // 4, window=hann, return_complex=True)
        magnitude = (bins.real.square() + bins.imag.square() + 1e-12).sqrt() * (2 / hann.sum())
        return (bank @ magnitude + _FLOOR).log()

    def forward(self, reconstructed: Tensor, target: Tensor) -> Tensor:
        """`[B, S]` both → a scalar."""
        distances = [
            functional.l1_loss(self.spectrum(reconstructed, window), self.spectrum(target, window))
            for window, _ in _RESOLUTIONS
        ]
        return torch.stack(distances).mean()
