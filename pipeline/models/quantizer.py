"""The split residual vector quantizer of Mimi: features ↔ codes.

The first codebook ("semantic") and the others ("acoustic") quantize the same features
through projections of their own. Always float32, whatever the dtype of the network around it:
a small error can change a code, and with it all levels after it. Source: Défossez et al.
2024, "Moshi", section 3.3; package `moshi`, `quantization/`.
"""

from typing import Protocol

import mlx.core as mx
from mlx import nn

from pipeline.models.checkpoint.mimi_config import QuantizerConfig


def half_squares(codebooks: mx.array) -> mx.array:
    """|c|² / 2 of every centroid: `[..., d]` → `[...]`."""
    return codebooks.square().sum(axis=-1) / 2


class ResidualVectorQuantizer(nn.Module):
    """Each level quantizes the residual of the levels before it.

    `codebooks [K, bins, d]`; `half_squares [K, bins]` is always that of the codebooks.
    """

    def __init__(self, levels: int, width: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.input_proj = mx.zeros((config.dimension, width))
        self.output_proj = mx.zeros((width, config.dimension))
        self.codebooks = mx.zeros((levels, config.bins, config.dimension))
        self.half_squares = half_squares(self.codebooks)

    def encode(self, x: mx.array) -> mx.array:
        """`x [N, D]` → the nearest centroid at each level, `[N, K]`, int32."""
        residual = x @ self.input_proj.T  # [N, d]
        codes = []
        for codebook, half_square in zip(self.codebooks, self.half_squares, strict=True):
            # |x − c|² = |x|² − 2 (x·c − |c|²/2), and |x|² is the same for all centroids.
            distance = mx.addmm(half_square, residual, codebook.T, alpha=-1.0)  # [N, bins]
            code = mx.argmin(distance, axis=-1)  # [N]
            residual = residual - codebook[code]
            codes.append(code)
        return mx.stack(codes, axis=-1).astype(mx.int32)

    def decode(self, codes: mx.array) -> mx.array:
        """`codes [N, k ≤ K]` → the sum of their centroids, projected, `[N, D]`."""
        _, bins, dimension = self.codebooks.shape
        rows = codes + mx.arange(codes.shape[1], dtype=mx.int32) * bins  # [N, k]
        centroids = self.codebooks.reshape(-1, dimension)[rows]  # [N, k, d]
        return centroids.sum(axis=1) @ self.output_proj.T


class QuantizerKernel(Protocol):
    """Computes both quantizers at once."""

    def encode(self, x: mx.array) -> mx.array:
        """`x [N, D]` float32 → `[N, K]`."""

    def decode(self, codes: mx.array) -> mx.array:
        """Codes `[w, k ≤ K, T]` → `[w, T, D]`."""


class SplitResidualVectorQuantizer(nn.Module):
    """Codebook 0 and the others, at least one; both quantize the same features."""

    def __init__(self, num_codebooks: int, width: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.rvq_first = ResidualVectorQuantizer(1, width, config)
        self.rvq_rest = ResidualVectorQuantizer(num_codebooks - 1, width, config)
        self.kernel: QuantizerKernel | None = None  # see `models.native`

    def encode(self, x: mx.array) -> mx.array:
        """`x [w, T, D]` → codes `[w, K, T]`."""
        w, steps, dimension = x.shape
        flat = x.reshape(w * steps, dimension).astype(mx.float32)
        if self.kernel is not None:
            return self.kernel.encode(flat).reshape(w, steps, -1).swapaxes(1, 2)
        codes = [self.rvq_first.encode(flat), self.rvq_rest.encode(flat)]  # [w · T, 1], [w · T, K - 1]
        return mx.concatenate(codes, axis=-1).reshape(w, steps, -1).swapaxes(1, 2)

    def decode(self, codes: mx.array) -> mx.array:
        """Codes `[w, k ≤ K, T]` → `[w, T, D]`, float32."""
        if self.kernel is not None:
            return self.kernel.decode(codes)
        w, levels, steps = codes.shape
        flat = codes.swapaxes(1, 2).reshape(w * steps, levels)  # [w · T, k]
        x = self.rvq_first.decode(flat[:, :1])
        if levels > 1:
            x = x + self.rvq_rest.decode(flat[:, 1:])
        return x.reshape(w, steps, -1)
