"""When a frame is due: integer nanoseconds in, integer nanoseconds out, no clock of its own.

The first three classes are about the instants `start + 80 ms · index`:

* `Pace` — of a client's microphone: when frame k is complete. It never drifts, because every
  instant is computed from the start and none from the one before.
* `Playout` — of a client's loudspeaker: frame k plays at the first arrival + a prebuffer + 80·k,
  and a frame that has not arrived by then is an underrun.
* `DeadlineClock` — of the server, which knows neither clock: it infers the instants from arrivals,
  and from them whether its answers are late.
* `SenderPace` — of a client, as a whole: whether it sends more than real time.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from pipeline.units import BURST_FRAMES, FRAME_MS

MS_NS: Final = 1_000_000
FRAME_NS: Final = FRAME_MS * MS_NS

_WINDOW_FRAMES: Final = 375  # 30 s, in which clocks 50 ppm apart drift by 1.5 ms
_PAUSE_NS: Final = 10 * FRAME_NS  # more than network jitter: the client paused
# A client's frames are taken one after another. Those that arrive together are given this much for each, a
# little less than real time, so that what a burst has earned is used up again; and the credit at most.
_TURN_NS: Final = FRAME_NS * 7 // 8
_TURNS_NS: Final = FRAME_NS * BURST_FRAMES


@dataclass(frozen=True, slots=True)
class Pace:
    """The instants at which a live source completes its frames, all derived from the start."""

    start_ns: int

    def due_ns(self, index: int) -> int:
        """When the last sample of frame `index` is captured."""
        return self.start_ns + FRAME_NS * (index + 1)


class DeadlineClock:
    """Detects underruns of the server: frames that arrived in time and whose answers left late.

    Frame k is *expected* at an anchor + 80·k. The anchor is the smallest `arrival − 80·k` of the
    last 30 s: jitter only ever adds, so the smallest is the true one, and the window lets it follow
    a client whose clock is slower than ours (a faster one lowers the minimum at once). The frame's
    *deadline* is `target_ms` after that; it arrived *in time* if `budget_ms`, what the models may
    take, was left of it.

    Frames of one packet share an arrival; only the first of them anchors, because a client that
    sends bursts plays from the first frame of a burst. A client that paused (0.8 s late) is
    anchored anew: a pause upstream is not an underrun.
    """

    def __init__(self, *, target_ms: int = FRAME_MS, budget_ms: int = 30) -> None:
        self._target_ns = target_ms * MS_NS
        self._budget_ns = budget_ms * MS_NS
        self._last_arrival_ns: int | None = None
        self._turn_ns = 0  # when the frames before this one may be done
        # (index, arrival − 80·index), both increasing: the first is the window's minimum,
        # and each later one is the minimum once those before it have left the window.
        self._minima: deque[tuple[int, int]] = deque()

    def is_underrun(self, index: int, arrived_ns: int, left_ns: int) -> bool:
        """Whether session frame `index` was answered late; call once per answered frame, in order."""
        self._anchor(index, arrived_ns)
        deadline_ns = self.deadline_ns(index)
        return arrived_ns <= deadline_ns - self._budget_ns and left_ns > deadline_ns

    def due_ns(self, index: int, arrived_ns: int) -> int:
        """When the answer to a frame that arrived just now is due; call once per frame, in order.

        A frame that arrived late is given as long as one that arrived in time, and the turns of those that
        arrived with it: its lateness is not caused by this server's load.
        """
        self._anchor(index, arrived_ns)
        begins_ns = min(max(arrived_ns, self._turn_ns), arrived_ns + _TURNS_NS)
        self._turn_ns = begins_ns + _TURN_NS
        return max(self.deadline_ns(index), begins_ns + self._target_ns)

    def deadline_ns(self, index: int) -> int:
        """When the answer to frame `index` has to have left; known once any frame has arrived."""
        return self._minima[0][1] + FRAME_NS * index + self._target_ns

    def _anchor(self, index: int, arrived_ns: int) -> None:
        if arrived_ns == self._last_arrival_ns:
            return
        self._last_arrival_ns = arrived_ns
        offset_ns = arrived_ns - FRAME_NS * index
        minima = self._minima
        while minima and minima[0][0] <= index - _WINDOW_FRAMES:
            minima.popleft()
        if minima and offset_ns > minima[0][1] + _PAUSE_NS:
            minima.clear()
        while minima and minima[-1][1] >= offset_ns:
            minima.pop()
        minima.append((index, offset_ns))


class Playout:
    """Simulates a loudspeaker that starts `prebuffer_ms` after the first frame and never waits again.

    `underruns` counts frames that arrived after their playout time, and frames that never arrived.
    """

    def __init__(self, prebuffer_ms: int) -> None:
        self._prebuffer_ns = prebuffer_ms * MS_NS
        self._start_ns: int | None = None  # when frame 0 plays
        self._next_index = 0
        self.underruns = 0

    def pause(self) -> None:
        """Nothing is expected until the next frame, which starts the loudspeaker again."""
        self._start_ns = None

    def record_arrival(self, index: int, arrived_ns: int) -> None:
        """Frame `index` of the playout timeline has arrived; indices only increase."""
        if self._start_ns is None:
            self._start_ns = arrived_ns + self._prebuffer_ns - FRAME_NS * index
            self._next_index = index
        self.underruns += index - self._next_index
        if arrived_ns > self._start_ns + FRAME_NS * index:
            self.underruns += 1
        self._next_index = index + 1


class SenderPace:
    """Whether a client has sent more than real time lately, beyond a credit of `BURST_FRAMES`.

    It has until real time has caught up with what it was ahead, or with twice the credit.
    """

    def __init__(self) -> None:
        self._ahead_ns = 0  # of audio, at `_at_ns`
        self._at_ns = 0
        self._is_ahead = False

    def record(self, now_ns: int) -> None:
        """A frame arrived."""
        ahead_ns = max(0, self._ahead_ns - (now_ns - self._at_ns)) + FRAME_NS
        self._is_ahead = self.is_ahead(now_ns) or ahead_ns > _TURNS_NS + FRAME_NS
        self._ahead_ns, self._at_ns = min(ahead_ns, 2 * _TURNS_NS), now_ns

    def is_ahead(self, now_ns: int) -> bool:
        """Whether it has."""
        return self._is_ahead and self._ahead_ns > now_ns - self._at_ns
