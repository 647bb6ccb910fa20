"""Linear layers whose transposed weight is computed once and cached, instead of in every step."""

from collections.abc import Callable

import mlx.core as mx
from mlx import nn

Kernel = Callable[[mx.array], mx.array]


class CachedTransform:
    """A function of a weight, computed again only when it is called with another array."""

    def __init__(self, transform: Callable[[mx.array], mx.array]) -> None:
        self._transform = transform
        self._source: mx.array | None = None
        self._result: mx.array

    def __call__(self, weight: mx.array) -> mx.array:
        """The cached result; not yet evaluated the first time."""
        if weight is not self._source:
            self._source, self._result = weight, self._transform(weight)
        return self._result


class Linear(nn.Linear):
    """`nn.Linear` with a cached transpose of `weight [out, in]`, a view that takes no memory."""

    def __init__(self, input_dims: int, output_dims: int, bias: bool = True) -> None:  # noqa: FBT001, FBT002 - the signature of nn.Linear
        super().__init__(input_dims, output_dims, bias)
        self._transposed = CachedTransform(lambda weight: weight.T)
        self.kernel: Kernel | None = None  # see `models.native`

    def materialize(self) -> None:
        """Evaluate the transpose now, on the thread that loads the weights."""
        mx.eval(self._transposed(self["weight"]))

    def __call__(self, x: mx.array) -> mx.array:
        """`[..., in]` → `[..., out]`; one operation for two dimensions, three for more."""
        if self.kernel is not None:
            return self.kernel(x)
        transposed = self._transposed(self["weight"])
        return mx.addmm(self["bias"], x, transposed) if "bias" in self else x @ transposed


def materialize(model: nn.Module) -> None:
    """Evaluate the cached transposes of all linear layers of `model`, on the thread that loads it."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.materialize()
