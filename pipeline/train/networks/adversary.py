"""Judges that learn to tell what a codec made from what was recorded, so that it learns what they know.

Each looks at the complex spectrum at one resolution. Source: Défossez et al. 2022, "High
fidelity neural audio compression", section 3.4; hinge losses and feature matching as there.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_WINDOWS: Final = (2048, 1024, 512, 256)
_CHANNELS: Final = 16
_SLOPE: Final = 0.2


class Verdict(NamedTuple):
    """How real each patch of a spectrum looks, and what was seen on the way to that."""

    realness: Tensor
    seen: list[Tensor]


class Judge(nn.Module):
    """One resolution."""

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

    def forward(self, sound: Tensor) -> Verdict:
        """`[B, S]`."""
        bins = torch.stft(
            sound.float(), self.size, self.size // 4, window=self.hann, normalized=True, return_complex=True
        )
        x = torch.stack([bins.real, bins.imag], 1).transpose(2, 3)  # [B, 2, T, F]
        seen = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), _SLOPE)
            seen.append(x)
        return Verdict(self.last(x), seen)


class Adversary(nn.Module):
    """All of them."""

    def __init__(self) -> None:
        super().__init__()
        self.judges = nn.ModuleList([Judge(window) for window in _WINDOWS])

    def forward(self, sound: Tensor) -> list[Verdict]:
        """`[B, S]`."""
        return [judge(sound) for judge in self.judges]


def deceived(made: list[Verdict]) -> Tensor:
    """What the codec wants low: that they see through it."""
    return torch.stack([functional.relu(1 - verdict.realness).mean() for verdict in made]).mean()


def matching(made: list[Verdict], real: list[Verdict]) -> Tensor:
    """What the codec wants low: that they see something else in what it made."""
    distances = [
        functional.l1_loss(one, other.detach()) / other.detach().abs().mean().clamp(min=1e-3)
        for verdict, wanted in zip(made, real, strict=True)
        for one, other in zip(verdict.seen, wanted.seen, strict=True)
    ]
    return torch.stack(distances).mean()


def judging(made: list[Verdict], real: list[Verdict]) -> Tensor:
    """What the judges want low: to take one for the other."""
    losses = [
        (functional.relu(1 - wanted.realness).mean() + functional.relu(1 + verdict.realness).mean())
        for verdict, wanted in zip(made, real, strict=True)
    ]
    return torch.stack(losses).mean()


class Judged:
    """The adversary's side of training: its networks, its optimizer, and its part of the codec's loss."""

    def __init__(self, rate: float, device: torch.device) -> None:
        self.adversary = Adversary().to(device)
        self.optimizer = torch.optim.AdamW(self.adversary.parameters(), lr=rate, betas=(0.8, 0.99))

    def learn(self, made: Tensor, wanted: Tensor) -> None:
        """One step of telling `made` from `wanted [B, S]`."""
        loss = judging(self.adversary(made.detach()), self.adversary(wanted))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def losses(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """What it adds to the codec's."""
        self.adversary.requires_grad_(requires_grad=False)
        of_made = self.adversary(made)
        with torch.no_grad():
            of_wanted = self.adversary(wanted)
        self.adversary.requires_grad_(requires_grad=True)
        return {"deceived": deceived(of_made), "matching": matching(of_made, of_wanted)}
