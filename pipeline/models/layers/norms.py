"""What brings a vector to unit size before a layer looks at it, spelt for the device that computes it."""

from typing import Literal

import mlx.core as mx
from mlx import nn

from pipeline.backend import prepare
from pipeline.models.layers.linear import Once

Norm = Literal["layer_norm", "layer_norm_f32", "rms_norm", "rms_norm_f32"]

# On a GPU MLX has a kernel for it. On the CPU it takes it apart, with numbers that have to be
# spread out to the shape of what they meet, each by one more operation.
_BY_HAND = prepare().device == "cpu"


class LayerNorm(nn.Module):
    """Zero mean and unit variance, then a weight and a bias per channel."""

    def __init__(self, dim: int, *, in_f32: bool) -> None:
        super().__init__()
        self.weight = mx.ones((dim,))
        self.bias = mx.zeros((dim,))
        self.in_f32 = in_f32
        self.eps = 1e-8 if in_f32 else 1e-5

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., D]` → `[..., D]`."""
        full = x.astype(mx.float32) if self.in_f32 else x
        return mx.fast.layer_norm(full, self.weight, self.bias, self.eps).astype(x.dtype)


class RmsNorm(nn.Module):
    """Unit root mean square, then a weight per channel."""

    def __init__(self, dim: int, *, in_f32: bool) -> None:
        super().__init__()
        self.alpha = mx.ones((dim,))
        self.in_f32 = in_f32
        self.eps = 1e-8 if in_f32 else 1e-5
        # Of the shapes that one row has: there nothing is left to be spread out but the scale.
        self._of_a_row = (mx.array([[1 / dim]]), mx.array([[self.eps]]))
        self._row = Once(lambda alpha: alpha[None])

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., D]` → `[..., D]`."""
        full = x.astype(mx.float32) if self.in_f32 else x
        alpha = self["alpha"]
        if _BY_HAND and full.ndim == 2 and full.dtype == alpha.dtype == mx.float32:
            return self._by_hand(full, self._row(alpha)).astype(x.dtype)
        return mx.fast.rms_norm(full, alpha.astype(full.dtype), self.eps).astype(x.dtype)

    def _by_hand(self, x: mx.array, alpha: mx.array) -> mx.array:
        """The same numbers, to the bit, of rows `[n, D]`."""
        share, eps = self["_of_a_row"]
        return x * mx.rsqrt(mx.square(x).sum(axis=-1, keepdims=True) * share + eps) * alpha


def make_norm(norm: Norm, dim: int) -> LayerNorm | RmsNorm:
    """The norm a config names."""
    in_f32 = norm.endswith("_f32")
    return (RmsNorm if norm.startswith("rms") else LayerNorm)(dim, in_f32=in_f32)
