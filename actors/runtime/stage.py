"""Take what waits, run it as one batch on a thread, pass it on: one loop for all three models.

Lane events are applied in their order among the frames, on the thread that holds the model's
state, and travel on with the data. The loop is work-conserving: it never waits for a fuller
batch, so a lone session never waits for another one.

Neighbours: what each model does with a batch is in `actors.encoder`, `actors.stepper` and
`actors.decoder`; where its calls run is in `pinned_thread` and `thread_pool`.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import structlog
import trio

from actors.runtime.channel import Batch, Channel
from actors.runtime.histogram import Histogram
from actors.runtime.pinned_thread import Runner
from pipeline.errors import BrokenInvariantError
from pipeline.log import error_facts
from pipeline.values import (
    Frame,
    FrameHeader,
    LaneClosed,
    LaneEvent,
    LaneFailed,
    LaneOpened,
    SamplingParams,
    Span,
)

log = structlog.get_logger()

In = TypeVar("In", bound=Frame)
Out = TypeVar("Out", bound=Frame)
In_contra = TypeVar("In_contra", bound=Frame, contravariant=True)
Out_co = TypeVar("Out_co", bound=Frame, covariant=True)
T = TypeVar("T")


class Worker(Protocol[In_contra, Out_co]):
    """The part of a model actor that is loaded on its thread and used only there."""

    def apply(self, event: LaneEvent) -> LaneEvent:
        """Open, configure or close a lane; return the event as it travels on."""
        ...

    def computes(self, frame: In_contra) -> bool:
        """Whether this frame needs the model; a batch in which none does is not timed."""
        ...

    def run(self, frames: Sequence[In_contra], now_s: float) -> Sequence[Out_co]:
        """One batch, at most one frame per lane, begun at `now_s`; the results in the same order.

        A result has the header of its frame.
        """
        ...


class WaitClock:
    """How long the frames of a batch waited for a busy model: for the batch before, then for a thread."""

    def __init__(self) -> None:
        self._busy_until_s = -math.inf
        self._requested_s = self._started_s = 0.0

    def request(self) -> None:
        """There is work: from now on the stage waits for the next one to be free, and for a thread."""
        self._requested_s = trio.current_time()

    def start(self) -> float:
        """The batch begins; return the time."""
        self._started_s = trio.current_time()
        return self._started_s

    def finish(self) -> None:
        """The batch has been passed on."""
        self._busy_until_s = trio.current_time()

    def waited_s(self, offered_s: float) -> float:
        """The wait of a frame offered to the channel at `offered_s`; call between `start` and `finish`."""
        for_previous_batch_s = max(0.0, self._busy_until_s - offered_s)
        for_thread_s = self._started_s - max(self._requested_s, offered_s)
        return for_previous_batch_s + for_thread_s


class _Done(NamedTuple, Generic[Out]):
    events: Sequence[LaneEvent]
    frames: Sequence[Out]
    batch_s: float
    failure: Exception | None  # then there are no frames, and the worker's state of their lanes is invalid


class Trial(NamedTuple, Generic[Out]):
    """What a batch outside of any session gave, and how long each of its steps took."""

    frames: Sequence[Out]
    steps_s: Sequence[float]


class Stage(Generic[In, Out]):
    """One model actor: a worker between two channels.

    Attributes:
        ready: set once the model is loaded.
        timing: durations of batches, measured on the thread.
    """

    def __init__(self, name: str, inputs: Channel[In], outputs: Channel[Out], *, stall_s: float) -> None:
        self.name = name
        self.timing = Histogram()
        self.ready = trio.Event()
        self._inputs = inputs
        self._outputs = outputs
        self._stall_s = stall_s
        self._turn = trio.Lock()  # of a batch or a call: a pool would run them on two threads at once
        self._failed_lanes: set[int] = set()  # on which the worker failed, until they are closed
        self._serving: tuple[Runner, Worker[In, Out]] | None = None

    async def call_between_batches(self, call: Callable[[Worker[In, Out]], T]) -> T:
        """Run `call` with the worker on its thread, between two batches; only once `ready`.

        Of calls and batches that wait, the one that has waited longest is next.

        Raises:
            ThreadStalledError: it did not return within `stall_s`.
            Exception: whatever `call` raises.
        """
        assert self._serving is not None, "there is no worker yet"
        runner, worker = self._serving
        async with self._turn:
            return await runner.run(call, worker, stall_s=self._stall_s)

    async def run_trial(self, frames: Sequence[In], steps: int) -> "Trial[Out]":
        """Run `frames` as one batch on freshly opened lanes, `steps` times; no session may have these lanes.

        Returns the last results, and the seconds of each step on the thread.
        """
        return await self.call_between_batches(lambda worker: _trial(worker, frames, steps))

    @property
    def busy_s(self) -> float:
        """Time spent in batches so far."""
        return self.timing.total_s

    async def run(self, runner: Runner, load: Callable[[], Worker[In, Out]]) -> None:
        """Load the worker on `runner`, serve until its input is closed and empty, then close its output.

        If the next stage has ended, this one ends too, and closes its input. Loading may take any
        time; a batch that takes `stall_s` is given up, and the process ends. A batch that fails
        ends its lanes, unless the worker reports (`StateLostError`) that no lane's state is valid.

        Raises:
            BrokenInvariantError: the worker lost its state, stalled, or could not open or close a lane.
            Exception: whatever `load` raises.
        """
        worker = await runner.run(load, abandon_on_cancel=True)
        self._serving = runner, worker
        self.ready.set()
        runner.expect(self._has_work)
        try:
            with contextlib.suppress(trio.EndOfChannel, trio.ClosedResourceError):
                await self._serve(runner, worker)
        finally:
            runner.expect(lambda: False)
        # Not where it raised: its neighbours are cancelled then, and must not seem to end by themselves.
        self._inputs.close()
        self._outputs.close()

    def _has_work(self) -> bool:
        return not self._inputs.is_empty and self._outputs.is_empty

    async def _serve(self, runner: Runner, worker: Worker[In, Out]) -> None:
        waits = WaitClock()
        while True:
            await self._inputs.wait_waiting()
            waits.request()
            # A third batch under way would only keep the first two from their threads. What waits
            # here makes the next batch wider.
            await self._outputs.wait_empty()
            async with self._turn, runner.acquire() as thread:
                batch = self._drop_failed(self._inputs.take_batch_nowait())
                started_s = waits.start()
                try:
                    done = await thread.run(self._work, worker, batch, started_s, stall_s=self._stall_s)
                except BrokenInvariantError:
                    raise
                except Exception as error:
                    raise BrokenInvariantError(f"the {self.name} failed: {error}") from error
                # With the thread still held, so that the next stage can ask for it before those upstream.
                if done.failure is None:
                    await self._outputs.put_all([*done.events, *self._results(batch, done, waits)])
                    waits.finish()
                else:
                    await self._outputs.put_all([*done.events, *self._failures(batch, done.failure)])

    def _work(self, worker: Worker[In, Out], batch: Batch[In], now_s: float) -> _Done[Out]:
        """On the thread: first what happens to the lanes, then the frames."""
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

    def _results(self, batch: Batch[In], done: _Done[Out], waits: WaitClock) -> Iterable[Out]:
        """The results, each with the time that it took in its header."""
        span = Span(trio.current_time(), done.batch_s)
        for frame, offered_s in zip(done.frames, batch.offered_s, strict=True):
            waited_s = waits.waited_s(offered_s)
            yield dataclasses.replace(frame, header=_after_batch(frame.header, waited_s, span))

    def _drop_failed(self, batch: Batch[In]) -> Batch[In]:
        """The batch without the frames of failed lanes; a lane is not failed any more once it is closed."""
        self._failed_lanes.difference_update(e.lane for e in batch.events if isinstance(e, LaneClosed))
        if self._failed_lanes.isdisjoint(frame.lane for frame in batch.frames):
            return batch
        kept = [
            (frame, offered_s)
            for frame, offered_s in zip(batch.frames, batch.offered_s, strict=True)
            if frame.lane not in self._failed_lanes
        ]
        return Batch(batch.events, tuple(f for f, _ in kept), tuple(at for _, at in kept))

    def _failures(self, batch: Batch[In], failure: Exception) -> Iterable[LaneFailed]:
        """Log the failure once, and the event for each of its lanes, after which only a closing follows."""
        lanes = [frame.lane for frame in batch.frames]
        log.error("batch_failed", stage=self.name, lanes=lanes, **error_facts(failure))
        self._failed_lanes.update(lanes)
        return [LaneFailed(lane, self.name) for lane in lanes]


def _trial(worker: Worker[In, Out], frames: Sequence[In], steps: int) -> Trial[Out]:
    for frame in frames:
        worker.apply(LaneOpened(frame.lane, SamplingParams()))
    results: Sequence[Out] = ()
    steps_s = []
    for _ in range(steps):
        began_s = time.perf_counter()
        results = worker.run(frames, began_s)
        steps_s.append(time.perf_counter() - began_s)
    for frame in frames:
        worker.apply(LaneClosed(frame.lane))
    return Trial(results, steps_s)


def _after_batch(header: FrameHeader, waited_s: float, span: Span) -> FrameHeader:
    return dataclasses.replace(
        header,
        model_s=header.model_s + waited_s + span.batch_s,
        batch_s=header.batch_s + span.batch_s,
        spans=None if header.spans is None else (*header.spans, span),
    )
