"""Several processes that share one model, as processes: how they meet, hear signals, fall silent and end.

Rank 0 serves, and says when all end: a signal to any rank drains the service. What rank 0 cannot
say is found out on both sides within `stall_s`: a rank that has ended breaks the connection, and
one that hangs does not answer. How they work together: `pipeline.stages.tensor_parallel.collective`.
"""

import signal
import threading
from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.engine import Line
from pipeline import backend
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError, ConfigError, RanksLostError, StartupError
from pipeline.stages.batch import bucket_widths
from pipeline.stages.chain import Chain
from pipeline.stages.tensor_parallel.collective import Lead, Rounds

BROKEN: Final = 70
_LOOK_S: Final = 0.1
_PATIENCE: Final = 6  # with a step that may have to prepare what it runs

events = structlog.get_logger()


def join(chain: Chain, settings: Settings) -> Rounds:
    """Meet the other ranks, and find out whether all were started for the same; on the main thread.

    Raises:
        ConfigError: they cannot be reached, or were started for something else.
    """
    share, within_s = chain.share, settings.ranks.join_s
    assert share is not None, "the chain was opened for one process"
    structlog.contextvars.bind_contextvars(rank=share.rank)  # their logs may come out of one pipe
    events.info("joining", ranks=share.size, or_killed_after_s=within_s)
    try:
        with backend.joining(within_s) as group:
            return chain.rounds(group)
    except RanksLostError as error:
        raise ConfigError("mlx.launch", f"not all ranks started: {error}") from None


def lead(chain: Chain, settings: Settings, serve: Callable[[Lead], int]) -> int:
    """Be rank 0: `serve`, and let the others end as it ends; the exit code."""
    leading = Lead(join(chain, settings))
    code = BROKEN
    try:
        code = serve(leading)
    except StartupError as error:
        code = error.exit_code
        raise
    finally:
        if leading.silent_s(stepping=True):
            events.critical("ranks_silent", problem="another rank has not taken its part of a step")
        leading.end(code)
    return code


async def attend(leading: Lead, line: Line, shutdown: trio.Event, stall_s: float) -> None:
    """While rank 0 serves: drain when another rank was told to end; break off when one is gone, or silent.

    A step that does not end is noticed by the line itself, once it is ready.

    Raises:
        RanksLostError: and the sessions have been told.
    """
    while True:
        await trio.sleep(_LOOK_S)
        if leading.leaving and not shutdown.is_set():
            events.info("draining", asked_by="another rank")
            shutdown.set()
        silent_s = max(leading.silent_s(stepping=False), leading.silent_s(stepping=True) / _PATIENCE)
        lost = leading.lost
        if lost is None and silent_s > stall_s:
            lost = RanksLostError(f"another rank has not answered for {stall_s:g} s")
        if lost is not None:
            await line.fail(lost)
            raise lost


def follow(chain: Chain, settings: Settings) -> int:
    """Be a rank behind the first until rank 0 ends, or is not heard of for `stall_s`; the exit code.

    Raises:
        StartupError: the ranks do not go together, or this one's share cannot be loaded.
    """
    follower = chain.follower(join(chain, settings))
    outcome: list[int | BaseException] = []

    def run() -> None:
        try:
            outcome.append(follower.run())
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            outcome.append(error)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: follower.leave())
    # The main thread has to hear signals while this one waits inside MLX.
    worker = threading.Thread(target=run, name="follower", daemon=True)
    worker.start()
    rehearsals = len(bucket_widths(chain.lanes))
    try:
        while not outcome:
            worker.join(_LOOK_S)
            rehearsing = follower.stepping and follower.steps < rehearsals
            if follower.silent_s > settings.stall_s * (_PATIENCE if rehearsing else 1):
                raise RanksLostError(f"rank 0 has not been heard of for {settings.stall_s:g} s")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
    except BrokenInvariantError as error:
        # What failed here failed all ranks: rank 0 could not say so any more.
        if follower.failure is not None:
            raise follower.failure from None
        events.critical("broken", problem=str(error))
        return BROKEN
    events.info("ended", by="rank 0", code=outcome[0])
    return outcome[0]
