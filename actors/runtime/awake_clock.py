"""Time in which this process could run: a watchdog must not count its own absence.

A process can be frozen for any time (a paused container or virtual machine, Ctrl-Z, a migration, a
laptop that sleeps). When it goes on, every deadline has passed, although there was no chance to keep
it. So the time in which the event loop made no progress is taken out: `awake_time` leaves it out, and
the deadlines of scopes that are `tracked` move by it before Trio looks at them.

Neighbours: `pinned_thread` watches its calls by it, `actors.connection` its peer, `actors.registry`
sessions that wait. What does not belong here: deadlines of the user's, such as the length of a fade.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import trio

ABSENT_S: Final = 1.0  # without progress for longer, the process was absent; the loop never works so long


class AwakeClock(trio.abc.Instrument):
    """Notices absences of the event loop of one Trio run.

    Args:
        now_s: real time, which Trio's own clock may not be in a test.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.absent_s = 0.0  # all absences together
        self.on_absence: Callable[[float], None] = lambda _: None
        self._now_s = now_s
        self._last_s = now_s()
        self._tracked: set[trio.CancelScope] = set()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        """The tasks have run: if that took very long, the process was stopped meanwhile."""
        self._note_progress(0.0)

    def after_io_wait(self, timeout: float) -> None:
        """The wait is over: if it took much longer than it was to take, the process was stopped meanwhile."""
        self._note_progress(timeout)

    def track(self, scope: trio.CancelScope) -> None:
        """Move the scope's deadline by each absence."""
        self._tracked.add(scope)

    def forget(self, scope: trio.CancelScope) -> None:
        """The scope is over."""
        self._tracked.discard(scope)

    def _note_progress(self, expected_s: float) -> None:
        now_s = self._now_s()
        absent_s, self._last_s = now_s - self._last_s - expected_s, now_s
        if absent_s <= ABSENT_S:
            return
        self.absent_s += absent_s
        for scope in self._tracked:
            scope.deadline += absent_s
        self.on_absence(absent_s)


def install(clock: AwakeClock | None = None) -> AwakeClock:
    """The clock of this Trio run, which is installed by the first call."""
    try:
        return _clock.get()
    except LookupError:
        clock = AwakeClock() if clock is None else clock
        _clock.set(clock)
        trio.lowlevel.add_instrument(clock)
        return clock


def awake_time() -> float:
    """Trio's time less all absences, for measuring how long a peer took."""
    return trio.current_time() - install().absent_s


@contextlib.contextmanager
def tracked(scope: trio.CancelScope) -> Iterator[trio.CancelScope]:
    """Enter a scope whose deadline does not count the absence of this process."""
    clock = install()
    clock.track(scope)
    try:
        with scope:
            yield scope
    finally:
        clock.forget(scope)


def move_on_after(
    seconds: float, *, shield: bool = False
) -> contextlib.AbstractContextManager[trio.CancelScope]:
    """As in Trio, in time that does not count the absence of this process."""
    return tracked(trio.CancelScope(deadline=trio.current_time() + seconds, shield=shield))


_clock: trio.lowlevel.RunVar[AwakeClock] = trio.lowlevel.RunVar("awake_clock")
