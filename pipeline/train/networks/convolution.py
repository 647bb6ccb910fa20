"""SEANet: the convolutional encoder and decoder of the codec. Arithmetic: `pipeline.models.seanet`.

Module names follow the published tensors', so a state dict needs no renaming.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.train.networks.architecture import MimiSizes
from pipeline.train.networks.attention import fan_in_normal

_RESIDUAL_GAIN: Final = 0.3  # of what a residual block adds, at initialization
_INPUT_GAIN: Final = (
    10.0  # speech is far below ±1, where an ELU is a straight line and layers of them are one
)
_OUTPUT_GAIN: Final = 0.01  # of the decoder's last layer


class CausalConv(nn.Module):
    """`[B, in, T]` → `[B, out, T / stride]`; silence before the first sample.

    A stride is half the kernel, and then it is a matrix product, not PyTorch's own: on a CPU in
    bfloat16 that one takes 8 taps in steps of 4, from 16 channels to 32, for 4 taps, two
    apart (PyTorch 2.13).
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        inner = nn.Conv1d(channels_in, channels_out, kernel, stride=stride, dilation=dilation)
        self.conv = nn.ModuleDict({"conv": inner})
        self.past = (kernel - 1) * dilation + 1 - stride
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        inner = self.conv["conv"]
        x = functional.pad(x, (self.past, 0))
        if self.stride == 1:
            return inner(x)
        out = inner.out_channels
        taps = inner.weight.permute(2, 1, 0).unflatten(0, (2, self.stride))
        taps = taps.flatten(1, 2)  # [2, stride · in, out]
        blocks = x.transpose(1, 2).unflatten(1, (-1, self.stride)).flatten(2)  # [B, T + 1, stride · in]
        products = blocks @ torch.cat([taps[0], taps[1]], 1)  # as a first half and as a second
        return (products[:, :-1, :out] + products[:, 1:, out:] + inner.bias).transpose(1, 2)


def overlap_add(spread: Tensor) -> Tensor:
    """`[B, C, T, 2 · stride]`, what steps add to their own and the next outputs → `[B, C, T · stride]`."""
    own, next_ones = spread.chunk(2, dim=-1)
    return (own + functional.pad(next_ones[:, :, :-1], (0, 0, 1, 0))).flatten(2)


class CausalTransposed(nn.Module):
    """`[B, in, T]` → `[B, out, T · stride]`, by a kernel of twice the stride.

    A matrix product, not PyTorch's own: on a CPU in bfloat16 the gradient of that one is wrong
    (PyTorch 2.13, 32 to 16 channels, stride 4), and training went up instead of down.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        inner = nn.ConvTranspose1d(channels_in, channels_out, 2 * stride, stride=stride)
        self.convtr = nn.ModuleDict({"convtr": inner})

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        inner = self.convtr["convtr"]
        channels_out, kernel = inner.weight.shape[1:]
        spread = x.transpose(1, 2) @ inner.weight.flatten(1)  # [B, T, out · K]
        spread = spread.unflatten(-1, (channels_out, kernel)).transpose(1, 2)  # [B, out, T, K]
        return overlap_add(spread) + inner.bias[:, None]


class ConvDownsample1d(nn.Module):
    """`[B, C, n · stride]` → `[B, C, n]`; the first step is repeated as padding."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        inner = nn.Conv1d(channels, channels, 2 * stride, stride=stride, bias=False)
        self.conv = nn.ModuleDict({"conv": nn.ModuleDict({"conv": inner})})
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.conv["conv"]["conv"](functional.pad(x, (self.stride, 0), mode="replicate"))


class ConvTrUpsample1d(nn.Module):
    """`[B, C, n]` → `[B, C, n · stride]`, every channel by a kernel of its own."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        inner = nn.ConvTranspose1d(channels, channels, 2 * stride, stride=stride, groups=channels, bias=False)
        self.convtr = nn.ModuleDict({"convtr": nn.ModuleDict({"convtr": inner})})

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return overlap_add(x[..., None] * self.convtr["convtr"]["convtr"].weight)


class Residual(nn.Module):
    """A residual block: its input plus a narrow causal convolution of it."""

    def __init__(self, width: int, dilation: int, sizes: MimiSizes) -> None:
        super().__init__()
        hidden = width // sizes.compress
        self.block = nn.Sequential(
            nn.ELU(),
            CausalConv(width, hidden, sizes.residual_kernel, dilation=dilation),
            nn.ELU(),
            CausalConv(hidden, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` → `[B, C, T]`."""
        return x + self.block(x)


def _residuals(width: int, sizes: MimiSizes) -> list[nn.Module]:
    return [Residual(width, sizes.dilation_base**depth, sizes) for depth in range(sizes.residual_layers)]


class Encoder(nn.Module):
    """Samples `[B, 1, S]` → features `[B, D, S / hop]`."""

    def __init__(self, sizes: MimiSizes) -> None:
        super().__init__()
        width = sizes.filters
        layers: list[nn.Module] = [CausalConv(1, width, sizes.kernel)]
        for ratio in reversed(sizes.ratios):
            layers += _residuals(width, sizes)
            layers += [nn.ELU(), CausalConv(width, 2 * width, 2 * ratio, stride=ratio)]
            width *= 2
        layers += [nn.ELU(), CausalConv(width, sizes.dim, sizes.last_kernel)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.model(x)


class Decoder(nn.Module):
    """Features `[B, D, T]` → samples `[B, 1, T · hop]`."""

    def __init__(self, sizes: MimiSizes) -> None:
        super().__init__()
        width = sizes.filters * 2 ** len(sizes.ratios)
        layers: list[nn.Module] = [CausalConv(sizes.dim, width, sizes.kernel)]
        for ratio in sizes.ratios:
            layers += [nn.ELU(), CausalTransposed(width, width // 2, ratio)]
            width //= 2
            layers += _residuals(width, sizes)
        layers += [nn.ELU(), CausalConv(width, 1, sizes.last_kernel)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.model(x)


def init_weights(module: nn.Module) -> None:
    """Initialize convolutions: a gain at the input, constant variance inside, attenuation at the output."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d):
            fan_in_normal(layer.weight.data, layer.weight[0].numel())
        elif isinstance(layer, nn.ConvTranspose1d):
            # [in, out / groups, K], and two positions of the kernel meet in each output.
            fan_in_normal(layer.weight.data, 2 * len(layer.weight) // layer.groups)
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, Residual):
            layer.block[3].conv["conv"].weight.data *= _RESIDUAL_GAIN
        elif isinstance(layer, Encoder):
            layer.model[0].conv["conv"].weight.data *= _INPUT_GAIN
        elif isinstance(layer, Decoder):
            layer.model[-1].conv["conv"].weight.data *= _OUTPUT_GAIN
