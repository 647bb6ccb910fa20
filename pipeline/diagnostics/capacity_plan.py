"""What so many sessions at once would take, worked out; what it rests on is measured or named as not.

Lanes of a machine are measured where they could be. Elsewhere they are a bound that follows from memory
and memory bandwidth, of which a server is assumed to reach a part: a step reads every weight once
and the rings of every lane, in eight tenths of a frame. What all replicas share is counted per session.

Source of the machines: their makers' data sheets. Neighbours: `estimates` knows the models' sizes.
What does not belong here: this machine (`pipeline.cli.doctor` measures it).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.diagnostics.cost_model import step_work
from pipeline.diagnostics.estimates import BYTES, PUBLISHED, USABLE_MS, ring_bytes, weights_bytes
from pipeline.diagnostics.microbenchmarks import Format
from pipeline.protocol.packets import HEADER_BYTES
from pipeline.units import FRAME_MS, FRAME_SAMPLES

REACHED: Final = 0.5  # of a bandwidth on a data sheet; assumed
SPARE: Final = 1  # replicas, so that one may be replaced while all talk
FULL_AT: Final = 0.8  # of all lanes: beyond it people wait while sessions change hands

# Two cores with the embedded model, listeners' underruns below 1 % (docs/how-to/operations.md).
MEASURED_LANES: Final = 16
# HAProxy with real sessions, and what TLS in front adds to 100 connections (docs/how-to/scaling.md).
BALANCER_CORES: Final = 0.0012 + 0.0002
BALANCER_BYTES: Final = 58 * 1024

_SEGMENT_BYTES: Final = 1448  # of payload (RFC 9293, with timestamps, in Ethernet's 1500)
_SEGMENT_OVERHEAD_BYTES: Final = 90  # Ethernet with its gap 38, IPv4 20, TCP 32
_WEBSOCKET_BYTES: Final = 8  # masked, of more than 125 bytes (RFC 6455 §5.2)
_BALANCER_SOCKETS: Final = 2
_OWN_FILES: Final = 64  # of a balancer: listeners, checks, log
_PORTS: Final = 60_999 - 32_768 + 1  # net.ipv4.ip_local_port_range
_GIGABIT_BYTES: Final = 125e6


@dataclass(frozen=True, slots=True)
class Machine:
    """A maker's figures; `usable_bytes` is what models may have of its memory."""

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
class Room:
    """Sessions that one replica holds, and what ends it; `measured`, or a bound that is worked out."""

    machine: str
    model: str
    lanes: int
    ends_with: str
    measured: bool

    def replicas(self, sessions: int) -> int | None:
        """So many that one may be away and the others are not full; None where not one session fits."""
        if not self.lanes:
            return None
        return math.ceil(sessions / (FULL_AT * self.lanes)) + SPARE


@dataclass(frozen=True, slots=True)
class Share:
    """Something that all sessions use together: how much each takes, and when a usual amount is gone."""

    resource: str
    each: str
    amount: str
    sessions: int


def rooms() -> list[Room]:
    """One replica each, of everything that is planned with."""
    measured = Room("2 x86-64 cores", "embedded, float32", MEASURED_LANES, "cores", measured=True)
    return [measured, *(_bound(machine, *model) for model in MODELS for machine in MACHINES)]


def shares() -> list[Share]:
    """In front of the replicas, whatever they are."""
    link = link_bytes_per_s()
    cores, sockets = 1000 * BALANCER_CORES, _BALANCER_SOCKETS
    return [
        Share("network of a replica, each way", f"{link / 1000:.0f} kB/s", "1 Gbit/s", _links(link)),
        Share(
            "network of the balancer, each way", f"{2 * link / 1000:.0f} kB/s", "1 Gbit/s", _links(2 * link)
        ),
        Share("balancer, processor", f"{cores:.2f} thousandths", "1 core", int(1 / BALANCER_CORES)),
        Share("balancer, memory", f"{BALANCER_BYTES // 1024} KiB", "1 GiB", 2**30 // BALANCER_BYTES),
        Share("balancer, open files", f"{sockets}", "1024 (`ulimit -n`)", (1024 - _OWN_FILES) // sockets),
        Share("balancer, ports towards one replica", "1", f"{_PORTS:,} (Linux)", _PORTS),
    ]


def link_bytes_per_s() -> float:
    """On the wire, one session, one direction: its frames, their segments, and the ACKs of the other way."""
    message_bytes = HEADER_BYTES + 4 * FRAME_SAMPLES + _WEBSOCKET_BYTES
    segments = math.ceil(message_bytes / _SEGMENT_BYTES)
    acks = math.ceil(segments / 2)  # one for two (RFC 9293 §3.8.6.3)
    return (message_bytes + (segments + acks) * _SEGMENT_OVERHEAD_BYTES) * 1000 / FRAME_MS


def _bound(machine: Machine, model: str, kept: Format) -> Room:
    """The most that `machine` can hold of a published model."""
    lm = PUBLISHED[model]
    lane_bytes = ring_bytes(lm, kept)
    in_memory = (machine.usable_bytes - weights_bytes(lm, kept)) // lane_bytes - 1  # one row is for padding
    read_bytes = step_work(lm).numbers * BYTES[kept]
    in_time_bytes = USABLE_MS / 1000 * REACHED * machine.read_bytes_per_s - read_bytes
    in_time = int(in_time_bytes // lane_bytes)
    ends: Mapping[str, int] = {"memory": max(0, in_memory), "bandwidth": max(0, in_time)}
    ends_with = min(ends, key=lambda name: ends[name])
    return Room(machine.name, f"{model}, {kept}", ends[ends_with], ends_with, measured=False)


def _links(each_bytes_per_s: float) -> int:
    return int(_GIGABIT_BYTES // each_bytes_per_s)
