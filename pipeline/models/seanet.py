"""SEANet, the convolutional encoder and decoder of Mimi: waveform ↔ features at 25 Hz.

`model` is one flat list, ELUs included, because the published checkpoints number their
tensors by it. Source: Tagliasacchi et al. 2020, "SEANet"; package `moshi`,
`modules/seanet.py`.
"""

from collections.abc import Callable

import mlx.core as mx
from mlx import nn

from pipeline.models.checkpoint.mimi_config import SeanetConfig
from pipeline.models.layers.activations import elu
from pipeline.models.layers.conv import CausalConv1d, ConvState, ConvTranspose1d


class Elu(nn.Module):
    """ELU as a numbered entry of a layer list; it keeps no state."""

    def __call__(self, x: mx.array, _: ConvState) -> mx.array:
        """`[...]` → `[...]`."""
        return elu(x)


Convolutions = list[tuple[nn.Module, bool, int]]
Kernel = Callable[[mx.array, ConvState], mx.array]


def convolutions(layers: list[nn.Module]) -> Convolutions:
    """The convolutions of a list of layers in their order, for a kernel.

    Each with whether an ELU comes before it, and, where its output is added to the input of a residual
    block, the number of the block's first convolution; otherwise −1.
    """
    found: Convolutions = []
    activated = False
    for layer in layers:
        if isinstance(layer, Elu):
            activated = True
        elif isinstance(layer, ResidualBlock):
            first = len(found)
            found += convolutions(layer.block)
            found[-1] = (*found[-1][:2], first)
        else:
            found.append((layer, activated, -1))
            activated = False
    return found


def _run(layers: list[nn.Module], x: mx.array, conv_state: ConvState) -> mx.array:
    for layer in layers:
        x = layer(x, conv_state)
    return x


class ResidualBlock(nn.Module):
    """The input plus two convolutions through a narrower width."""

    def __init__(self, width: int, dilation: int, config: SeanetConfig) -> None:
        super().__init__()
        hidden = width // config.compress
        self.block = [
            Elu(),
            CausalConv1d(width, hidden, config.residual_kernel_size, dilation=dilation),
            Elu(),
            CausalConv1d(hidden, width, 1),
        ]

    def __call__(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """`x [w, T, C]` → `[w, T, C]`."""
        x = x + _run(self.block, x, conv_state)
        conv_state.eval_point(x)
        return x


def _residuals(width: int, config: SeanetConfig) -> list[nn.Module]:
    return [
        ResidualBlock(width, config.dilation_base**depth, config) for depth in range(config.n_residual_layers)
    ]


class SeanetEncoder(nn.Module):
    """Waveform to features, through the ratios in reverse order."""

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__()
        width = config.n_filters
        self.model: list[nn.Module] = [CausalConv1d(1, width, config.kernel_size)]
        for ratio in reversed(config.ratios):
            self.model += _residuals(width, config)
            self.model += [Elu(), CausalConv1d(width, 2 * width, 2 * ratio, stride=ratio)]
            width *= 2
        self.model += [Elu(), CausalConv1d(width, config.dimension, config.last_kernel_size)]
        self.kernel: Kernel | None = None  # see `models.native`

    def __call__(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """Samples `x [w, S, 1]` → features `[w, S / hop, D]`."""
        if self.kernel is not None:
            return self.kernel(x, conv_state)
        return _run(self.model, x, conv_state)


class SeanetDecoder(nn.Module):
    """Features to waveform, through the ratios in their order."""

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__()
        width = config.n_filters * 2 ** len(config.ratios)
        self.model: list[nn.Module] = [CausalConv1d(config.dimension, width, config.kernel_size)]
        for ratio in config.ratios:
            self.model += [Elu(), ConvTranspose1d(width, width // 2, ratio)]
            width //= 2
            self.model += _residuals(width, config)
        self.model += [Elu(), CausalConv1d(width, 1, config.last_kernel_size)]
        self.kernel: Kernel | None = None  # see `models.native`

    def __call__(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """Features `x [w, T, D]` → samples `[w, T · hop, 1]`."""
        if self.kernel is not None:
            return self.kernel(x, conv_state)
        return _run(self.model, x, conv_state)
