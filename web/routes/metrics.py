"""What Prometheus scrapes is what the line counts, read at the scrape: nothing is counted twice.

Every time is in seconds, every counter has been counted since the process began. The names are an
interface: `configs/grafana/packet-voice.json` and `docs/operations.md` use them.

Neighbours: `actors.health` and `actors.proxy` (the numbers), `web.security.rate_limit` (connections). What
does not belong here: a counter of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, TypeVar, get_args

import psutil
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from actors.engine import Line
from actors.health import LineStatistics
from actors.proxy import Proxy, ProxyStatistics
from actors.runtime.histogram import BOUNDS_MS, TimingStatistics
from web.security.rate_limit import Attempt, TurnedAway, Turnstile

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
STAGES: Final = ("encode", "step", "decode")
_BOUNDS: Final = (*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf")

L = TypeVar("L", bound=str)
Model = Callable[[], Mapping[str, object] | None]


class Metrics(Collector):
    """The registry of one server. `model` gives its name and whether it is trained, None while loading."""

    def __init__(self, line: Line, turnstile: Turnstile, model: Model, proxy: Proxy | None) -> None:
        self._line = line
        self._proxy = proxy
        self._turnstile = turnstile
        self._model = model
        self._process = psutil.Process()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: the registry would scrape a line that does not run yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything, now."""
        now = self._line.statistics()
        yield from _state(now, stalled=self._line.stalled)
        yield from self._model_info()
        yield from _times(now)
        yield from _frames(now)
        yield from _queues(now)
        yield from _packets(now)
        yield from self._connections()
        if self._proxy is not None:
            yield from _hub(self._proxy.statistics())
        yield from self._process_metrics()

    def _model_info(self) -> Iterator[Metric]:
        model = self._model()
        if model is not None:
            labels = {"name": str(model["name"]), "trained": str(model["trained"]).lower()}
            info = GaugeMetricFamily(
                "packet_voice_model_info", "What is loaded; always 1.", labels=list(labels)
            )
            info.add_metric(list(labels.values()), 1)
            yield info

    def _connections(self) -> Iterator[Metric]:
        yield _gauge(
            "connections_open", "TCP connections, whatever they are for.", self._turnstile.connections
        )
        yield _counters(
            "connections_turned_away",
            "Connections and attempts not looked at: over a limit in all, of an address, or of failures.",
            "reason",
            {reason: self._turnstile.turned_away[reason] for reason in get_args(TurnedAway)},
        )
        yield _counters(
            "failed_attempts",
            "Wrong tokens, TLS handshakes that led nowhere, and peers that did not believe the certificate.",
            "attempt",
            {attempt: self._turnstile.failures[attempt] for attempt in get_args(Attempt)},
        )

    def _process_metrics(self) -> Iterator[Metric]:
        """Under the names that Prometheus' own clients use, where there is one."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            gauges = {
                "process_resident_memory_bytes": ("Resident memory.", self._process.memory_info().rss),
                "process_open_fds": ("Open file descriptors.", self._process.num_fds()),
                "process_threads": ("Threads of the operating system.", self._process.num_threads()),
                "process_start_time_seconds": (
                    "When it began, since the epoch.",
                    self._process.create_time(),
                ),
            }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(name, what, value=value)
        yield CounterMetricFamily("process_cpu_seconds", "User and system time.", times.user + times.system)
        tasks = trio.lowlevel.current_statistics().tasks_living
        yield _gauge("tasks", "Trio tasks alive.", tasks)


def _state(now: LineStatistics, *, stalled: bool) -> Iterator[Metric]:
    yield _gauge("ready", "1 while a new session would be served, room permitting.", now.status == "ready")
    yield _gauge("stalled", "1 once a model thread has not come back in time.", stalled)
    yield _gauge("uptime_seconds", "Since the line was made.", now.uptime_s)
    yield _gauge("clients", "Sessions with a connection, those that wait for a lane included.", now.clients)
    yield _gauge("lanes_max", "Sessions that can be served at once.", now.lanes.lanes_max)
    yield _gauge("lanes_open", "Lanes in use or on their way back.", now.lanes.lanes_open)
    yield _gauge("lanes_queued", "Sessions that wait for a lane.", now.lanes.queued)
    yield _gauge("sessions_waiting", "Sessions that lost their connection and may come back.", now.waiting)
    yield _counter("sessions_resumed", "How often one came back.", now.resumed)
    yield _counters("sessions_ended", "Sessions by why they ended.", "reason", now.endings)


def _times(now: LineStatistics) -> Iterator[Metric]:
    batches = HistogramMetricFamily(
        "packet_voice_batch_seconds", "One batch of a model, whatever its width.", labels=["stage"]
    )
    for stage in STAGES:
        _observe(batches, now.timings[stage], stage)
    yield batches
    latency = HistogramMetricFamily("packet_voice_latency_seconds", "Packet received to its answer sent.")
    _observe(latency, now.timings["latency"])
    yield latency
    added = HistogramMetricFamily(
        "packet_voice_added_latency_seconds",
        "Received to sent, without the frame's own batches and its waits for a busy model thread.",
    )
    _observe(added, now.timings["added"])
    yield added
    yield _counter("steps", "Steps of the language model that were delivered.", now.steps)
    yield _counter("over_budget", "Steps that took longer than the budget of 30 ms.", now.over_budget)
    yield _gauge("tokens_per_second", "Steps in the last second.", now.token_rate_hz)


def _frames(now: LineStatistics) -> Iterator[Metric]:
    tally = now.tally
    frames = {"in": tally.frames_in, "out": tally.frames_out}
    yield _counters("frames", "80 ms each: accepted from users, sent to them.", "direction", frames)
    yield _counter("audio_refused", "Audio packets refused.", tally.audio_refused)
    underruns = {"server": tally.underruns, "client": tally.client_underruns}
    yield _counters(
        "underruns", "Frames that arrived in time and left late; gaps that clients heard.", "where", underruns
    )
    rungs = {
        "low": now.ladder["low"],
        "partial": now.ladder["partial"],
        "decode_skipped": now.ladder["decodeSkipped"],
        "audio_dropped": now.ladder["audioDropped"],
        "closed": now.ladder["closed"],
    }
    yield _counters("pressure", "What gave way under pressure, mildest rung first.", "rung", rungs)


def _queues(now: LineStatistics) -> Iterator[Metric]:
    gauges = {
        name: GaugeMetricFamily(f"packet_voice_queue_{name}", what, labels=["queue"])
        for name, what in (
            ("depth", "Items that wait."),
            ("peak", "The most that ever waited."),
            ("capacity", "The most that may wait."),
        )
    }
    counters = {
        name: CounterMetricFamily(f"packet_voice_queue_{name}", what, labels=["queue"])
        for name, what in (
            ("sent", "Items put in."),
            ("taken", "Items taken out."),
            ("leaked", "Items left out."),
        )
    }
    for queue in now.queues:
        for name, gauge in gauges.items():
            gauge.add_metric([queue.name], getattr(queue, name))
        for name, counter in counters.items():
            counter.add_metric([queue.name], getattr(queue, name))
    for name, gauge in gauges.items():
        gauge.add_metric(["outboxes"], now.outboxes[name])
    yield from (*gauges.values(), *counters.values())


def _packets(now: LineStatistics) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "packet_voice_packets", "Packets on the wire, by type.", labels=["direction", "type"]
    )
    for direction, counts in (("sent", now.packets.sent), ("received", now.packets.received)):
        for kind, count in counts.items():
            packets.add_metric([direction, kind], count)
    yield packets
    yield _counters("packets_ignored", "Packets passed over.", "reason", now.packets.ignored)
    yield _counters("packets_refused", "Packets refused.", "reason", now.packets.refused)


def _hub(now: ProxyStatistics) -> Iterator[Metric]:
    yield _counters(
        "hub_requests", "Files of the hub: where they came from, or why not.", "result", now.results
    )
    yield _gauge("hub_fetches", "Questions to the hub, files on their way included.", now.fetching)
    yield _gauge("hub_fetches_queued", "Files that wait for their turn.", now.queued)
    yield _gauge("hub_readers", "Clients that are being sent one.", now.reading)
    yield _counter("hub_fetched_bytes", "Received from the hub.", now.fetched_bytes)
    yield _counter("hub_sent_bytes", "Sent to clients.", now.sent_bytes)
    yield _counter("hub_cut", "Answers that broke off.", now.cut)
    yield _gauge("hub_cache_files", "Files kept, unfinished ones included.", now.kept.files)
    yield _gauge("hub_cache_bytes", "Their size.", now.kept.size_bytes)
    yield _counter("hub_cache_removed", "Files that had to go for others.", now.removed)


def _observe(family: HistogramMetricFamily, timing: TimingStatistics, *labels: str) -> None:
    cumulative = list(zip(_BOUNDS, accumulate(timing.buckets), strict=True))
    family.add_metric(list(labels), cumulative, timing.total_ms / 1000)


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"packet_voice_{name}", what, value=value)


def _counter(name: str, what: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"packet_voice_{name}", what, value=value)


def _counters(name: str, what: str, label: str, values: Mapping[L, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"packet_voice_{name}", what, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
