"""Limits per client address: open connections, wrong tokens, failed TLS handshakes.

An IPv6 client can choose any of the 2⁶⁴ addresses of its network, so a /64 counts as one address. All
clients behind a trusted reverse proxy share its address, so only the limit on all connections applies
to it. Memory is bounded however many addresses fail.

Written here because the libraries for it limit requests, in a store or in middleware; this one counts
connections before there is a request, and failures rather than attempts.

Neighbours: `web.server.serve` accepts connections, `web.app` reports wrong tokens. What does not belong
here: lanes and their queue (`actors.sessions.admission`).
"""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import trio

from pipeline.config import Limits
from web.security.forwarded import UNREADABLE, ReverseProxy
from web.security.throttled_log import ThrottledLog

MAX_ADDRESSES: Final = 4096  # with failures; the one whose last failure is oldest is forgotten first
_NO_PROXY: Final = ReverseProxy()

Attempt = Literal["handshake", "token"]
Forgiven = Literal["distrust", "plain_http"]
RejectReason = Literal["connections", "address", "handshake", "token", "work"]


@dataclass(slots=True)
class TokenBucket:
    """How many failures an address may still have; refilled with time, up to a minute's worth."""

    level: float
    at_s: float


class RateLimiter:
    """Counts connections and failures by address."""

    def __init__(self, limits: Limits, reverse_proxy: ReverseProxy = _NO_PROXY) -> None:
        self._limits = limits
        self._reverse_proxy = reverse_proxy
        self._open: Counter[str] = Counter()
        self._buckets: OrderedDict[tuple[Attempt, str], TokenBucket] = OrderedDict()
        self.log = ThrottledLog()
        self.failures: Counter[Attempt | Forgiven] = Counter()
        self.rejected: Counter[RejectReason] = Counter()

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._open.total()

    def is_proxy(self, host: str) -> bool:
        """Whether connections from `host` are those of a trusted proxy's clients."""
        return self._reverse_proxy.trusts(host)

    def client_of(self, host: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """What counts as the address of the client that a proxy names; None where it names none."""
        client = self._reverse_proxy.client_of(host, headers)
        return None if client in (UNREADABLE, host) else address_of(client)

    def connect(self, host: str) -> bool:
        """Count a new connection from `host`; False, and counted as rejected, where a limit is reached."""
        address, is_proxy = address_of(host), self._reverse_proxy.trusts(host)
        reason: RejectReason | None = None
        if self.wait_s("handshake", host) and not is_proxy:
            reason = "handshake"
        elif self.connections >= self._limits.connections:
            reason = "connections"
        elif self._open[address] >= self._limits.connections_per_address and not is_proxy:
            reason = "address"
        if reason is None:
            self._open[address] += 1
            return True
        self.reject(host, reason)
        return False

    def disconnect(self, host: str) -> None:
        """A counted connection has ended."""
        address = address_of(host)
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def reject(self, host: str, reason: RejectReason) -> None:
        """Count a rejected connection or attempt; log one of a reason every ten seconds at most."""
        self.rejected[reason] += 1
        self.log.warning("connection_rejected", reason=reason, peer=host)

    def record_failure(self, attempt: Attempt, host: str) -> None:
        """Count a wrong token or a failed TLS handshake against `host`."""
        self.failures[attempt] += 1
        key = attempt, address_of(host)
        self._buckets[key] = TokenBucket(self._level(key) - 1, trio.current_time())
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)

    def record_forgiven(self, attempt: Forgiven) -> None:
        """Count a client that rejected our certificate or spoke plain HTTP; not held against its address.

        A browser whose user made an exception rejects it on every new connection, before it connects again;
        a typed address begins with http://. And an attacker could complete handshakes as often as they like.
        """
        self.failures[attempt] += 1

    def wait_s(self, attempt: Attempt, host: str) -> float:
        """How long attempts from `host` are still refused; 0 where one is allowed."""
        level = self._level((attempt, address_of(host)))
        return 0.0 if level >= 1 else (1 - level) * 60 / self._limits.failures_per_minute

    def _level(self, key: tuple[Attempt, str]) -> float:
        full = float(self._limits.failures_per_minute)
        bucket = self._buckets.get(key)
        if bucket is None:
            return full
        return min(full, bucket.level + (trio.current_time() - bucket.at_s) * full / 60)


def address_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
