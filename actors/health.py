"""The health actor: statistics of the whole engine, for `/health`, `/metrics` and, each second, the clients.

It only reads: nothing in the server waits for it or decides by it. `statistics` is everything,
typed; `snapshot` is the same as the JSON of `/health`.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from actors.capacity import Capacity
from actors.connection import NOT_READING, CloseInfo, Connection
from actors.registry import SessionRegistry
from actors.runtime.channel import QueueStatistics
from actors.runtime.histogram import HistogramStatistics
from actors.runtime.stage import Stage
from actors.sessions.admission import Admission, AdmissionStatistics
from actors.sessions.counters import SessionCounters
from actors.sessions.dispatcher import BUDGET_S, Dispatcher
from actors.sessions.latency import Latencies
from pipeline.protocol.conversation import ConversationStatistics
from pipeline.protocol.metadata import Stats

REPORT_EVERY_S: Final = 1.0


@dataclass(slots=True)
class Packets:
    """Packets of all connections: sent and received by type, ignored and refused by reason."""

    sent: Counter[str] = dataclasses.field(default_factory=Counter)
    received: Counter[str] = dataclasses.field(default_factory=Counter)
    ignored: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Packets | ConversationStatistics") -> None:
        """Add the other's counters to these."""
        self.sent.update(other.sent)
        self.received.update(other.received)
        self.ignored.update(other.ignored)
        self.refused.update(other.refused)


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """The engine at one moment.

    Attributes:
        waiting: sessions that lost their connection and may be resumed.
        resumed: sessions that were resumed.
        capacity: what the machine was measured to hold; None while the models load.
        timings: of the stages, from a packet received to its answer sent (`latency`), and what of
            that the server adds to the models (`added`).
        steps: steps of the language model.
        over_budget: steps whose batches in all three stages took longer than `BUDGET_S` together.
        counters: of all sessions together.
        overload_actions: what was dropped or closed under pressure, by action, mildest first.
        send_queues: of the present connections together.
        endings: sessions by why they ended.
        dialects: connected sessions by dialect.
        dialect_endings: ended sessions by dialect.
    """

    status: str
    uptime_s: float
    ready: Mapping[str, bool]
    clients: int
    waiting: int
    resumed: int
    lanes: AdmissionStatistics
    capacity: Capacity | None
    timings: Mapping[str, HistogramStatistics]
    steps: int
    over_budget: int
    token_rate_hz: float
    counters: SessionCounters
    overload_actions: Mapping[str, int]
    queues: Sequence[QueueStatistics]
    send_queues: Mapping[str, int]
    packets: Packets
    endings: Mapping[str, int]
    dialects: Mapping[str, int]
    dialect_endings: Mapping[str, int]


