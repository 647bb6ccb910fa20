"""Several products with one vector, taken as one: it is read once, and so is the queue behind it."""

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from pipeline.models.layers.linear import Linear


class Products:
    """What each of several layers without bias, of one shape, makes of the same input.

    Their weights are laid behind each other, once, and are from then on views of the whole: it
    costs no memory. Where one of them is quantized, each is asked by itself.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._turned: mx.array | None = None  # not evaluated yet
        if len(layers) > 1 and all(type(layer) is Linear and "bias" not in layer for layer in layers):
            whole = mx.stack([layer.weight for layer in layers])  # [n, out, in]
            self._turned = whole.reshape(-1, whole.shape[-1]).T
            for layer, weight in zip(layers, whole, strict=True):
                layer.weight = weight

    def settle(self) -> None:
        """Lay the weights out now, on the thread whose they are."""
        if self._turned is not None:
            mx.eval(self._turned)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """`x [w, in]` → one `[w, out]` for each layer."""
        if self._turned is None:
            return [layer(x) for layer in self._layers]
        return list(mx.split(x @ self._turned, len(self._layers), axis=-1))
