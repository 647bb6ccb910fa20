"""The processes of a tensor-parallel model: start-up, signals, failure detection and exit.

Rank 0 serves and decides when all ranks exit; a signal to any rank drains the server. A failed rank is
detected within `stall_s`: if it exited, its connection breaks; if it hangs, its heartbeats stop.

Neighbours: `pipeline.stages.tensor_parallel` runs the model across the ranks. What does not belong here:
anything about a single step.
"""

import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.engine import Engine
from actors.runtime.awake_clock import ABSENT_S
from pipeline import backend, log
from pipeline.config import Settings
from pipeline.errors import (
    EXIT_BROKEN_INVARIANT,
    BrokenInvariantError,
    ConfigError,
    RanksLostError,
    StartupError,
)
from pipeline.stages.batch import bucket_widths
from pipeline.stages.model_stages import ModelStages
from pipeline.stages.tensor_parallel.collective import Collective, Coordinator
from pipeline.system.command import ending_signals

_POLL_S: Final = 0.1
_STEP_TIMEOUT_FACTOR: Final = 6  # of `stall_s`, for a step that may have to compile first

events = structlog.get_logger()


def join_ranks(stages: ModelStages, settings: Settings) -> Collective:
    """Connect to the other ranks and check that all run the same model. Call on the main thread.

    Raises:
        ConfigError: a rank cannot be reached, or runs another model or configuration.
    """
    shard, within_s = stages.shard, settings.ranks.join_s
    assert shard is not None, "the model is not split across ranks"
    structlog.contextvars.bind_contextvars(rank=shard.rank)  # mlx.launch merges the logs of all ranks
    events.info("joining", ranks=shard.size, or_killed_after_s=within_s)
    log.flush()  # the alarm of `joined_group` ends the process at once
    try:
        with backend.joined_group(within_s) as group:
            return stages.collective(group)
    except RanksLostError as error:
        raise ConfigError("mlx.launch", f"not all ranks started: {error}") from None


def run_coordinator(stages: ModelStages, settings: Settings, serve: Callable[[Coordinator], int]) -> int:
    """Run rank 0: call `serve`, then end the other ranks with its exit code and return it."""
    coordinator = Coordinator(join_ranks(stages, settings))
    code = EXIT_BROKEN_INVARIANT
    try:
        code = serve(coordinator)
    except StartupError as error:
        code = error.exit_code
        raise
    finally:
        if coordinator.silent_s(stepping=True):
            events.critical("ranks_silent", problem="another rank has not finished a step")
        coordinator.end(code)
    return code


class AwakeSilence:
    """How long another rank has been silent, without the time in which this process was suspended.

    Asked every `_POLL_S`; a much longer pause is an absence of this process.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._asked_s = now_s()
        self._absences: list[tuple[float, float]] = []  # (ended at, seconds)

    def without_absences(self, silent_s: float) -> float:
        """The part of a silence that lasts for `silent_s` by now in which this process was awake."""
        now_s = self._now_s()
        absent_s, self._asked_s = now_s - self._asked_s - _POLL_S, now_s
        if absent_s > ABSENT_S:
            self._absences.append((now_s, absent_s))
        self._absences = [each for each in self._absences if each[0] >= now_s - silent_s]
        return silent_s - sum(seconds for _, seconds in self._absences)


async def monitor_ranks(
    coordinator: Coordinator, engine: Engine, shutdown: trio.Event, stall_s: float
) -> None:
    """Watch the other ranks while rank 0 serves.

    Starts draining when another rank received a signal. Fails the engine when a rank exited or has not
    responded for `stall_s`. A stalled step is also detected by the engine itself, once it is ready.

    Raises:
        RanksLostError: a rank was lost; the sessions have been notified.
    """
    silence = AwakeSilence()
    while True:
        await trio.sleep(_POLL_S)
        if coordinator.leaving and not shutdown.is_set():
            events.info("draining", requested_by="another rank")
            shutdown.set()
        silent_s = max(
            coordinator.silent_s(stepping=False), coordinator.silent_s(stepping=True) / _STEP_TIMEOUT_FACTOR
        )
        lost = coordinator.lost
        if lost is None and silence.without_absences(silent_s) > stall_s:
            lost = RanksLostError(f"another rank has not responded for {stall_s:g} s")
        if lost is not None:
            await engine.fail(lost)
            raise lost


def run_follower(stages: ModelStages, settings: Settings) -> int:
    """Run any other rank until rank 0 ends it or stops responding for `stall_s`; return the exit code.

    Raises:
        StartupError: the ranks do not match, or this rank's shard cannot be loaded.
    """
    follower = stages.follower(join_ranks(stages, settings))
    outcome: list[int | BaseException] = []

    def run() -> None:
        try:
            outcome.append(follower.run())
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            outcome.append(error)

    for number in ending_signals():
        signal.signal(number, lambda *_: follower.leave())
    # Signals are handled on the main thread, so the thread that blocks inside MLX is another one.
    worker = threading.Thread(target=run, name="follower", daemon=True)
    worker.start()
    warmup_steps = len(bucket_widths(stages.lanes))
    try:
        silence = AwakeSilence()
        while not outcome:
            worker.join(_POLL_S)
            warming_up = follower.stepping and follower.steps < warmup_steps
            silent_s = silence.without_absences(follower.silent_s)
            if silent_s > settings.stall_s * (_STEP_TIMEOUT_FACTOR if warming_up else 1):
                raise RanksLostError(f"rank 0 has not responded for {settings.stall_s:g} s")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
    except BrokenInvariantError as error:
        # A failure of this rank fails all ranks, so it is the cause even if rank 0 was lost after it.
        if follower.failure is not None:
            raise follower.failure from None
        events.critical("invariant_broken", problem=str(error))
        return EXIT_BROKEN_INVARIANT
    events.info("ended", by="rank 0", code=outcome[0])
    return outcome[0]
