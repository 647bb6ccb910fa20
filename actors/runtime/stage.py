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

import structlog
import trio

from actors.runtime.channel import Batch, Channel
from actors.runtime.histogram import Timing
from actors.runtime.pinned_thread import Runner
from pipeline.errors import BrokenInvariantError
from pipeline.values import Frame, LaneClosed, LaneEvent, LaneFailed, Span

log = structlog.get_logger()

In = TypeVar("In", bound=Frame)
Out = TypeVar("Out", bound=Frame)
In_contra = TypeVar("In_contra", bound=Frame, contravariant=True)
Out_co = TypeVar("Out_co", bound=Frame, covariant=True)
T = TypeVar("T")


class Worker(Protocol[In_contra, Out_co]):
    """The half of a model actor that lives on its thread: made, used and forgotten there."""

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open, configure or close a lane; give the event as it travels on."""
        ...

    def computes(self, frame: In_contra) -> bool:
        """Whether this frame needs the model; a batch in which none does is not timed."""
        ...

    def run(self, frames: Sequence[In_contra], now_s: float) -> Sequence[Out_co]:
        """One batch, at most one frame per lane, begun at `now_s`; the results in the same order."""
        ...


def header(frame: Frame) -> tuple[int, int, float, float, float, float]:
    """What a frame hands on unchanged to the frame that is made of it: `Frame`'s fields, in their order."""
    return frame.lane, frame.index, frame.captured_ms, frame.received_s, frame.model_s, frame.batch_s


class _Done(NamedTuple, Generic[Out]):
    events: Sequence[LaneEvent]
    frames: Sequence[Out]
    batch_s: float
    failure: Exception | None  # there are no frames: what the worker knows of their lanes is void


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
        self._void: set[int] = set()  # lanes on which the worker failed, until they are closed
        self._serving: tuple[Runner, Worker[In, Out]] | None = None

    async def aside(self, call: Callable[[Worker[In, Out]], T]) -> T:
        """Run `call` with the worker on its thread, between two batches; only once `ready`.

        Raises:
            StalledError: it did not return within `stall_s`.
            Exception: whatever `call` raises.
        """
        assert self._serving is not None, "there is no worker yet"
        runner, worker = self._serving
        return await runner.run(call, worker, stall_s=self._stall_s)

    async def run(self, runner: Runner, load: Callable[[], Worker[In, Out]]) -> None:
        """Load the worker on `runner`, then serve until the inbox is closed and empty; then close the outbox.

        If what follows has ended, so does this, and closes its inbox. Loading may take its time; a
        batch that takes `stall_s` is given up, and the process with it. A batch that fails ends its
        lanes, unless the worker says (`StateLostError`) that no lane is whole any more.

        Raises:
            BrokenInvariantError: the worker lost its state, or stalled, or could not open or close a lane.
            Exception: whatever `load` raises.
        """
        worker = await runner.run(load, abandon_on_cancel=True)
        self._serving = runner, worker
        self.ready.set()
        with contextlib.suppress(trio.EndOfChannel, trio.ClosedResourceError):
            await self._serve(runner, worker)
        # Not where it raised: then its neighbours are cancelled, and must not seem to end by themselves.
        self._inbox.close()
        self._outbox.close()

    async def _serve(self, runner: Runner, worker: Worker[In, Out]) -> None:
        free_s = -math.inf  # until when what was offered meanwhile waited for this stage or the next
        while True:
            await self._inbox.wait_waiting()
            asked_s = trio.current_time()
            # A third batch under way would only keep the first two from their threads. What waits
            # here makes the next one wider.
            await self._outbox.wait_empty()
            async with runner.turn() as place:
                batch = self._sound(self._inbox.take_batch_nowait())
                begun_s = trio.current_time()
                try:
                    done = await place.run(self._work, worker, batch, begun_s, stall_s=self._stall_s)
                except BrokenInvariantError:
                    raise
                except Exception as error:
                    raise BrokenInvariantError(f"the {self.name} failed: {error}") from error
            span = Span(trio.current_time(), done.batch_s)
            if done.failure is not None:
                await self._outbox.put_all(done.events)
                await self._fail(batch, done.failure)
                continue
            handed_on: list[LaneEvent | Out] = [*done.events]
            for asked, frame, offered_s in zip(batch.frames, done.frames, batch.offered_s, strict=True):
                waited_s = max(0.0, free_s - offered_s) + begun_s - max(asked_s, offered_s)
                handed_on.append(
                    dataclasses.replace(
                        frame,
                        model_s=frame.model_s + waited_s + done.batch_s,
                        batch_s=frame.batch_s + done.batch_s,
                        due_s=asked.due_s,
                        spans=None if asked.spans is None else (*asked.spans, span),
                    )
                )
            await self._outbox.put_all(handed_on)
            free_s = trio.current_time()

    def _work(self, worker: Worker[In, Out], batch: Batch[In], now_s: float) -> _Done[Out]:
        """On the thread: what happens to the lanes, then the frames."""
        events = [worker.apply(event) for event in batch.events]
        began_s = time.perf_counter()
        try:
            frames = worker.run(batch.frames, now_s) if batch.frames else ()
        except BrokenInvariantError:
            raise
        except Exception as error:  # noqa: BLE001 - supervised: the batch's lanes end, and are reset before reuse
            return _Done(events, (), 0.0, error)
        batch_s = time.perf_counter() - began_s
        if any(worker.computes(frame) for frame in batch.frames):
            self.timing.add(batch_s)
        return _Done(events, frames, batch_s, None)

    def _sound(self, batch: Batch[In]) -> Batch[In]:
        """Without the frames of lanes on which the worker failed; closing such a lane ends that."""
        self._void.difference_update(event.lane for event in batch.events if isinstance(event, LaneClosed))
        if self._void.isdisjoint(frame.lane for frame in batch.frames):
            return batch
        kept = [
            pair for pair in zip(batch.frames, batch.offered_s, strict=True) if pair[0].lane not in self._void
        ]
        return Batch(batch.events, tuple(f for f, _ in kept), tuple(at for _, at in kept))

    async def _fail(self, batch: Batch[In], failure: Exception) -> None:
        """Say so once, and let it travel with the data: nothing of these lanes follows but their closing."""
        lanes = [frame.lane for frame in batch.frames]
        log.error("batch_failed", stage=self.name, lanes=lanes, exc_info=failure)
        self._void.update(lanes)
        for lane in lanes:
            await self._outbox.put(LaneFailed(lane, self.name))
