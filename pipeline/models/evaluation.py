"""A state is either what it was before a call, or what it is after it, or it is lost and says so.

Models compute new state from old and change neither; nothing is computed before it is
evaluated. So whatever raises before that leaves every lane's state as it was, to the bit. The
evaluation itself writes the new state into the memory of the old one (that is what makes it
affordable): if it fails, neither exists any more, for any lane.

On a GPU a call waits for its results alone. What else the new state needs is computed while the
results are on their way, and the next call, of whichever lanes, comes behind it in the queue; if
it fails, that call says so.
"""

from collections.abc import Sequence

import mlx.core as mx

from pipeline.backend import prepare
from pipeline.errors import StateLostError

# MLX's CPU backend lets about a hundred operations wait at a time, of all threads together. A
# codec's call, queued whole, leaves no place for the language model's hundreds of small ones.
_IN_PARTS = prepare().device == "cpu"


def settle(
    stage: str,
    *results: mx.array,
    state: object = (),
    marks: Sequence[mx.array] = (),
    in_parts: bool = _IN_PARTS,
) -> None:
    """Evaluate a call's results and its new `state`, which from now on is the state.

    `marks`: results on the way to them, in their order, after each of which other stages get a turn.

    Raises:
        StateLostError: it failed.
    """
    try:
        if in_parts:
            for mark in marks:
                mx.eval(mark)
            mx.eval(*results, state)
        else:
            mx.async_eval(*results)
            mx.async_eval(state)
            mx.eval(*results)
    except Exception as error:
        raise StateLostError(f"the {stage} lost its state: {error}") from error
