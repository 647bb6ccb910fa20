"""Exchanges of messages between all ranks of a model, which keep the ranks in step.

In an exchange every rank contributes a message and receives all of them. There is one before each
step; without steps, rank 0 exchanges heartbeats, so that each rank knows that the others are
alive. MLX waits for an exchange in a busy loop; while no session takes steps, the other ranks
are made to sleep until shortly before the next heartbeat.

Rank 0's side is `Coordinator`, the other ranks' `follower`; the messages are in `messages`.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, RanksLostError, WeightsError
from pipeline.stages.tensor_parallel.messages import Command, MessageLayout, RankStatus, StepCommand

HEARTBEAT_S: Final = 1.0  # the longest time between two exchanges
IDLE_S: Final = 1.0  # after this long without a step, the other ranks sleep between heartbeats
IDLE_SLEEP_S: Final = 0.05  # the longest delay of the first step after that
_WAKE_FRACTION: Final = 0.8  # of the sleep, after which the other ranks wait for the next heartbeat
_END_S: Final = 2.0  # the time for sending the end to the other ranks, of which one may have gone


class Collective:
    """The exchanges of one group of ranks, on whichever thread calls them, one at a time.

    Every exchange raises `RanksLostError` when a rank has gone.
    """

    def __init__(self, group: mx.distributed.Group, layout: MessageLayout) -> None:
        self.group = group
        self.layout = layout

    def exchange(self, mine: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """Contribute `mine [1]`; returns the messages of all ranks, `[ranks]`."""
        return self._all_gather(mine.view(np.int32)[None]).reshape(-1).view(self.layout.dtype)

    def check_agreement(self, digest: bytes) -> None:
        """Check that all ranks were started with the same `digest`; before any other exchange.

        Raises:
            ConfigError: they were not.
        """
        mine = np.frombuffer(digest, np.int32)[None]
        for rank, theirs in enumerate(self._all_gather(mine)):
            if not np.array_equal(theirs, mine[0]):
                raise ConfigError(
                    "mlx.launch",
                    f"rank {rank} was started with another configuration, weights, device or version "
                    f"than rank {self.group.rank()}",
                )

    def _all_gather(self, mine: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        try:
            gathered = mx.distributed.all_gather(mx.array(mine), group=self.group)
            mx.eval(gathered)
        except RuntimeError as error:
            raise RanksLostError(f"another rank has ended: {error}") from None
        return np.array(gathered)


class Coordinator:
    """Rank 0's side: takes turns between steps and heartbeats, and knows the status of the other ranks.

    After a failure there is no further exchange: MLX would wait forever.
    """

    def __init__(self, collective: Collective) -> None:
        self.collective = collective
        self._others = collective.group.size() - 1
        self._turn = threading.Lock()
        self._began_s: float | None = None  # of the exchange or step in progress
        self._stepping = False
        self._stepped_s = self._exchanged_s = time.monotonic()
        self._statuses: list[RankStatus] = []
        self._changed = threading.Condition()
        self._lost: RanksLostError | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._send_heartbeats, name="heartbeats", daemon=True).start()

    @property
    def leaving(self) -> bool:
        """Whether another rank was asked to end, so that all should."""
        return any(RankStatus.LEAVING in status for status in self._statuses)

    @property
    def lost(self) -> RanksLostError | None:
        """Why there will be no further exchange; None while there can be."""
        return self._lost

    def silent_s(self, *, stepping: bool) -> float:
        """How long the step, or the heartbeat, in progress has taken; 0 if there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None or self._stepping != stepping else time.monotonic() - began_s

    def wait_loaded(self) -> None:
        """Return when all ranks have loaded their shard.

        Raises:
            WeightsError: one could not.
            RanksLostError: one has gone.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._lost or self._failed() or self._all_loaded())
        if self._lost is not None:
            raise self._lost
        if (rank := self._failed()) is not None:
            raise WeightsError(f"rank {rank}", "could not load its shard of the model; see its own output")

    @contextlib.contextmanager
    def step(self, command: StepCommand) -> Iterator[None]:
        """Make all ranks take a step; within the context there is no other exchange than the step's.

        Raises:
            RanksLostError: a rank has gone.
        """
        with self._exclusive(stepping=True):
            self._exchange(self.collective.layout.pack_step(command))
            yield
            self._stepped_s = time.monotonic()

    def end(self, code: int) -> None:
        """Make the other ranks end with `code`, if they can still be reached."""
        self._ended.set()

        def send() -> None:
            with contextlib.suppress(RanksLostError), self._exclusive(stepping=False):
                self._exchange(self.collective.layout.message(Command.END, value=code))

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(_END_S)

    def _send_heartbeats(self) -> None:
        while not self._ended.wait(IDLE_SLEEP_S):
            now_s = time.monotonic()
            idle = now_s - self._stepped_s > IDLE_S
            if not idle and now_s - self._exchanged_s < HEARTBEAT_S:
                continue
            sleep_ms = round(1000 * IDLE_SLEEP_S * _WAKE_FRACTION) if idle else 0
            try:
                with self._exclusive(stepping=False):
                    if not self._ended.is_set():
                        self._exchange(self.collective.layout.message(Command.HEARTBEAT, value=sleep_ms))
            except RanksLostError:
                return

    @contextlib.contextmanager
    def _exclusive(self, *, stepping: bool) -> Iterator[None]:
        with self._turn:
            if self._lost is not None:
                raise self._lost
            self._stepping, self._began_s = stepping, time.monotonic()
            try:
                yield
            except Exception as error:
                # Also a failure of this rank: the others are in the middle of the step that it left.
                with self._changed:
                    self._lost = RanksLostError(str(error))
                    self._changed.notify_all()
                raise
            finally:
                self._began_s = None

    def _exchange(self, message: npt.NDArray[np.void]) -> None:
        messages = self.collective.exchange(message)
        with self._changed:
            self._statuses = [RankStatus(status) for status in messages["status"][1:].tolist()]
            self._changed.notify_all()
        self._exchanged_s = time.monotonic()

    def _failed(self) -> int | None:
        return next(
            (rank for rank, status in enumerate(self._statuses, 1) if RankStatus.FAILED in status), None
        )

    def _all_loaded(self) -> bool:
        return len(self._statuses) == self._others and all(
            RankStatus.LOADED in status for status in self._statuses
        )
