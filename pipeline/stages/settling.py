"""A state is either what it was before a call, or what it is after it, or it is lost and says so.

Models compute new state from old and change neither; nothing is computed before it is
evaluated. So whatever raises before that leaves every lane's state as it was, to the bit. The
evaluation itself writes the new state into the memory of the old one (that is what makes it
affordable): if it fails, neither exists any more, for any lane.
"""

import mlx.core as mx

from pipeline.errors import StateLostError


def settle(stage: str, *arrays: object) -> None:
    """Evaluate a call's results and its new state, which from now on is the state.

    Raises:
        StateLostError: it failed.
    """
    try:
        mx.eval(*arrays)
    except Exception as error:
        raise StateLostError(f"the {stage} lost its state: {error}") from error
