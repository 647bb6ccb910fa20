"""Several linear layers with the same input, computed as one matrix product."""

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from pipeline.models.layers.linear import Linear


class FusedLinear:
    """The outputs of several layers of one shape, without bias, for the same input.

    Their weights are concatenated once and become views of the result, which takes no further
    memory. If one of them is quantized, or without `fuse`, each layer is computed separately.
    """

    def __init__(self, layers: Sequence[nn.Module], *, fuse: bool = True) -> None:
        self._layers = layers
        self._transposed: mx.array | None = None  # not evaluated yet
        if (
            fuse
            and len(layers) > 1
            and all(type(layer) is Linear and "bias" not in layer for layer in layers)
        ):
            fused = mx.stack([layer.weight for layer in layers])  # [n, out, in]
            self._transposed = fused.reshape(-1, fused.shape[-1]).T
            for layer, weight in zip(layers, fused, strict=True):
                layer.weight = weight

    def materialize(self) -> None:
        """Evaluate the concatenated weights now, on the thread that loads them."""
        if self._transposed is not None:
            mx.eval(self._transposed)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """`x [w, in]` → one `[w, out]` for each layer."""
        # A native kernel reads the weights as they are stored, which may be fewer bits than `x` has.
        if self._transposed is None or getattr(self._layers[0], "kernel", None) is not None:
            return [layer(x) for layer in self._layers]
        return list(mx.split(x @ self._transposed, len(self._layers), axis=-1))
