"""Causal streaming convolutions over `[w, T, C]`; their past samples are an argument.

Channels come last inside the codec; only `Mimi`'s own interface is `[w, 1, S]`. The past of all
layers is in a `ConvState`, one packed row per lane, so that a whole network takes one gather
and one scatter, however many layers it has. Which row belongs to which lane: `mimi`.

Arithmetic after the published Mimi (Défossez et al. 2024, "Moshi", section 3.3; package
`moshi`, `modules/conv.py` and `modules/resample.py`).
"""

from collections.abc import Callable

import mlx.core as mx
from mlx import nn

from pipeline import backend
from pipeline.models.evaluation import EvalSchedule

# From `x [w, T, in]` and the past samples `[w, floats]`: the output, and what becomes the past.
Kernel = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]


class ConvState:
    """The past of every layer during one call, popped and pushed in the order in which the layers run.

    `packed [w, floats]` is the state before the call; `packed()` is the state after it.
    `schedule`: where layers add the points at which the call may be evaluated in parts.
    """

    def __init__(self, packed: mx.array, schedule: EvalSchedule | None = None) -> None:
        self._before = packed
        self._offset = 0
        self._after: list[mx.array] = []
        self._schedule = schedule

    def pop(self, steps: int, channels: int) -> mx.array:
        """The next layer's past, `[w, steps, channels]`."""
        end = self._offset + steps * channels
        past = self._before[:, self._offset : end].reshape(-1, steps, channels)
        self._offset = end
        return past

    def push(self, past: mx.array) -> None:
        """Store `[w, steps, channels]`, which the same layer pops in the next call."""
        self._after.append(past.reshape(past.shape[0], -1))

    def eval_point(self, x: mx.array) -> None:
        """Let the call be evaluated up to `x` on its own, where it is evaluated in parts."""
        if self._schedule is not None:
            self._schedule.add(x)

    def packed(self) -> mx.array:
        """The state after the call, `[w, floats]`; each layer must have popped and pushed its part."""
        packed = mx.concatenate(self._after, axis=1)
        assert packed.shape == self._before.shape
        assert self._offset == packed.shape[1]
        return packed


class CausalConv1d(nn.Module):
    """A strided, dilated convolution that depends on no later sample; concatenated steps equal the whole.

    The past before the first sample is zeros. `weight [out, kernel, in]`.
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
        # MLX's CPU convolution copies its input once for every tap; products of the input with
        # the transposed weights copy the weights instead.
        self.by_products = backend.prepare().on_cpu

    @property
    def conv_state_floats(self) -> int:
        """Numbers that this layer keeps for each lane."""
        return self.past_steps * self.in_channels

    def __call__(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """`x [w, T, in]` → `[w, T / stride, out]`."""
        if self.past_steps:
            past = conv_state.pop(self.past_steps, self.in_channels)  # [w, P, in]
            x = mx.concatenate([past, x], axis=1)  # [w, P + T, in]
            conv_state.push(x[:, -self.past_steps :])
        if self.by_products and self._has_fewer_weights_than(x):
            return self._by_products(x)
        y = mx.conv1d(x, self.weight, stride=self.stride, dilation=self.dilation)  # [w, T / stride, out]
        return y + self.bias

    def _has_fewer_weights_than(self, x: mx.array) -> bool:
        """Whether transposing the weights is cheaper than copying `x [w, P + T, in]` for every tap."""
        divides = self.weight.shape[1] % self.stride == 0
        return divides and self.in_channels > 1 and self.weight.size < x.shape[1] * x.shape[2]

    def _by_products(self, x: mx.array) -> mx.array:
        """`x [w, P + T, in]` → `[w, T / stride, out]` by one product for every `stride` taps."""
        w, steps, width = x.shape[0], x.shape[1] // self.stride, self.stride * self.in_channels
        x = x.reshape(w, steps, width)
        taps = self.weight.reshape(len(self.weight), -1, width).transpose(1, 2, 0)  # [n, width, out]
        steps -= (len(taps) - 1) * self.dilation
        y = self.bias
        for tap, weight in enumerate(taps):
            window = x[:, tap * self.dilation :][:, :steps]
            y = mx.addmm(y, window, mx.broadcast_to(weight, (w, *weight.shape)))
        return y


class ConvDownsample1d(nn.Module):
    """`stride` steps become one; the past before the first step is that step, repeated.

    `weight [C, 2 · stride, C]`.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, 2 * stride, channels))
        self.stride = stride
        self.channels = channels
        self.kernel: Kernel | None = None  # see `models.native`

    @property
    def conv_state_floats(self) -> int:
        """Numbers that this layer keeps for each lane."""
        return self.stride * self.channels

    def __call__(self, x: mx.array, conv_state: ConvState, fresh: mx.array) -> mx.array:
        """`x [w, n · stride, C]` → `[w, n, C]`; `fresh [w]`: the rows that have no past yet."""
        past = conv_state.pop(self.stride, x.shape[2])  # [w, stride, C]
        past = mx.where(fresh[:, None, None], x[:, :1], past)
        if self.kernel is not None:
            y, after = self.kernel(x, past.reshape(len(x), -1))
            conv_state.push(after)
            return y
        x = mx.concatenate([past, x], axis=1)  # [w, (1 + n) · stride, C]
        conv_state.push(x[:, -self.stride :])
        return mx.conv1d(x, self.weight, stride=self.stride)


