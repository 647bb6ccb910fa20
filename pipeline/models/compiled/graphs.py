"""Whole calls of a model as compiled graphs: laid out once in Python, then replayed.

A step of a language model is thousands of operations. Laying them out in Python takes longer
than a GPU takes to compute them; a compiled graph is laid out by MLX itself, with what can be
fused fused. Weights are constants of a graph, everything that changes is an array and comes
in as an argument: a Python number would be compiled in, and each value compiled anew.

Who has graphs: `compiled_lm`, `compiled_mimi`. What they are told, and where lanes sit:
`compiled_inputs`, `compiled_places`. Whether this machine computes with them: `backend`.
"""

from collections.abc import Callable
from functools import partial

import mlx.core as mx

from pipeline.models.compiled.slots import Form

# Integers, floats, and the arrays of a state → the results, and those arrays anew.
Function = Callable[[Form, mx.array, mx.array, list[mx.array]], tuple[list[mx.array], list[mx.array]]]


class Graphs:
    """One function, compiled for each form the first time it is called in it.

    `traces` counts how often Python laid a graph out. A state's arrays are handed over: whoever
    calls keeps no reference, so that MLX writes the new ones into their memory.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._compiled: dict[Form, Callable[..., tuple[list[mx.array], list[mx.array]]]] = {}
        self.traces = 0

    def __call__(
        self, form: Form, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        """What the function makes of its arguments; nothing is evaluated yet."""
        if form not in self._compiled:
            self._compiled[form] = mx.compile(partial(self._traced, form))
        return self._compiled[form](integers, floats, state)

    def _traced(
        self, form: Form, integers: mx.array, floats: mx.array, state: list[mx.array]
    ) -> tuple[list[mx.array], list[mx.array]]:
        self.traces += 1
        return self._function(form, integers, floats, state)
