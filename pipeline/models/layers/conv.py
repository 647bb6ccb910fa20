"""Computes: causal convolutions over `[w, T, C]` whose past is an argument.

Channels come last inside the codec; only `Mimi` speaks `[w, 1, S]`. What a convolution
needs of the past travels in a `History`: one packed row per lane, so that a whole network
costs one gather and one scatter however many layers it has. Nothing here knows of lanes.

Arithmetic after the published Mimi (Défossez et al. 2024, "Moshi", section 3.3; package
`moshi`, `modules/conv.py` and `modules/resample.py`).
"""

import mlx.core as mx
from mlx import nn

from pipeline.backend import prepare

# MLX's convolution on the CPU writes its input down once for every tap, and multiplies that.
_BY_PRODUCTS = prepare().device == "cpu"


class History:
    """The past of every layer, taken and left again in the order the layers run.

    `packed [w, floats]` is what the previous call left; `repacked()` is what this one leaves.
    `marks`: what the layers computed on their way, the first first; see `mark`.
    """

    def __init__(self, packed: mx.array, marks: list[mx.array] | None = None) -> None:
        self._packed = packed
        self._offset = 0
        self._left: list[mx.array] = []
        self._marks = marks

    def take(self, steps: int, channels: int) -> mx.array:
        """The next layer's past, `[w, steps, channels]`."""
        end = self._offset + steps * channels
        past = self._packed[:, self._offset : end].reshape(-1, steps, channels)
        self._offset = end
        return past

    def leave(self, past: mx.array) -> None:
        """Put away `[w, steps, channels]`, what the same layer takes next time."""
        self._left.append(past.reshape(past.shape[0], -1))

    def mark(self, x: mx.array) -> None:
        """Note that a good part of the work ends with `x`, for who wants to evaluate it in parts."""
        if self._marks is not None:
            self._marks.append(x)

    def repacked(self) -> mx.array:
        """Everything left, `[w, floats]`; each layer must have taken and left its part."""
        repacked = mx.concatenate(self._left, axis=1)
        assert repacked.shape == self._packed.shape
        assert self._offset == repacked.shape[1]
        return repacked


class CausalConv1d(nn.Module):
    """A step depends on no later sample, and concatenated steps equal the whole.

    Before the first sample there is silence. `weight [out, kernel, in]`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, kernel_size, in_channels))
        self.bias = mx.zeros((out_channels,))
        self.stride = stride
        self.dilation = dilation
        self.in_channels = in_channels
        self.past_steps = (kernel_size - 1) * dilation + 1 - stride

    @property
    def history_floats(self) -> int:
        """Numbers this layer keeps for each lane."""
        return self.past_steps * self.in_channels

    def __call__(self, x: mx.array, history: History) -> mx.array:
        """`x [w, T, in]` → `[w, T / stride, out]`."""
        if self.past_steps:
            past = history.take(self.past_steps, self.in_channels)  # [w, P, in]
            x = mx.concatenate([past, x], axis=1)  # [w, P + T, in]
            history.leave(x[:, -self.past_steps :])
        if _BY_PRODUCTS and self._has_fewer_weights_than(x):
            return self._by_products(x)
        y = mx.conv1d(x, self.weight, stride=self.stride, dilation=self.dilation)  # [w, T / stride, out]
        return y + self.bias

    def _has_fewer_weights_than(self, x: mx.array) -> bool:
        """Whether turning the weights over is cheaper than copying `x [w, P + T, in]` for every tap."""
        whole = self.weight.shape[1] % self.stride == 0
        return whole and self.in_channels > 1 and self.weight.size < x.shape[1] * x.shape[2]

    def _by_products(self, x: mx.array) -> mx.array:
        """`x [w, P + T, in]` → `[w, T / stride, out]`: one product for as many taps as a stride has steps."""
        w, steps, width = x.shape[0], x.shape[1] // self.stride, self.stride * self.in_channels
        x = x.reshape(w, steps, width)
        taps = self.weight.reshape(len(self.weight), -1, width).transpose(1, 2, 0)  # [n, width, out]
        steps -= (len(taps) - 1) * self.dilation
        y = self.bias
        for tap, weight in enumerate(taps):
            seen = x[:, tap * self.dilation :][:, :steps]
            y = mx.addmm(y, seen, mx.broadcast_to(weight, (w, *weight.shape)))
        return y


class Downsample(nn.Module):
    """`stride` steps become one; before the first there is that first step, repeated.

    `weight [C, 2 · stride, C]`.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, 2 * stride, channels))
        self.stride = stride

    @property
    def history_floats(self) -> int:
        """Numbers this layer keeps for each lane."""
        return self.weight.size // (2 * len(self.weight))

    def __call__(self, x: mx.array, history: History, fresh: mx.array) -> mx.array:
        """`x [w, n · stride, C]` → `[w, n, C]`; `fresh [w]` marks the rows that have no past yet."""
        past = history.take(self.stride, x.shape[2])  # [w, stride, C]
        past = mx.where(fresh[:, None, None], x[:, :1], past)
        x = mx.concatenate([past, x], axis=1)  # [w, (1 + n) · stride, C]
        history.leave(x[:, -self.stride :])
        return mx.conv1d(x, self.weight, stride=self.stride)


