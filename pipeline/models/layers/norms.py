"""Layer norm and RMS norm, in front of each block of a model; the config names which (`make_norm`)."""

from typing import Literal

import mlx.core as mx
from mlx import nn

from pipeline import backend
from pipeline.models.layers.linear import CachedTransform

Norm = Literal["layer_norm", "layer_norm_f32", "rms_norm", "rms_norm_f32"]


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
        # On a GPU MLX has a kernel for it. Its CPU fallback broadcasts each constant by one more
        # operation; with constants of the shape of a row, composing it here is cheaper.
        self._composed = backend.prepare().on_cpu
        self._row_constants = (mx.array([[1 / dim]]), mx.array([[self.eps]]))
        self._row = CachedTransform(lambda alpha: alpha[None])

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., D]` → `[..., D]`."""
        full = x.astype(mx.float32) if self.in_f32 else x
        alpha = self["alpha"]
        if self._composed and full.ndim == 2 and full.dtype == alpha.dtype == mx.float32:
            return self._compose(full, self._row(alpha)).astype(x.dtype)
        return mx.fast.rms_norm(full, alpha.astype(full.dtype), self.eps).astype(x.dtype)

    def _compose(self, x: mx.array, alpha: mx.array) -> mx.array:
        """Rows `[n, D]` → `[n, D]`, bit for bit what `mx.fast.rms_norm` gives."""
        scale, eps = self["_row_constants"]
        return x * mx.rsqrt(mx.square(x).sum(axis=-1, keepdims=True) * scale + eps) * alpha


def make_norm(norm: Norm, dim: int) -> LayerNorm | RmsNorm:
    """The norm that a config names."""
    in_f32 = norm.endswith("_f32")
    return (RmsNorm if norm.startswith("rms") else LayerNorm)(dim, in_f32=in_f32)
