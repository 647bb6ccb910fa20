"""The capacity actor: how many sessions this machine can serve in time, measured at the start, then watched.

At the start all three stages compute at once, on their own threads, as they do under load: a *tick* is the
time that a batch of some width takes then. Sessions are admitted up to the widest tick that fits
`HEADROOM` of a frame's duration; the rest is for ticks slower than the median, for the server's own work and
for whatever else the machine does. From then on `ConcurrencyLimit` corrects the number by how punctual the
answers are.

Neighbours: `sessions.concurrency_limit` has the rules, `sessions.admission` keeps to the limit,
`sessions.dispatcher` counts late frames. What does not belong here: how a stage computes.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import structlog
import trio

from actors.runtime import awake_clock
from actors.runtime.stage import Stage
from actors.sessions.admission import Admission
from actors.sessions.concurrency_limit import OBSERVE_EVERY_S, ConcurrencyLimit, Observation
from actors.sessions.dispatcher import Dispatcher, Punctuality
from pipeline.system import resources
from pipeline.units import FRAME_MS, FRAME_SAMPLES
from pipeline.values import FrameHeader, UserFrame

# Checked with `loadtest --slow`: on one core, three sessions at 0.48 were in time and four at 0.54 were not.
HEADROOM: Final = 0.5
ROUNDS: Final = 3
BUSY_ADVICE: Final = (
    "This machine is too slow or too busy at present: a single conversation is late. "
    "Close other programs, or use a quantized checkpoint or a smaller model."
)
SETTLING_S: Final = 2.0  # after an absence of the process: what is late then says nothing about the machine
NEARLY_SILENT: Final = 1e-3  # noise, so that no shortcut for zeros is measured

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What was measured: `ticks_ms` by width; empty where the number of sessions was set by hand.

    `sessions`: so many can be served in time by this measurement; 0 where not even one can.
    `late_alone`: whether one session alone is late, as it turned out since; None where that is not known. It
    counts for more than the measurement, during which the machine may have been busy.
    """

    lanes: int
    ticks_ms: Mapping[int, float] = field(default_factory=dict)
    late_alone: bool | None = None

    @property
    def sessions(self) -> int:
        """Sessions in time: the widest tick within `HEADROOM` of a frame, with a straight line in between."""
        if not self.ticks_ms:
            return self.lanes
        usable_ms, held = HEADROOM * FRAME_MS, 0
        for (width, ms), (wider, wider_ms) in pairwise([(0, 0.0), *self.ticks_ms.items()]):
            if wider_ms <= usable_ms:
                held = wider
            elif width and ms <= usable_ms:
                held = width + int((wider - width) * (usable_ms - ms) / (wider_ms - ms))
        return held

    @property
    def serves_one(self) -> bool:
        """Whether one session is in time; without headroom, if it must be."""
        return not self.ticks_ms or self.ticks_ms[min(self.ticks_ms)] <= FRAME_MS

    @property
    def advice(self) -> str | None:
        """What helps a machine that cannot serve one session in time; None where it can."""
        if self.late_alone is not None:
            return BUSY_ADVICE if self.late_alone else None
        if self.serves_one:
            return None
        return (
            f"This machine is too slow for this model: 80 ms of audio take {self.ticks_ms[1]:.0f} ms. "
            "Use a quantized checkpoint or a smaller model; “packet-voice doctor” lists what it can run."
        )

    @property
    def as_json(self) -> dict[str, Any]:
        """As `/health` and `doctor` show it; `ticksMs` by width."""
        return {
            "sessions": self.sessions,
            "ticksMs": {str(width): round(ms, 1) for width, ms in self.ticks_ms.items()},
            "advice": self.advice,
        }

    def log(self) -> None:
        """Log what was measured, and what helps where it is not enough."""
        log.info("capacity_measured", sessions=self.sessions, ticks_ms=self.as_json["ticksMs"])
        if self.advice is not None:
            log.warning("too_slow", problem=self.advice)


