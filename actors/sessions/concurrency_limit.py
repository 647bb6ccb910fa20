"""How many sessions run at once: measured at the start, then corrected by how punctual the answers are.

The control rules, for observations a fixed time apart. A frame is *late* if its answer came out of the
models more than half a frame's duration past its deadline, or if it was dropped after that, or skipped; a
frame is *tight* if it came out past its deadline at all. An observation is late if more than `LATE_SHARE` of
its frames are; one without frames changes nothing. Overload need not show in every observation, so late ones
are counted over a window.

| what happens | answer |
|---|---|
| a burst of openings, one stall of seconds | none: too few late observations within `WINDOW_S` |
| `HOLD_AFTER_S` of late observations in the window | no new session is admitted: the limit is what runs now |
| `REDUCE_AFTER_S` of them | the newest session is put back, then after as much again the next |
| still more than `OVERLOADED_SHARE` of frames late after that | another one each `SETTLE_OVERLOADED_S` |
| on time for `GROW_AFTER_S`, and a session waits | it grows by one, unless answers are tight or models busy |
| late for `PROBE_LATE_S` soon after growing | the limit goes back, and the next attempt waits twice as long |
| every frame costs clearly less than when a session was put back | it grows at once: the load has gone |
| nobody waits, and the limit is below what was measured | it goes back there, see below |

A machine that is slower for a minute loses sessions and takes them back. On one that stays slower the limit
stays at what it can serve: the time between attempts to grow doubles, up to `MAX_BACKOFF_S`. While nobody
waits, the limit goes back to what was measured, by one each `GROW_AFTER_S` on time, or after `FORGET_AFTER_S`
without sessions, but no sooner than the next attempt to grow; the first to run there is such an attempt.

Source: additive increase with a probe, as in adaptive concurrency limits (Netflix's
concurrency-limits, Envoy's adaptive concurrency filter), with lateness in place of round-trip times. What was
observed long ago says little about the machine now: a limit that nobody uses goes back to where it began, as
TCP's congestion window does after an idle time (RFC 5681 §4.1) and as the long-term round-trip time of
Netflix's gradient limit does once it is too high.

Neighbours: `admission` keeps to the limit; the engine makes the observations. What does not belong here:
clocks, lanes, sessions.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

OBSERVE_EVERY_S: Final = 0.5
WINDOW_S: Final = 10.0
HOLD_AFTER_S: Final = 2.0
REDUCE_AFTER_S: Final = 3.5
SETTLE_S: Final = 3.0  # what a channel holds has passed, and the shorter queue shows
SETTLE_OVERLOADED_S: Final = 1.0
GROW_AFTER_S: Final = 3.0
PROBE_S: Final = 10.0  # lateness this soon after growing is attributed to it
PROBE_LATE_S: Final = 1.5
MIN_BACKOFF_S: Final = 10.0  # from putting a session back to the first attempt to grow
MAX_BACKOFF_S: Final = 240.0

LATE_SHARE: Final = 0.02
OVERLOADED_SHARE: Final = 0.2
TIGHT_SHARE: Final = 0.1
# The share of the model threads' time in which they may compute. Measured on two cores, on half and on a
# quarter of them: answers were on time at 0.78, 0.71 and 0.44; with one or two sessions more, at 0.83, 0.87
# and 0.91, they were late.
BUSY_SHARE: Final = 0.8
FORGET_AFTER_S: Final = 30.0  # without a session, lateness is forgotten
CHEAPER: Final = 0.8  # a cost this much lower is another machine, not noise


@dataclass(frozen=True, slots=True)
class Observation:
    """What happened since the last one, to sessions whose clients read what they are sent.

    `frames` were due; of those `late` and `tight` as in this module's docstring. `cost_s` is the models' time
    per frame and `busy` the share of the time in which their threads computed, at most 1; `running` and
    `waiting` are numbers of sessions now.
    """

    frames: int
    late: int
    tight: int
    cost_s: float
    busy: float
    running: int
    waiting: int

    @property
    def is_late(self) -> bool:
        """Whether more than the odd frame was late."""
        return self.late > LATE_SHARE * self.frames


class ConcurrencyLimit:
    """The number of sessions that may run. `limit` is at least 1 and at most `maximum`."""

    def __init__(self, initial: int, maximum: int) -> None:
        self.maximum = maximum
        self.limit = max(1, min(initial, maximum))
        self._measured = self.limit
        self._known = self.limit  # sessions that ran, or are assumed to run, in time
        self._idle_since_s: float | None = None
        self._recent: deque[tuple[float, Observation]] = deque()  # since the last reduction, of `WINDOW_S`
        self._on_time_since_s: float | None = None
        self._changed_s = -math.inf
        self._reduced_s = -math.inf
        self._grown_s = -math.inf
        self._backoff_s = 0.0
        self._failed_cost_s = math.inf

    @property
    def is_late(self) -> bool:
        """Whether answers are late at present."""
        return bool(self._recent) and self._on_time_since_s is None

    def is_on_time(self, now_s: float) -> bool:
        """Whether answers have been on time for a while."""
        since_s = self._on_time_since_s
        return bool(self._recent) and since_s is not None and now_s - since_s >= GROW_AFTER_S

    @property
    def is_late_alone(self) -> bool:
        """Whether even a single session has been late for most of a window: nothing is left to reduce."""
        alone = self.limit == 1 and all(each.running <= 1 for _, each in self._recent)
        return self.is_late and alone and self._late_s_since(-math.inf) >= WINDOW_S / 2

    def observe(self, seen: Observation, now_s: float) -> int:
        """Take one observation; return the limit. If more sessions run, the newest has to be put back."""
        if seen.frames:
            while self._recent and self._recent[0][0] <= now_s - WINDOW_S:
                self._recent.popleft()
            self._recent.append((now_s, seen))
            if seen.is_late:
                self._on_time_since_s = None
                self._reduce(seen, now_s)
            elif self._on_time_since_s is None:
                self._on_time_since_s = now_s
        self._forget(seen, now_s)
        if self._known < seen.running <= self.limit:  # in a place that was given back
            self._known = seen.running
            self._grown_s = now_s
        if not self.is_late:
            self._grow(seen, now_s)
            self._recover(seen, now_s)
        return self.limit

    def _reduce(self, seen: Observation, now_s: float) -> None:
        if self._late_s_since(-math.inf) >= HOLD_AFTER_S and seen.running < self.limit:
            self.limit = max(1, seen.running)
        probing = now_s - self._grown_s <= PROBE_S
        probe_failed = probing and self._late_s_since(self._grown_s) >= PROBE_LATE_S
        if not (probe_failed or self._stays_overloaded(seen, now_s) or self._stays_late(now_s)):
            return
        if probing:
            self._backoff_s = min(MAX_BACKOFF_S, 2 * self._backoff_s)
            self._grown_s = -math.inf
        self._backoff_s = max(MIN_BACKOFF_S, self._backoff_s)
        self._failed_cost_s = seen.cost_s
        if seen.running >= self.limit > 1:
            self.limit -= 1
            self._known = self.limit
            self._changed_s = self._reduced_s = now_s
            self._recent.clear()

    def _stays_late(self, now_s: float) -> bool:
        """Whether answers were late for long enough, and long enough after the last change."""
        return self._late_s_since(-math.inf) >= REDUCE_AFTER_S and now_s - self._changed_s >= SETTLE_S

    def _stays_overloaded(self, seen: Observation, now_s: float) -> bool:
        """Whether putting a session back, the last change, was not nearly enough: all since then was late."""
        reduced_s_ago = now_s - self._reduced_s
        return (
            self._reduced_s == self._changed_s
            and SETTLE_OVERLOADED_S <= reduced_s_ago <= self._late_s_since(-math.inf)
            and seen.late > OVERLOADED_SHARE * seen.frames
        )

    def _grow(self, seen: Observation, now_s: float) -> None:
        if not seen.waiting or self.limit >= self.maximum or seen.running < self.limit:
            return
        if not seen.running:
            return  # nothing can be late: the limit is too low to show anything
        if self._on_time_since_s is None or now_s - self._on_time_since_s < GROW_AFTER_S:
            return
        if seen.cost_s < CHEAPER * self._failed_cost_s:
            self._backoff_s, self._failed_cost_s = 0.0, math.inf
        if now_s - self._changed_s < max(GROW_AFTER_S, self._backoff_s) or not self._has_room(seen, now_s):
            return
        self.limit += 1
        self._known = max(self._known, self.limit)
        self._changed_s = self._grown_s = now_s

    def _has_room(self, seen: Observation, now_s: float) -> bool:
        """Whether one more than those that run would probably be on time."""
        lately = [each for when_s, each in self._recent if when_s > now_s - GROW_AFTER_S]
        if sum(each.tight for each in lately) > TIGHT_SHARE * sum(each.frames for each in lately):
            return False
        # A wider batch costs less per session, so one more session takes this much at most.
        busy = sum(each.busy for each in lately) / max(1, len(lately))
        return busy * (seen.running + 1) / seen.running <= BUSY_SHARE

    def _recover(self, seen: Observation, now_s: float) -> None:
        """Towards what was measured, so that nobody has to wait for what the machine did long ago."""
        if seen.waiting or self.limit >= self._measured:
            return
        if now_s - self._changed_s < max(GROW_AFTER_S, self._backoff_s):
            return
        if not self._is_forgotten(now_s):
            if self._on_time_since_s is None or now_s - self._on_time_since_s < GROW_AFTER_S:
                return
            if seen.running >= self.limit and not self._has_room(seen, now_s):
                return
        self.limit += 1
        self._changed_s = now_s

    def _forget(self, seen: Observation, now_s: float) -> None:
        """Without any session nothing can be observed, and lateness does not last for ever."""
        if seen.running:
            self._idle_since_s = None
            return
        if self._idle_since_s is None:
            self._idle_since_s = now_s
        if self._is_forgotten(now_s):
            self._recent.clear()

    def _is_forgotten(self, now_s: float) -> bool:
        return self._idle_since_s is not None and now_s - self._idle_since_s >= FORGET_AFTER_S

    def _late_s_since(self, begin_s: float) -> float:
        """How much of the window after `begin_s` was late."""
        return OBSERVE_EVERY_S * sum(each.is_late for when_s, each in self._recent if when_s > begin_s)
