"""The hardware for a number of concurrent sessions: replicas, and the resources that all replicas share.

The lanes of a machine are measured where possible. Elsewhere they are an upper bound from memory and
memory bandwidth: within 80 % of a frame, a step reads every weight once and the KV caches of every lane, at
an assumed fraction of the data sheet's bandwidth. Shared resources are computed per session.

Source of the machines: the manufacturers' data sheets. Neighbours: `estimates` has the sizes of the models.
What does not belong here: measuring this machine (`pipeline.cli.doctor`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.diagnostics.cost_model import step_cost
from pipeline.diagnostics.estimates import BYTES, PUBLISHED, USABLE_MS, kv_cache_bytes, weights_bytes
from pipeline.diagnostics.microbenchmarks import Format
from pipeline.protocol.packets import HEADER_BYTES
from pipeline.units import FRAME_MS, FRAME_SAMPLES

BANDWIDTH_FRACTION: Final = 0.5  # of the data sheet; assumed
SPARE_REPLICAS: Final = 1  # so that one can be replaced while every session continues
MAX_UTILIZATION: Final = 0.8  # of all lanes; above it new sessions have to wait

# Two cores with the embedded model, client underruns below 1 % (docs/reference/benchmarks.md).
MEASURED_LANES: Final = 16
# HAProxy with real sessions, plus the share of TLS at 100 connections (docs/reference/benchmarks.md).
BALANCER_CORES: Final = 0.0012 + 0.0002
BALANCER_BYTES: Final = 58 * 1024

_SEGMENT_BYTES: Final = 1448  # TCP payload with timestamps in a 1500-byte frame (RFC 9293)
_SEGMENT_OVERHEAD_BYTES: Final = 90  # Ethernet with interframe gap 38, IPv4 20, TCP 32
_WEBSOCKET_BYTES: Final = 8  # masked, payload over 125 bytes (RFC 6455 §5.2)
_BALANCER_SOCKETS: Final = 2
_OWN_FILES: Final = 64  # of the load balancer itself: listeners, checks, log
_PORTS: Final = 60_999 - 32_768 + 1  # net.ipv4.ip_local_port_range
_GIGABIT_BYTES: Final = 125e6


@dataclass(frozen=True, slots=True)
class Machine:
    """Data sheet values; `usable_bytes` is the part of the memory that models can use."""

    name: str
    usable_bytes: int
    read_bytes_per_s: float


MACHINES: Final = (
    Machine("NVIDIA RTX 4090, 24 GB", 22 * 10**9, 1.01e12),
    Machine("Apple M4 Max, 128 GB", 96 * 10**9, 0.546e12),
    Machine("NVIDIA H200, 141 GB", 134 * 10**9, 4.8e12),
)
MODELS: Final[tuple[tuple[str, Format], ...]] = (
    ("Hibiki 2B", "bfloat16"),
    ("Moshi 7B", "4 bits"),
    ("Moshi 7B", "bfloat16"),
)


@dataclass(frozen=True, slots=True)
class ReplicaCapacity:
    """The sessions one replica can hold, and the resource that limits it (`ends_with`).

    measured: whether `lanes` was measured or is a computed upper bound.
    """

    machine: str
    model: str
    lanes: int
    ends_with: str
    measured: bool

    def replicas(self, sessions: int) -> int | None:
        """Replicas for `sessions` at `MAX_UTILIZATION`, plus a spare; None if not even one session fits."""
        if not self.lanes:
            return None
        return math.ceil(sessions / (MAX_UTILIZATION * self.lanes)) + SPARE_REPLICAS


@dataclass(frozen=True, slots=True)
class SharedResource:
    """A resource that all sessions share.

    each: consumption of one session. amount: a usual amount. sessions: how many sessions exhaust it.
    """

    resource: str
    each: str
    amount: str
    sessions: int


def replica_capacities(here: ReplicaCapacity | None = None) -> list[ReplicaCapacity]:
    """The capacity of one replica on each machine with each model; `here` is this machine, measured."""
    documented = ReplicaCapacity(
        "2 x86-64 cores", "embedded, float32", MEASURED_LANES, "cores", measured=True
    )
    measured = here or documented
    return [measured, *(_upper_bound(machine, *model) for model in MODELS for machine in MACHINES)]


def shared_resources() -> list[SharedResource]:
    """Network and load balancer, which do not depend on the replicas."""
    link = link_bytes_per_s()
    cores, sockets = 1000 * BALANCER_CORES, _BALANCER_SOCKETS
    return [
        SharedResource("network of a replica, each way", f"{link / 1000:.0f} kB/s", "1 Gbit/s", _links(link)),
        SharedResource(
            "network of the balancer, each way", f"{2 * link / 1000:.0f} kB/s", "1 Gbit/s", _links(2 * link)
        ),
        SharedResource("balancer, CPU", f"{cores:.2f} millicores", "1 core", int(1 / BALANCER_CORES)),
        SharedResource("balancer, memory", f"{BALANCER_BYTES // 1024} KiB", "1 GiB", 2**30 // BALANCER_BYTES),
        SharedResource(
            "balancer, open files", f"{sockets}", "1024 (`ulimit -n`)", (1024 - _OWN_FILES) // sockets
        ),
        SharedResource("balancer, ports to one replica", "1", f"{_PORTS:,} (Linux)", _PORTS),
    ]


def link_bytes_per_s() -> float:
    """Bytes per second on the wire, one session in one direction, with the ACKs of the other."""
    message_bytes = HEADER_BYTES + 4 * FRAME_SAMPLES + _WEBSOCKET_BYTES
    segments = math.ceil(message_bytes / _SEGMENT_BYTES)
    acks = math.ceil(segments / 2)  # one per two segments (RFC 9293 §3.8.6.3)
    return (message_bytes + (segments + acks) * _SEGMENT_OVERHEAD_BYTES) * 1000 / FRAME_MS


def _upper_bound(machine: Machine, model: str, weight_format: Format) -> ReplicaCapacity:
    """The most lanes of a published model that `machine` can hold."""
    lm = PUBLISHED[model]
    lane_bytes = kv_cache_bytes(lm, weight_format)
    rows = (machine.usable_bytes - weights_bytes(lm, weight_format)) // lane_bytes
    in_memory = rows - 1  # one row of the batch is padding
    read_bytes = step_cost(lm).weights * BYTES[weight_format]
    in_time_bytes = USABLE_MS / 1000 * BANDWIDTH_FRACTION * machine.read_bytes_per_s - read_bytes
    in_time = int(in_time_bytes // lane_bytes)
    limits: Mapping[str, int] = {"memory": max(0, in_memory), "bandwidth": max(0, in_time)}
    ends_with = min(limits, key=lambda name: limits[name])
    return ReplicaCapacity(
        machine.name, f"{model}, {weight_format}", limits[ends_with], ends_with, measured=False
    )


def _links(each_bytes_per_s: float) -> int:
    return int(_GIGABIT_BYTES // each_bytes_per_s)