async def measure_capacity(
    encoder: Stage[Any, Any], stepper: Stage[Any, Any], decoder: Stage[Any, Any], *, lanes: int, delay: int
) -> Capacity:
    """Time all three stages at once at widths 1, 2, 4, … up to `lanes`; no session may be open.

    `delay`: steps before the model's first complete frame. Widths beyond one whose tick takes longer than a
    frame are not tried: they would take longer still. A CPU quota suspends a process for the rest of a
    period, which a short measurement may not meet, so that a tick counts as long as its CPU time takes at
    least.
    """
    cores = resources.granted_cores()
    ticks_ms: dict[int, float] = {}
    for width in widths(lanes):
        noise = np.random.default_rng(width).standard_normal((width, FRAME_SAMPLES)).astype(np.float32)
        user_frames = [
            UserFrame(FrameHeader(lane, 0, 0.0, 0.0), NEARLY_SILENT * pcm) for lane, pcm in enumerate(noise)
        ]
        encoded = await encoder.run_trial(user_frames, 1)
        stepped = await stepper.run_trial(encoded.frames, delay + 1)
        await decoder.run_trial(stepped.frames, 1)  # a width's first batch may compile something
        rounds_s, began_cpu_s = [], time.process_time()
        for _ in range(ROUNDS):
            began_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                for stage, frames in (
                    (encoder, user_frames),
                    (stepper, encoded.frames),
                    (decoder, stepped.frames),
                ):
                    nursery.start_soon(stage.run_trial, frames, 1)
            rounds_s.append(trio.current_time() - began_s)
        cpu_s = (time.process_time() - began_cpu_s) / ROUNDS
        ticks_ms[width] = 1000 * max(statistics.median(rounds_s), cpu_s / cores)
        if ticks_ms[width] > FRAME_MS:
            break
    return Capacity(lanes, ticks_ms)


def widths(lanes: int) -> Sequence[int]:
    """1, 2, 4, … and `lanes`."""
    powers = [1 << n for n in range(lanes.bit_length()) if 1 << n < lanes]
    return [*powers, lanes]


class CapacityControl:
    """Keeps the number of running sessions to what the machine can serve in time.

    Args:
        busy_s: total time that each stage has computed.
        threads: that the stages share.
        on_late_alone: called with whether a single session alone is late, or None if that is not known any
            more, when it changes.
    """

    def __init__(
        self,
        admission: Admission,
        dispatcher: Dispatcher,
        busy_s: Callable[[], Sequence[float]],
        limit: ConcurrencyLimit,
        *,
        threads: int,
        on_late_alone: Callable[[bool | None], None],
    ) -> None:
        self._admission = admission
        self._dispatcher = dispatcher
        self._busy_s = busy_s
        self._limit = limit
        self._threads = threads
        self._on_late_alone = on_late_alone
        self._late_alone: bool | None = None

    async def run(self) -> None:
        """Observe and correct until cancelled."""
        before, before_s, began_s = self._dispatcher.punctuality(), self._busy_s(), trio.current_time()
        due_s = began_s
        clock = awake_clock.install()
        absent_s, settled_s = clock.absent_s, 0.0
        while True:
            due_s = max(due_s, trio.current_time()) + OBSERVE_EVERY_S
            await trio.sleep_until(due_s)
            now, now_s, ended_s = self._dispatcher.punctuality(), self._busy_s(), trio.current_time()
            if clock.absent_s > absent_s:
                absent_s, settled_s = clock.absent_s, ended_s + SETTLING_S
            if ended_s >= settled_s:
                stages_s = [after - before for after, before in zip(now_s, before_s, strict=True)]
                self._observe(now.since(before), stages_s, ended_s - began_s)
            before, before_s, began_s = now, now_s, ended_s

    def _observe(self, seen: Punctuality, stages_s: Sequence[float], elapsed_s: float) -> None:
        sessions = self._admission.statistics()
        before = self._limit.limit
        limit = self._limit.observe(
            Observation(
                frames=seen.frames,
                late=seen.late,
                tight=seen.tight,
                cost_s=sum(stages_s) / max(1, seen.frames),
                # A stage computes one batch at a time, however many threads there are.
                busy=max(sum(stages_s) / self._threads, *stages_s) / elapsed_s,
                running=sessions.running,
                waiting=sessions.queued,
            ),
            trio.current_time(),
        )
        if (late_alone := self._judge_one(trio.current_time())) is not self._late_alone:
            self._late_alone = late_alone
            self._on_late_alone(late_alone)
        if limit == before:
            return
        log.info("session_limit_changed", limit=limit, before=before, running=sessions.running)
        self._admission.set_limit(limit)

    def _judge_one(self, now_s: float) -> bool | None:
        """Whether one session alone is late: by what was seen last, and None after lateness that is over."""
        if self._limit.is_late_alone:
            return True
        if self._limit.is_on_time(now_s):
            return False
        return None if self._late_alone else self._late_alone