def overlap_add(halves: mx.array, pending: mx.array) -> tuple[mx.array, mx.array]:
    """Add each step's second half to the first half of the next step.

    `halves [w, T, 2, stride, C]` and `pending [w, stride, C]`, the second half of the previous
    step, → `[w, T · stride, C]` and the new pending half.
    """
    w, steps, _, stride, channels = halves.shape
    second = mx.concatenate([pending[:, None], halves[:, :, 1]], axis=1)  # [w, T + 1, stride, C]
    y = halves[:, :, 0] + second[:, :-1]  # [w, T, stride, C]
    return y.reshape(w, steps * stride, channels), second[:, -1]


class ConvTranspose1d(nn.Module):
    """Each step becomes `stride`, by a kernel of twice that; concatenated steps equal the whole.

    One matrix product and an overlap-add, because MLX's own transposed convolution is about
    fifty times slower on the CPU. `weight [2 · stride, out, in]`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((2 * stride, out_channels, in_channels))
        self.bias = mx.zeros((out_channels,))
        self.stride = stride
        self.out_channels = out_channels

    @property
    def conv_state_floats(self) -> int:
        """Numbers that this layer keeps for each lane."""
        return self.stride * self.out_channels

    def __call__(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """`x [w, T, in]` → `[w, T · stride, out]`."""
        w, steps, in_channels = x.shape
        spread = x @ self.weight.reshape(-1, in_channels).T  # [w, T, 2 · stride · out]
        halves = spread.reshape(w, steps, 2, self.stride, self.out_channels)
        y, pending = overlap_add(halves, conv_state.pop(self.stride, self.out_channels))
        conv_state.push(pending)  # without the bias, which is added once to each output
        return y + self.bias


class ConvTrUpsample1d(nn.Module):
    """Each step becomes `stride`, by one kernel per channel (depthwise); `weight [2 · stride, 1, C]`."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.weight = mx.zeros((2 * stride, 1, channels))
        self.stride = stride

    @property
    def conv_state_floats(self) -> int:
        """Numbers that this layer keeps for each lane."""
        return self.weight.size // 2

    def __call__(self, x: mx.array, conv_state: ConvState) -> mx.array:
        """`x [w, T, C]` → `[w, T · stride, C]`."""
        w, steps, channels = x.shape
        halves = x[:, :, None] * self.weight[:, 0]  # [w, T, 2 · stride, C]
        y, pending = overlap_add(
            halves.reshape(w, steps, 2, self.stride, channels), conv_state.pop(self.stride, channels)
        )
        conv_state.push(pending)
        return y


def conv_state_floats(module: nn.Module) -> int:
    """Numbers that all layers inside a module keep for each lane."""
    layers = (CausalConv1d, ConvTranspose1d, ConvDownsample1d, ConvTrUpsample1d)
    floats: list[int] = [layer.conv_state_floats for layer in module.modules() if isinstance(layer, layers)]
    return sum(floats)
