"""The metrics of `/metrics`, read from the engine's statistics at each scrape.

Times are in seconds; counters start at zero with the process. The names are an interface:
`configs/grafana/packet-voice.json`, `configs/prometheus/alerts.yaml` and `docs/reference/metrics.md` use
them.

Neighbours: `actors.health` and `actors.proxy` (the numbers), `web.security.rate_limit` (connections),
`web.routes.metric_aliases` (former names). What does not belong here: counting.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Final, TypeVar, get_args

import psutil
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from actors.engine import Engine
from actors.health import EngineStatistics
from actors.proxy import Proxy, ProxyStatistics
from actors.runtime.histogram import BOUNDS_MS, HistogramStatistics
from pipeline import log
from web.routes.metric_aliases import with_former_names
from web.security.rate_limit import Attempt, RateLimiter, RejectReason

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
STAGES: Final = ("encode", "step", "decode")
_BOUNDS: Final = (*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf")

L = TypeVar("L", bound=str)
Model = Callable[[], Mapping[str, object] | None]


class Metrics(Collector):
    """The metrics of one server; `model` returns its name and whether it is trained, None while loading."""

    def __init__(self, engine: Engine, limiter: RateLimiter, model: Model, proxy: Proxy | None) -> None:
        self._engine = engine
        self._proxy = proxy
        self._limiter = limiter
        self._model = model
        self._process = psutil.Process()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: to describe its metrics, the registry would scrape an engine that is not running yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics at this moment, each renamed one under its former name too."""
        yield from with_former_names(self._collect())

    def _collect(self) -> Iterator[Metric]:
        now = self._engine.statistics()
        yield from _state(now, stalled=self._engine.stalled)
        yield from self._model_info()
        yield from _capacity(now)
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
                "packet_voice_model_info", "The loaded model; always 1.", labels=list(labels)
            )
            info.add_metric(list(labels.values()), 1)
            yield info

    def _connections(self) -> Iterator[Metric]:
        yield _gauge("connections_open", "Open TCP connections.", self._limiter.connections)
        yield _counters(
            "connections_rejected",
            "Connections and attempts over a limit: in all, of one address, or of its failures.",
            "reason",
            {reason: self._limiter.rejected[reason] for reason in get_args(RejectReason)},
        )
        yield _counters(
            "auth_failures",
            "Wrong tokens, failed TLS handshakes, and clients that rejected the certificate.",
            "attempt",
            {attempt: self._limiter.failures[attempt] for attempt in get_args(Attempt)},
        )

    def _process_metrics(self) -> Iterator[Metric]:
        """The process, under the names that Prometheus' own clients use, as far as the system says.

        Where no more files can be opened, it says nothing; the other metrics matter most then.
        """
        with suppress(OSError, psutil.Error), self._process.oneshot():
            times = self._process.cpu_times()
            gauges = {
                "process_resident_memory_bytes": ("Resident memory.", self._process.memory_info().rss),
                "process_open_fds": ("Open file descriptors.", self._process.num_fds()),
                "process_threads": ("Operating system threads.", self._process.num_threads()),
                "process_start_time_seconds": (
                    "Start time since the epoch.",
                    self._process.create_time(),
                ),
            }
            for name, (what, value) in gauges.items():
                yield GaugeMetricFamily(name, what, value=value)
            yield CounterMetricFamily(
                "process_cpu_seconds", "User and system CPU time.", times.user + times.system
            )
        tasks = trio.lowlevel.current_statistics().tasks_living
        yield _gauge("tasks", "Trio tasks.", tasks)
        yield _counter("log_lines_lost", "Lines of the log that could not be written.", log.lost_lines())


def _state(now: EngineStatistics, *, stalled: bool) -> Iterator[Metric]:
    yield _gauge("ready", "1 while the server accepts sessions, lanes permitting.", now.status == "ready")
    yield _gauge("stalled", "1 once a model thread has missed its deadline.", stalled)
    yield _gauge("uptime_seconds", "Time since the engine was created.", now.uptime_s)
    yield _gauge("clients", "Connected sessions, queued ones included.", now.clients)
    yield _gauge("lanes_max", "Sessions that there is memory for.", now.lanes.lanes_max)
    yield _gauge("lanes_open", "Lanes in use or being freed.", now.lanes.lanes_open)
    yield _gauge("session_limit", "Sessions that may run at once on this machine, now.", now.lanes.limit)
    yield _gauge("sessions_running", "Sessions that run.", now.lanes.running)
    yield _gauge("sessions_queued", "Sessions in the queue, those put back included.", now.lanes.queued)
    yield _gauge("sessions_put_back", "Sessions that ran before and are in the queue.", now.lanes.put_back)
    yield _counter("put_backs", "Times a session was put back into the queue.", now.lanes.put_back_total)
    yield _gauge("sessions_waiting", "Disconnected sessions that can still be resumed.", now.waiting)
    yield _counter("sessions_resumed", "Resumed sessions.", now.resumed)
    yield _counters("sessions_ended", "Ended sessions, by reason.", "reason", now.endings)
    clients = GaugeMetricFamily(
        "packet_voice_dialect_clients", "Connected sessions, by the client's dialect.", labels=["dialect"]
    )
    for dialect, count in now.dialects.items():
        clients.add_metric([dialect], count)
    yield clients
    yield _counters(
        "dialect_sessions_ended", "Ended sessions, by the client's dialect.", "dialect", now.dialect_endings
    )


