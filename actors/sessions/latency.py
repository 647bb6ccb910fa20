"""How long frames take, from the packet that brought one to the packet with its answer.

Neighbours: `actors.runtime.tracing` logs the parts of single frames; `session` records each frame here.
"""

from dataclasses import dataclass, field

import trio

from actors.runtime.histogram import Histogram
from actors.runtime.tracing import Tracer
from pipeline.audio.pacing import DeadlineClock
from pipeline.values import AgentFrame


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of all sessions: from a packet received to its answer sent, and what the server adds to the models."""

    total: Histogram = field(default_factory=Histogram)
    overhead: Histogram = field(default_factory=Histogram)


class LatencyRecorder:
    """Measures the frames of one session as they are written.

    Args:
        session_id: for traces.
        latencies: of all sessions; every frame is added to them.
        tracer: logs the frames that are traced.

    Attributes:
        overhead: what the server added to the models, of this session.
    """

    def __init__(self, session_id: str, latencies: Latencies, tracer: Tracer) -> None:
        self.overhead = Histogram()
        self._session_id = session_id
        self._latencies = latencies
        self._tracer = tracer
        self._deadlines = DeadlineClock()

    def reset_deadlines(self) -> None:
        """The session continues after it was away: its deadlines follow from the next frame."""
        self._deadlines = DeadlineClock()

    def record_sent(self, frame: AgentFrame) -> bool:
        """A frame has been written just now; True if it is an underrun: received in time, sent late."""
        now_s, header = trio.current_time(), frame.header
        total_s = now_s - header.received_s
        overhead_s = max(0.0, total_s - header.model_s)  # two clocks, read one after the other
        for histogram in (self.overhead, self._latencies.overhead):
            histogram.add(overhead_s)
        self._latencies.total.add(total_s)
        self._tracer.end(frame, self._session_id, now_s)
        return self._deadlines.is_underrun(frame.index, nanoseconds(header.received_s), nanoseconds(now_s))


def nanoseconds(seconds: float) -> int:
    """Trio's time in the integer unit of `pipeline.audio.pacing`."""
    return round(seconds * 1e9)
