"""Spectrogram discriminators and their losses, to train the codec adversarially.

Each discriminator looks at the complex spectrum at one resolution. Source: Défossez et al. 2022, "High
fidelity neural audio compression", section 3.4; hinge losses and feature matching as there.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_WINDOWS: Final = (2048, 1024, 512, 256)
_CHANNELS: Final = 16
_SLOPE: Final = 0.2


class DiscriminatorOutput(NamedTuple):
    """`logits`: how real each patch of a spectrum looks; `features`: the output of every layer before."""

    logits: Tensor
    features: list[Tensor]


class SpectrogramDiscriminator(nn.Module):
    """A convolutional discriminator of spectra at one resolution."""

    hann: Tensor

    def __init__(self, window: int) -> None:
        super().__init__()
        self.size = window
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        layers = [nn.Conv2d(2, _CHANNELS, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):
            padding = (dilation, 4)
            layers.append(
                nn.Conv2d(
                    _CHANNELS, _CHANNELS, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=padding
                )
            )
        layers.append(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1))
        self.layers = nn.ModuleList(layers)
        self.last = nn.Conv2d(_CHANNELS, 1, 3, padding=1)

    def forward(self, sound: Tensor) -> DiscriminatorOutput:
        """`[B, S]`."""
        bins = torch.stft(
            sound.float(), self.size, self.size // 4, window=self.hann, normalized=True, return_complex=True
        )
        x = torch.stack([bins.real, bins.imag], 1).transpose(2, 3)  # [B, 2, T, F]
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return DiscriminatorOutput(self.last(x), features)


class Discriminators(nn.Module):
    """One discriminator for each resolution."""

    def __init__(self) -> None:
        super().__init__()
        # This name is part of the checkpoint format.
        self.judges = nn.ModuleList([SpectrogramDiscriminator(window) for window in _WINDOWS])

    def forward(self, sound: Tensor) -> list[DiscriminatorOutput]:
        """`[B, S]`."""
        return [discriminator(sound) for discriminator in self.judges]


def generator_loss(reconstructed: list[DiscriminatorOutput]) -> Tensor:
    """Hinge loss of the codec: low when its sound is classified as real."""
    return torch.stack([functional.relu(1 - output.logits).mean() for output in reconstructed]).mean()


def feature_matching_loss(
    reconstructed: list[DiscriminatorOutput], real: list[DiscriminatorOutput]
) -> Tensor:
    """Feature matching loss of the codec: the relative L1 distance of the discriminators' features."""
    distances = [
        functional.l1_loss(one, other.detach()) / other.detach().abs().mean().clamp(min=1e-3)
        for output, target in zip(reconstructed, real, strict=True)
        for one, other in zip(output.features, target.features, strict=True)
    ]
    return torch.stack(distances).mean()


def discriminator_loss(reconstructed: list[DiscriminatorOutput], real: list[DiscriminatorOutput]) -> Tensor:
    """Hinge loss of the discriminators: low when they classify both correctly."""
    losses = [
        (functional.relu(1 - target.logits).mean() + functional.relu(1 + output.logits).mean())
        for output, target in zip(reconstructed, real, strict=True)
    ]
    return torch.stack(losses).mean()


class AdversarialLoss:
    """The discriminators, their optimizer, and their part of the codec's loss."""

    def __init__(self, rate: float, device: torch.device) -> None:
        self.discriminators = Discriminators().to(device)
        self.optimizer = torch.optim.AdamW(self.discriminators.parameters(), lr=rate, betas=(0.8, 0.99))

    def step(self, reconstructed: Tensor, target: Tensor) -> None:
        """One optimizer step of the discriminators; `[B, S]` both."""
        loss = discriminator_loss(self.discriminators(reconstructed.detach()), self.discriminators(target))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def losses(self, reconstructed: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The generator's parts of the loss, by name; `[B, S]` both."""
        self.discriminators.requires_grad_(requires_grad=False)
        reconstructed_outputs = self.discriminators(reconstructed)
        with torch.no_grad():
            target_outputs = self.discriminators(target)
        self.discriminators.requires_grad_(requires_grad=True)
        return {
            "deceived": generator_loss(reconstructed_outputs),
            "matching": feature_matching_loss(reconstructed_outputs, target_outputs),
        }
