"""A product with a matrix that is turned over once, and not in every step."""

from collections.abc import Callable

import mlx.core as mx
from mlx import nn


class Once:
    """What `make` makes of a weight, made anew only where it is another weight."""

    def __init__(self, make: Callable[[mx.array], mx.array]) -> None:
        self._make = make
        self._of: mx.array | None = None
        self._made: mx.array

    def __call__(self, weight: mx.array) -> mx.array:
        """Not evaluated yet, the first time."""
        if weight is not self._of:
            self._of, self._made = weight, self._make(weight)
        return self._made


class Linear(nn.Linear):
    """What `nn.Linear` is; `weight [out, in]`, whose other side is a view of it and costs no memory."""

    def __init__(self, input_dims: int, output_dims: int, bias: bool = True) -> None:  # noqa: FBT001, FBT002 - as there
        super().__init__(input_dims, output_dims, bias)
        self._turned = Once(lambda weight: weight.T)

    def settle(self) -> None:
        """Turn the weight over now, on the thread whose it is."""
        mx.eval(self._turned(self["weight"]))

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., in]` → `[..., out]`; of two dimensions it is one operation, of more three."""
        turned = self._turned(self["weight"])
        return mx.addmm(self["bias"], x, turned) if "bias" in self else x @ turned


def settle(model: nn.Module) -> None:
    """Turn all weights of `model` over now, on the thread whose they are."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.settle()
