"""Former names of metrics, served beside the current ones for one version.

Dashboards and alerts of an installation keep working while they are changed over; `docs/upgrading.md`
lists the same names. Neighbours: `web.routes.metrics` has the current metrics.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True)
class FormerName:
    """What a metric was called; `labels` maps current label names to former ones, where they changed."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


# By the family's current name: without the `_total` of a counter's samples.
RENAMED: Final[Mapping[str, FormerName]] = {
    "packet_voice_batch_duration_seconds": FormerName("packet_voice_batch_seconds"),
    "packet_voice_server_overhead_seconds": FormerName("packet_voice_added_latency_seconds"),
    "packet_voice_frames_over_budget": FormerName("packet_voice_over_budget"),
    "packet_voice_overload_actions": FormerName("packet_voice_pressure", {"action": "rung"}),
    "packet_voice_sessions_queued": FormerName("packet_voice_lanes_queued"),
    "packet_voice_connections_rejected": FormerName("packet_voice_connections_turned_away"),
    "packet_voice_auth_failures": FormerName("packet_voice_failed_attempts"),
    "packet_voice_hub_truncated_responses": FormerName("packet_voice_hub_cut"),
    "packet_voice_hub_active_readers": FormerName("packet_voice_hub_readers"),
}


def with_former_names(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """Every metric, and a copy under its former name after each that was renamed."""
    for metric in metrics:
        yield metric
        former = RENAMED.get(metric.name)
        if former is not None:
            yield _copy(metric, former)


def _copy(metric: Metric, former: FormerName) -> Metric:
    """The same samples, with `_total`, `_bucket`, `_count` and `_sum` after the former name."""
    successor = f"{metric.name}{'_total' if metric.type == 'counter' else ''}"
    copy = Metric(former.name, f"Deprecated, use {successor}.", metric.type)
    for sample in metric.samples:
        suffix = sample.name.removeprefix(metric.name)
        labels = {former.labels.get(label, label): value for label, value in sample.labels.items()}
        copy.samples.append(sample._replace(name=f"{former.name}{suffix}", labels=labels))
    return copy