def _capacity(now: EngineStatistics) -> Iterator[Metric]:
    ticks = GaugeMetricFamily(
        "packet_voice_capacity_tick_seconds",
        "Time of a batch of this width with all models at once, measured at the start.",
        labels=["width"],
    )
    if now.capacity is not None:
        for width, ms in now.capacity.ticks_ms.items():
            ticks.add_metric([str(width)], ms / 1000)
        yield _gauge(
            "capacity_sessions", "Sessions held by the measurement at the start.", now.capacity.sessions
        )
    yield ticks


def _times(now: EngineStatistics) -> Iterator[Metric]:
    batches = HistogramMetricFamily(
        "packet_voice_batch_duration_seconds", "Duration of one batch of a stage.", labels=["stage"]
    )
    for stage in STAGES:
        _observe(batches, now.timings[stage], stage)
    yield batches
    latency = HistogramMetricFamily("packet_voice_latency_seconds", "Packet received to its answer sent.")
    _observe(latency, now.timings["latency"])
    yield latency
    overhead = HistogramMetricFamily(
        "packet_voice_server_overhead_seconds",
        "Latency without the frame's own batches and its waits for a busy model thread.",
    )
    _observe(overhead, now.timings["added"])
    yield overhead
    yield _counter("steps", "Steps of the language model.", now.steps)
    yield _counter("frames_over_budget", "Frames for which the models took more than 30 ms.", now.over_budget)
    yield _gauge(
        "tokens_per_second", "Deprecated, use rate(packet_voice_steps_total[1m]).", now.token_rate_hz
    )


def _frames(now: EngineStatistics) -> Iterator[Metric]:
    counters = now.counters
    frames = {"in": counters.frames_in, "out": counters.frames_out}
    yield _counters("frames", "80 ms frames: accepted from users, sent to them.", "direction", frames)
    yield _counter(
        "frames_put_back", "Frames refused while their session was put back.", counters.frames_put_back
    )
    yield _counter("audio_refused", "Audio packets refused.", counters.audio_refused)
    underruns = {"server": counters.underruns, "client": counters.client_underruns}
    yield _counters(
        "underruns",
        "Frames that arrived in time and were sent late; playback gaps reported by clients.",
        "where",
        underruns,
    )
    actions = {
        "low": now.overload_actions["low"],
        "partial": now.overload_actions["partial"],
        "decode_skipped": now.overload_actions["decodeSkipped"],
        "audio_dropped": now.overload_actions["audioDropped"],
        "closed": now.overload_actions["closed"],
    }
    yield _counters(
        "overload_actions", "What was dropped under overload, mildest action first.", "action", actions
    )


def _queues(now: EngineStatistics) -> Iterator[Metric]:
    gauges = {
        name: GaugeMetricFamily(f"packet_voice_queue_{name}", what, labels=["queue"])
        for name, what in (
            ("depth", "Items queued now."),
            ("peak", "The most ever queued."),
            ("capacity", "The limit."),
        )
    }
    counters = {
        name: CounterMetricFamily(f"packet_voice_queue_{name}", what, labels=["queue"])
        for name, what in (
            ("sent", "Items put in."),
            ("taken", "Items taken out."),
            ("leaked", "Items dropped."),
        )
    }
    for queue in now.queues:
        for name, gauge in gauges.items():
            gauge.add_metric([queue.name], getattr(queue, name))
        for name, counter in counters.items():
            counter.add_metric([queue.name], getattr(queue, name))
    for name, gauge in gauges.items():
        gauge.add_metric(["outboxes"], now.send_queues[name])
    yield from (*gauges.values(), *counters.values())


def _packets(now: EngineStatistics) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "packet_voice_packets", "Packets on the wire, by type.", labels=["direction", "type"]
    )
    for direction, counts in (("sent", now.packets.sent), ("received", now.packets.received)):
        for kind, count in counts.items():
            packets.add_metric([direction, kind], count)
    yield packets
    yield _counters("packets_ignored", "Packets ignored.", "reason", now.packets.ignored)
    yield _counters("packets_refused", "Packets answered with an error.", "reason", now.packets.refused)


def _hub(now: ProxyStatistics) -> Iterator[Metric]:
    yield _counters(
        "hub_requests",
        "Requests for hub files, by where the file came from or the error.",
        "result",
        now.results,
    )
    yield _gauge("hub_fetches", "Requests to the hub in progress.", now.fetching)
    yield _gauge("hub_fetches_queued", "Downloads waiting for a slot.", now.queued)
    yield _gauge("hub_active_readers", "Clients receiving a file.", now.active_readers)
    yield _counter("hub_fetched_bytes", "Bytes received from the hub.", now.fetched_bytes)
    yield _counter("hub_sent_bytes", "Bytes sent to clients.", now.sent_bytes)
    yield _counter("hub_truncated_responses", "Responses that ended early.", now.truncated)
    yield _gauge("hub_cache_files", "Files in the cache, partial ones included.", now.cache.files)
    yield _gauge("hub_cache_bytes", "Size of the files in the cache.", now.cache.size_bytes)
    yield _counter("hub_cache_removed", "Files evicted from the cache.", now.evicted)


def _observe(family: HistogramMetricFamily, timing: HistogramStatistics, *labels: str) -> None:
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
