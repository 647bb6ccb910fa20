"""Evaluates the lazy results of a call, so that a state is whole, or known to be lost.

Models compute a new state from the old one and change neither; MLX computes nothing before it
is evaluated. An exception before the evaluation therefore leaves every lane's state as it was,
bit for bit. The evaluation itself writes the new state into the memory of the old one, which
is what makes it affordable: if it fails, neither exists any more, for any lane.

On a GPU a call waits for its results only. The rest of the new state is computed while the
results are on their way, and the next call, of whichever lanes, is queued behind it; if that
fails, the next call raises.
"""

import mlx.core as mx

from pipeline import backend
from pipeline.errors import StateLostError


class EvalSchedule:
    """Intermediate results of one call, in order, at which it may be evaluated in parts.

    MLX's CPU backend queues at most about a hundred operations at a time, of all threads
    together. A codec's call, queued whole, would leave no room for the hundreds of small
    operations of the language model; evaluated point by point, the stages take turns.
    """

    def __init__(self) -> None:
        self.points: list[mx.array] = []

    def add(self, x: mx.array) -> None:
        """Add `x`, which takes a few dozen operations more than the last point."""
        self.points.append(x)

    def clear(self) -> None:
        """Remove all points, so that another call may use the schedule."""
        self.points.clear()


def evaluate(
    stage: str,
    *results: mx.array,
    state: object = (),
    schedule: EvalSchedule | None = None,
    in_parts: bool | None = None,
) -> None:
    """Evaluate a call's results and its new `state`, which replaces the old one from here on.

    `in_parts`: whether the points of `schedule` are evaluated one by one; by default, on a CPU.

    Afterwards the schedule is empty.

    Raises:
        StateLostError: the evaluation failed.
    """
    if in_parts is None:
        in_parts = backend.prepare().on_cpu
    try:
        if in_parts:
            for point in schedule.points if schedule is not None else ():
                mx.eval(point)
            mx.eval(*results, state)
        else:
            mx.async_eval(*results)
            mx.async_eval(state)
            mx.eval(*results)
    except Exception as error:
        raise StateLostError(f"the {stage} lost its state: {error}") from error
    finally:
        if schedule is not None:
            schedule.clear()