def overlap_add(halves: mx.array, pending: mx.array) -> tuple[mx.array, mx.array]:
    """Each step's first half falls on its own outputs, its second half on the next step's.

    `halves [w, T, 2, stride, C]` and `pending [w, stride, C]`, the second half of the step
    before, → `[w, T · stride, C]` and the new pending.
    """
    w, steps, _, stride, channels = halves.shape
    second = mx.concatenate([pending[:, None], halves[:, :, 1]], axis=1)  # [w, T + 1, stride, C]
    y = halves[:, :, 0] + second[:, :-1]  # [w, T, stride, C]
    return y.reshape(w, steps * stride, channels), second[:, -1]


class ConvTranspose1d(nn.Module):
    """Each step becomes `stride`, by a kernel of twice that; concatenated steps equal the whole.

    One matrix product and an overlap-add, because MLX's own transposed convolution is some
    fifty times slower on the CPU. `weight [2 · stride, out, in]`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((2 * stride, out_channels, in_channels))
        self.bias = mx.zeros((out_channels,))
        self.stride = stride
        self.out_channels = out_channels

    @property
    def history_floats(self) -> int:
        """Numbers this layer keeps for each lane."""
        return self.stride * self.out_channels

    def __call__(self, x: mx.array, history: History) -> mx.array:
        """`x [w, T, in]` → `[w, T · stride, out]`."""
        w, steps, in_channels = x.shape
        spread = x @ self.weight.reshape(-1, in_channels).T  # [w, T, 2 · stride · out]
        halves = spread.reshape(w, steps, 2, self.stride, self.out_channels)
        y, pending = overlap_add(halves, history.take(self.stride, self.out_channels))
        history.leave(pending)  # without the bias, which each output gets once
        return y + self.bias


class Upsample(nn.Module):
    """Each step becomes `stride`, every channel by a kernel of its own; `weight [2 · stride, 1, C]`."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((2 * stride, 1, channels))
        self.stride = stride

    @property
    def history_floats(self) -> int:
        """Numbers this layer keeps for each lane."""
        return self.weight.size // 2

    def __call__(self, x: mx.array, history: History) -> mx.array:
        """`x [w, T, C]` → `[w, T · stride, C]`."""
        w, steps, channels = x.shape
        halves = x[:, :, None] * self.weight[:, 0]  # [w, T, 2 · stride, C]
        y, pending = overlap_add(
            halves.reshape(w, steps, 2, self.stride, channels), history.take(self.stride, channels)
        )
        history.leave(pending)
        return y


def history_floats(module: nn.Module) -> int:
    """Numbers that all the layers inside a module keep for each lane."""
    layers = (CausalConv1d, ConvTranspose1d, Downsample, Upsample)
    floats: list[int] = [layer.history_floats for layer in module.modules() if isinstance(layer, layers)]
    return sum(floats)
