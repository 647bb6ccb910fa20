"""Several products with one vector, taken as one: it is read once, and so is the queue behind it."""

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn


class Products:
    """What each of several layers without bias, of one shape, makes of the same input.

    Their weights are laid behind each other, once, and are from then on views of the whole: it
    costs no memory. Where one of them is quantized, each is asked by itself.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._whole: mx.array | None = None  # not evaluated yet
        if len(layers) > 1 and all(type(layer) is nn.Linear and "bias" not in layer for layer in layers):
            whole = self._whole = mx.stack([layer.weight for layer in layers])  # [n, out, in]
            for layer, weight in zip(layers, whole, strict=True):
                layer.weight = weight

    def settle(self) -> None:
        """Lay the weights out now, on the thread whose they are."""
        if self._whole is not None:
            mx.eval(self._whole)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """`x [w, 1, in]` → one `[w, 1, out]` for each layer."""
        if self._whole is None:
            return [layer(x) for layer in self._layers]
        layers, out, _ = self._whole.shape
        return list(mx.split(x @ self._whole.reshape(layers * out, -1).T, layers, axis=-1))
