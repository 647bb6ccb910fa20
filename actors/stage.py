"""Take what waits, run it as one batch on the stage's own thread, pass it on: one loop for all three models.

Lane events are applied in their order among the frames, on the thread that holds the
state, and travel on with the data. The loop is work-conserving: it never waits for a
fuller batch, so a lone session never waits for anybody's tick.

The models' particulars are next door in `encoder`, `stepper` and `decoder`.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import trio

from actors.channel import Batch, Channel
from actors.pinned import Runner
from actors.timing import Timing
from pipeline.errors import BrokenInvariantError
from pipeline.values import Frame, LaneEvent

In = TypeVar("In", bound=Frame)
Out = TypeVar("Out", bound=Frame)
In_contra = TypeVar("In_contra", bound=Frame, contravariant=True)
Out_co = TypeVar("Out_co", bound=Frame, covariant=True)


class Worker(Protocol[In_contra, Out_co]):
    """The half of a model actor that lives on its thread: made, used and forgotten there."""

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open, configure or close a lane; give the event as it travels on."""
        ...

    def computes(self, frame: In_contra) -> bool:
        """Whether this frame needs the model; a batch in which none does is not timed."""
        ...

    def run(self, frames: Sequence[In_contra]) -> Sequence[Out_co]:
        """One batch, at most one frame per lane; the results in the same order."""
        ...


def header(frame: Frame) -> tuple[int, int, float, float, float, float]:
    """What a frame hands on unchanged to the frame that is made of it: `Frame`'s fields, in their order."""
    return frame.lane, frame.index, frame.captured_ms, frame.received_s, frame.model_s, frame.batch_s


class _Done(NamedTuple, Generic[Out]):
    events: Sequence[LaneEvent]
    frames: Sequence[Out]
    batch_s: float


class Stage(Generic[In, Out]):
    """One model actor: a worker between two channels.

    `timing` is of batches, measured on the thread. `ready` is set once the model is loaded.
    """

    def __init__(self, name: str, inbox: Channel[In], outbox: Channel[Out], *, stall_s: float) -> None:
        self.name = name
        self.timing = Timing()
        self.ready = trio.Event()
        self._inbox = inbox
        self._outbox = outbox
        self._stall_s = stall_s

    async def run(self, runner: Runner, load: Callable[[], Worker[In, Out]]) -> None:
        """Load the worker on `runner`, then serve until the inbox is closed and empty; then close the outbox.

        If what follows has ended, so does this, and closes its inbox. Loading may take its time; a
        batch that takes `stall_s` is given up, and the process with it.

        Raises:
            BrokenInvariantError: the worker failed (its exception is the cause), or stalled.
            Exception: whatever `load` raises.
        """
        worker = await runner.run(load, abandon_on_cancel=True)
        self.ready.set()
        with contextlib.suppress(trio.EndOfChannel, trio.ClosedResourceError):
            await self._serve(runner, worker)
        # Not where it raised: then its neighbours are cancelled, and must not seem to end by themselves.
        self._inbox.close()
        self._outbox.close()

    async def _serve(self, runner: Runner, worker: Worker[In, Out]) -> None:
        free_s = -math.inf  # until when what was offered meanwhile waited for this stage or the next
        while True:
            batch = await self._inbox.take_batch()
            try:
                done = await runner.run(self._work, worker, batch, stall_s=self._stall_s)
            except BrokenInvariantError:
                raise
            except Exception as error:
                raise BrokenInvariantError(f"the {self.name} failed: {error}") from error
            for event in done.events:
                await self._outbox.put(event)
            for frame, offered_s in zip(done.frames, batch.offered_s, strict=True):
                waited_s = max(0.0, free_s - offered_s)
                await self._outbox.put(
                    dataclasses.replace(
                        frame,
                        model_s=frame.model_s + waited_s + done.batch_s,
                        batch_s=frame.batch_s + done.batch_s,
                    )
                )
            free_s = trio.current_time()

    def _work(self, worker: Worker[In, Out], batch: Batch[In]) -> _Done[Out]:
        """On the thread: what happens to the lanes, then the frames."""
        events = [worker.apply(event) for event in batch.events]
        began_s = time.perf_counter()
        frames = worker.run(batch.frames) if batch.frames else ()
        batch_s = time.perf_counter() - began_s
        if any(worker.computes(frame) for frame in batch.frames):
            self.timing.add(batch_s)
        return _Done(events, frames, batch_s)
