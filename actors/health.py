"""The health actor: what every other part counts, each second for the clients, at once for whoever asks.

It only reads: nothing in the server waits for it or decides by it. `statistics` is all of it,
typed, for whoever renders it; `snapshot` is the same as `/health` shows it.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from actors.connection import NOT_READING, Connection, Ending
from actors.registry import Reception
from actors.runtime.channel import ChannelStatistics
from actors.runtime.histogram import TimingStatistics
from actors.runtime.stage import Stage
from actors.sessions.admission import Admission, AdmissionStatistics
from actors.sessions.dispatcher import BUDGET_S, Delivery
from actors.sessions.send_queue import OutboxStatistics
from actors.sessions.session import Latencies, Session, Tally
from pipeline.protocol.conversation import ConversationStatistics
from pipeline.protocol.metadata import Stats

REPORT_EVERY_S: Final = 1.0


@dataclass(slots=True)
class Packets:
    """What went over the wire of all connections, by type; what was passed over and refused, by reason."""

    sent: Counter[str] = dataclasses.field(default_factory=Counter)
    received: Counter[str] = dataclasses.field(default_factory=Counter)
    ignored: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Packets | ConversationStatistics") -> None:
        """Sum, field by field."""
        self.sent.update(other.sent)
        self.received.update(other.received)
        self.ignored.update(other.ignored)
        self.refused.update(other.refused)


@dataclass(frozen=True, slots=True)
class LineStatistics:
    """The line at one moment.

    `timings` are of the stages, of the whole way of a frame (`latency`) and of what the server
    adds to the models on it (`added`). `steps` were taken by the language model, `over_budget`
    of them with their neighbours took longer than `BUDGET_S`. `ladder` counts what gave way
    under pressure, rung by rung. `endings` counts sessions by why they ended; `waiting` are those
    that have lost their connection and may be taken up again, `resumed` counts those that were.
    """

    status: str
    uptime_s: float
    ready: Mapping[str, bool]
    clients: int
    waiting: int
    resumed: int
    lanes: AdmissionStatistics
    timings: Mapping[str, TimingStatistics]
    steps: int
    over_budget: int
    token_rate_hz: float
    tally: Tally
    ladder: Mapping[str, int]
    queues: Sequence[ChannelStatistics]
    outboxes: Mapping[str, int]
    packets: Packets
    endings: Mapping[str, int]


class Health:
    """What the line is doing, and what became of its sessions."""

    def __init__(
        self,
        *,
        admission: Admission,
        delivery: Delivery,
        stages: Mapping[str, Stage[Any, Any]],
        queues: Sequence[Callable[[], ChannelStatistics]],
        connections: Collection[Connection],
        reception: Reception,
        latencies: Latencies,
    ) -> None:
        self._admission = admission
        self._delivery = delivery
        self._stages = stages
        self._queues = queues
        self._connections = connections
        self._reception = reception
        self._latencies = latencies
        self._started_s = time.monotonic()
        self._ended = Tally()
        self._ended_packets = Packets()
        self._endings: Counter[str] = Counter()
        self._overloads = 0
        self._token_rate_hz = 0.0

    def note_end(self, session: Session, ending: Ending) -> None:
        """Keep what a session came to."""
        self._ended.add(session.tally())
        self._endings[ending.reason] += 1

    def note_connection(self, connection: Connection) -> None:
        """Keep what went over a connection that is gone."""
        self._ended_packets.add(connection.packets())
        self._overloads += connection.ending is not None and connection.ending.reason == NOT_READING

    async def run(self) -> None:
        """Each second: measure the token rate, and send every session its `stats`."""
        before_s, before = trio.current_time(), self._delivery.frames
        while True:
            await trio.sleep_until(before_s + REPORT_EVERY_S)
            now_s, now = trio.current_time(), self._delivery.frames
            self._token_rate_hz = (now - before) / (now_s - before_s)
            before_s, before = now_s, now
            self._report()

    def statistics(self) -> LineStatistics:
        """Everything, now."""
        tally = dataclasses.replace(self._ended)
        packets = Packets()
        packets.add(self._ended_packets)
        for session in self._reception:
            tally.add(session.tally())
        for connection in self._connections:
            packets.add(connection.packets())
        return LineStatistics(
            status=self._admission.closed_for or "ready",
            uptime_s=time.monotonic() - self._started_s,
            ready={name: stage.ready.is_set() for name, stage in self._stages.items()},
            clients=len(self._connections),
            waiting=self._reception.waiting,
            resumed=self._reception.resumed,
            lanes=self._admission.statistics(),
            timings={
                **{name: stage.timing.statistics() for name, stage in self._stages.items()},
                "added": self._latencies.added.statistics(),
                "latency": self._latencies.total.statistics(),
            },
            steps=self._delivery.frames,
            over_budget=self._delivery.over_budget,
            token_rate_hz=self._token_rate_hz,
            tally=tally,
            ladder={
                "low": tally.low_left_out,
                "partial": tally.partials_left_out,
                "decodeSkipped": tally.decodes_skipped,
                "audioDropped": tally.frames_dropped + tally.audio_left_out,
                "closed": self._overloads,
            },
            queues=[statistics() for statistics in self._queues],
            outboxes=_outboxes([c.outbox.statistics() for c in self._connections]),
            packets=packets,
            endings=dict(self._endings),
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
            "lanes": {"max": now.lanes.lanes_max, "open": now.lanes.lanes_open, "queued": now.lanes.queued},
            "metrics": {
                **{name: _timing(timing) for name, timing in now.timings.items()},
                "budgetMs": 1000 * BUDGET_S,
                "overBudget": now.over_budget,
                "tokenRate": round(now.token_rate_hz, 3),
                "underruns": now.tally.underruns,
                "clientUnderruns": now.tally.client_underruns,
                "framesIn": now.tally.frames_in,
                "framesOut": now.tally.frames_out,
                "audioRefused": now.tally.audio_refused,
                "dropped": {
                    "audio": now.tally.frames_dropped,
                    "agentAudio": now.tally.audio_left_out,
                    "partial": now.tally.partials_left_out,
                    "low": now.tally.low_left_out,
                },
                "ladder": dict(now.ladder),
                "queues": {queue.name: _queue(queue) for queue in now.queues},
                "outboxes": dict(now.outboxes),
                "packets": {
                    f.name: dict(getattr(now.packets, f.name)) for f in dataclasses.fields(now.packets)
                },
            },
            "endings": dict(now.endings),
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
        for session in self._reception:
            session.report(stats)


def _timing(timing: TimingStatistics) -> dict[str, float]:
    return {
        "count": timing.count,
        "avgMs": round(timing.avg_ms, 3),
        "lastMs": round(timing.last_ms, 3),
        "p50": round(timing.p50_ms, 3),
        "p95": round(timing.p95_ms, 3),
        "p99": round(timing.p99_ms, 3),
        "maxMs": round(timing.max_ms, 3),
    }


def _queue(statistics: ChannelStatistics) -> dict[str, Any]:
    fields = dataclasses.asdict(statistics)
    del fields["name"]
    return fields | {"leak": statistics.leak.value}


def _outboxes(outboxes: Sequence[OutboxStatistics]) -> dict[str, int]:
    """The clients' outboxes together; the peak is the fullest one's."""
    summed = ("capacity", "depth", "sent", "taken", "leaked")
    return {name: sum(getattr(outbox, name) for outbox in outboxes) for name in summed} | {
        "peak": max((outbox.peak for outbox in outboxes), default=0)
    }
