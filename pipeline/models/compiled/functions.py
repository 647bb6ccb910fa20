"""Compiled functions: a whole call of a model is traced once in Python, then replayed by MLX.

A step of a language model is thousands of operations. Building its graph in Python takes longer
than a GPU takes to compute it; a compiled function is replayed by MLX itself, with operations
fused where possible. Weights are constants of the graph, and everything that changes is an
array argument: a Python number would become a constant, and each value would be compiled separately.

What is compiled: `lm`, `mimi`. How arguments are packed: `inputs`. Which lane is computed in
which slot of the batch: `slots`. Whether this machine compiles: `pipeline.backend`.
"""

from collections.abc import Callable
from functools import partial

import mlx.core as mx

from pipeline.models.compiled.slots import ShapeKey

# Packed integers, packed floats and the state's arrays → the results and the new state's arrays.
Function = Callable[[ShapeKey, mx.array, mx.array, list[mx.array]], tuple[list[mx.array], list[mx.array]]]


class CompiledFunctions:
    """One function, compiled for each `ShapeKey` at the first call with it.

    `traces` counts how often it was traced. The caller keeps no reference to a state's arrays, so
    that MLX writes the new ones into their memory.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._compiled: dict[ShapeKey, Callable[..., tuple[list[mx.array], list[mx.array]]]] = {}
        self.traces = 0

    def __call__(
        self, key: ShapeKey, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        """The function's results; nothing is evaluated yet."""
        if key not in self._compiled:
            self._compiled[key] = mx.compile(partial(self._trace, key))
        return self._compiled[key](integers, floats, state)

    def _trace(
        self, key: ShapeKey, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        self.traces += 1
        return self._function(key, integers, floats, state)
