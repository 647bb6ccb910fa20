"""The health actor: what every other part counts, each second for the clients, at once for whoever asks.

It only reads: nothing in the server waits for it or decides by it.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import trio

from actors.admission import Admission
from actors.channel import ChannelStatistics
from actors.connection import Connection
from actors.delivery import BUDGET_S, Delivery
from actors.outbox import OutboxStatistics
from actors.session import Tally
from actors.stage import Stage
from actors.timing import Timing, TimingStatistics
from pipeline.protocol.metadata import Stats

REPORT_EVERY_S: Final = 1.0


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
        added: Timing,
    ) -> None:
        self._admission = admission
        self._delivery = delivery
        self._stages = stages
        self._queues = queues
        self._connections = connections
        self._added = added
        self._started_s = time.monotonic()
        self._ended = Tally()
        self._endings: Counter[str] = Counter()
        self._token_rate_hz = 0.0

    def note_end(self, connection: Connection) -> None:
        """Keep what a session came to."""
        self._ended.add(connection.session.tally())
        if connection.ending is not None:
            self._endings[connection.ending.reason] += 1

    async def run(self) -> None:
        """Each second: measure the token rate, and send every session its `stats`."""
        before_s, before = trio.current_time(), self._delivery.frames
        while True:
            await trio.sleep_until(before_s + REPORT_EVERY_S)
            now_s, now = trio.current_time(), self._delivery.frames
            self._token_rate_hz = (now - before) / (now_s - before_s)
            before_s, before = now_s, now
            self._report()

    def snapshot(self) -> dict[str, Any]:
        """Everything, as `/health` shows it. Times are in ms; the keys are the interface."""
        lanes = self._admission.statistics()
        tally = self._tally()
        return {
            "status": self._admission.closed_for or "ready",
            "uptimeS": round(time.monotonic() - self._started_s, 3),
            "readiness": {
                "lm": self._stages["step"].ready.is_set(),
                "mimi": self._stages["encode"].ready.is_set() and self._stages["decode"].ready.is_set(),
            },
            "clients": len(self._connections),
            "lanes": {"max": lanes.lanes_max, "open": lanes.lanes_open, "queued": lanes.queued},
            "metrics": {
                **{name: _timing(stage.timing.statistics()) for name, stage in self._stages.items()},
                "added": _timing(self._added.statistics()),
                "budgetMs": 1000 * BUDGET_S,
                "overBudget": self._delivery.over_budget,
                "tokenRate": round(self._token_rate_hz, 3),
                "underruns": tally.underruns,
                "framesIn": tally.frames_in,
                "framesOut": tally.frames_out,
                "audioRefused": tally.audio_refused,
                "dropped": {
                    "audio": tally.frames_dropped,
                    "agentAudio": tally.audio_left_out,
                    "partial": tally.partials_left_out,
                    "low": tally.low_left_out,
                },
                "queues": {s.name: _queue(s) for s in (statistics() for statistics in self._queues)},
                "outboxes": _outboxes([c.session.outbox.statistics() for c in self._connections]),
            },
            "endings": dict(self._endings),
        }

    def _tally(self) -> Tally:
        total = dataclasses.replace(self._ended)
        for connection in self._connections:
            total.add(connection.session.tally())
        return total

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
        for connection in self._connections:
            connection.session.report(stats)


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