class Health:
    """Reads the statistics of every part, and keeps those of sessions and connections that have ended."""

    def __init__(
        self,
        *,
        admission: Admission,
        dispatcher: Dispatcher,
        stages: Mapping[str, Stage[Any, Any]],
        queues: Sequence[Callable[[], QueueStatistics]],
        connections: Collection[Connection],
        registry: SessionRegistry,
        latencies: Latencies,
        capacity: Callable[[], Capacity | None],
    ) -> None:
        self._admission = admission
        self._dispatcher = dispatcher
        self._stages = stages
        self._queues = queues
        self._connections = connections
        self._registry = registry
        self._latencies = latencies
        self._capacity = capacity
        self._started_s = time.monotonic()
        self._ended = SessionCounters()
        self._ended_packets = Packets()
        self._endings: Counter[str] = Counter()
        self._ended_dialects: Counter[str] = Counter()
        self._overloads = 0
        self._token_rate_hz = 0.0

    def record_session(self, connection: Connection, info: CloseInfo) -> None:
        """The session of this connection is over: keep its counters."""
        self._ended.add(connection.session.counters())
        self._ended_dialects[connection.dialect.name] += 1
        self._endings[info.cause] += 1

    def record_connection(self, connection: Connection) -> None:
        """A connection has ended: keep its counters."""
        self._ended_packets.add(connection.packets())
        info = connection.close_info
        self._overloads += info is not None and info.cause == NOT_READING

    async def run(self) -> None:
        """Each second: measure the token rate, and send every session its `stats`."""
        before_s, before = trio.current_time(), self._dispatcher.frames
        while True:
            await trio.sleep_until(before_s + REPORT_EVERY_S)
            now_s, now = trio.current_time(), self._dispatcher.frames
            self._token_rate_hz = (now - before) / (now_s - before_s)
            before_s, before = now_s, now
            self._report()

    def statistics(self) -> EngineStatistics:
        """Everything, now."""
        counters = dataclasses.replace(self._ended)
        packets = Packets()
        packets.add(self._ended_packets)
        for session in self._registry:
            counters.add(session.counters())
        for connection in self._connections:
            packets.add(connection.packets())
        return EngineStatistics(
            status=self._admission.closed_for or "ready",
            uptime_s=time.monotonic() - self._started_s,
            ready={name: stage.ready.is_set() for name, stage in self._stages.items()},
            clients=len(self._connections),
            waiting=self._registry.waiting,
            resumed=self._registry.resumed,
            lanes=self._admission.statistics(),
            capacity=self._capacity(),
            timings={
                **{name: stage.timing.statistics() for name, stage in self._stages.items()},
                "added": self._latencies.overhead.statistics(),
                "latency": self._latencies.total.statistics(),
            },
            steps=self._dispatcher.frames,
            over_budget=self._dispatcher.over_budget,
            token_rate_hz=self._token_rate_hz,
            counters=counters,
            overload_actions={
                "low": counters.low_dropped,
                "partial": counters.partials_dropped,
                "decodeSkipped": counters.decodes_skipped,
                "audioDropped": counters.frames_dropped + counters.audio_dropped,
                "closed": self._overloads,
            },
            queues=[statistics() for statistics in self._queues],
            send_queues=_sum([connection.queue.statistics() for connection in self._connections]),
            packets=packets,
            endings=dict(self._endings),
            dialects=Counter(connection.dialect.name for connection in self._connections),
            dialect_endings=dict(self._ended_dialects),
        )

    def snapshot(self) -> dict[str, Any]:
        """Everything, as `/health` shows it. Times are in ms; the keys are the interface."""
        now = self.statistics()
        return {
            "status": now.status,
            "uptimeS": round(now.uptime_s, 3),
            "readiness": {"lm": now.ready["step"], "mimi": now.ready["encode"] and now.ready["decode"]},
            "clients": now.clients,
            "waiting": now.waiting,
            "resumed": now.resumed,
            "lanes": _lanes(now.lanes),
            "capacity": None if now.capacity is None else now.capacity.as_json,
            "metrics": {
                **{name: _timing(timing) for name, timing in now.timings.items()},
                "budgetMs": 1000 * BUDGET_S,
                "overBudget": now.over_budget,
                "tokenRate": round(now.token_rate_hz, 3),
                "underruns": now.counters.underruns,
                "clientUnderruns": now.counters.client_underruns,
                "framesIn": now.counters.frames_in,
                "framesOut": now.counters.frames_out,
                "framesPutBack": now.counters.frames_put_back,
                "audioRefused": now.counters.audio_refused,
                "dropped": {
                    "audio": now.counters.frames_dropped,
                    "agentAudio": now.counters.audio_dropped,
                    "partial": now.counters.partials_dropped,
                    "low": now.counters.low_dropped,
                },
                "ladder": dict(now.overload_actions),
                "queues": {queue.name: _queue(queue) for queue in now.queues},
                "outboxes": dict(now.send_queues),
                "packets": {
                    f.name: dict(getattr(now.packets, f.name)) for f in dataclasses.fields(now.packets)
                },
            },
            "endings": dict(now.endings),
            "dialects": dict(now.dialects),
        }

    def _report(self) -> None:
        lanes = self._admission.statistics()
        p50_ms = {name: round(s.timing.statistics().p50_ms, 3) for name, s in self._stages.items()}
        stats = Stats(
            frames_in=0,
            frames_out=0,
            frames_dropped=0,
            underruns=0,
            lanes_open=lanes.lanes_open,
            lanes_max=lanes.lanes_max,
            queued=lanes.queued,
            encode_ms=p50_ms["encode"],
            step_ms=p50_ms["step"],
            decode_ms=p50_ms["decode"],
        )
        for session in self._registry:
            session.report(stats)


def _lanes(lanes: AdmissionStatistics) -> dict[str, int]:
    return {
        "max": lanes.lanes_max,
        "open": lanes.lanes_open,
        "queued": lanes.queued,
        "limit": lanes.limit,
        "running": lanes.running,
        "putBack": lanes.put_back,
        "putBackTotal": lanes.put_back_total,
        "room": lanes.room_soon,
        "queueRoom": lanes.queue_room,
    }


def _timing(timing: HistogramStatistics) -> dict[str, float]:
    return {
        "count": timing.count,
        "avgMs": round(timing.avg_ms, 3),
        "lastMs": round(timing.last_ms, 3),
        "p50": round(timing.p50_ms, 3),
        "p95": round(timing.p95_ms, 3),
        "p99": round(timing.p99_ms, 3),
        "maxMs": round(timing.max_ms, 3),
    }


def _queue(statistics: QueueStatistics) -> dict[str, Any]:
    fields = dataclasses.asdict(statistics)
    del fields["name"]
    return fields | {"leak": statistics.leak.value}


def _sum(queues: Sequence[QueueStatistics]) -> dict[str, int]:
    """The queues together; the peak is that of the fullest one."""
    summed = ("capacity", "depth", "sent", "taken", "leaked")
    return {name: sum(getattr(queue, name) for queue in queues) for name in summed} | {
        "peak": max((queue.peak for queue in queues), default=0)
    }
