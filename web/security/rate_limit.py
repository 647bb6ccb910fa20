"""One address can neither take all connections nor try tokens for ever; what is kept of addresses is bounded.

An IPv6 client can choose among the 2⁶⁴ addresses of its network, which therefore counts as one. A balancer
that is trusted is everybody: its connections are counted together with all others, and only so.

Neighbours: `web.server.serve` lets connections in, `web.app` reports wrong tokens. What does not belong
here: lanes and their queue (`actors.sessions.admission`).
"""

import ipaddress
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

import structlog
import trio

from pipeline.config import Limits
from web.security.forwarded import Front

ADDRESSES: Final = 4096  # of those that failed; the one that did so longest ago is forgotten first
TELL_EVERY_S: Final = 10.0
_NOBODY: Final = Front()

Attempt = Literal["handshake", "token", "distrust"]
TurnedAway = Literal["connections", "address", "handshake", "token"]

log = structlog.get_logger()


@dataclass(slots=True)
class _Credit:
    """How many failures an address may still have; it grows with time, up to a minute's worth."""

    failures: float
    at_s: float


class Turnstile:
    """Counts connections and failures by address."""

    def __init__(self, limits: Limits, front: Front = _NOBODY) -> None:
        self._limits = limits
        self._front = front
        self._open: Counter[str] = Counter()
        self._credits: OrderedDict[tuple[Attempt, str], _Credit] = OrderedDict()
        self._told_s = -TELL_EVERY_S
        self.failures: Counter[Attempt] = Counter()
        self.turned_away: Counter[TurnedAway] = Counter()

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._open.total()

    def enter(self, host: str) -> bool:
        """Count one more connection from here, or turn it away."""
        address, is_balancer = address_of(host), self._front.believes(host)
        reason: TurnedAway | None = None
        if self.wait_s("handshake", host) and not is_balancer:
            reason = "handshake"
        elif self.connections >= self._limits.connections:
            reason = "connections"
        elif self._open[address] >= self._limits.connections_per_address and not is_balancer:
            reason = "address"
        if reason is None:
            self._open[address] += 1
            return True
        self.turn_away(host, reason)
        return False

    def leave(self, host: str) -> None:
        """One that had entered has ended."""
        address = address_of(host)
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def turn_away(self, host: str, reason: TurnedAway) -> None:
        """Count it, and tell the log now and then."""
        self.turned_away[reason] += 1
        now_s = trio.current_time()
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            log.warning("turned_away", peer=host, reason=reason, so_far=self.turned_away.total())

    def fail(self, attempt: Attempt, host: str) -> None:
        """A token from here was wrong, or a TLS handshake led nowhere."""
        self.failures[attempt] += 1
        key = attempt, address_of(host)
        self._credits[key] = _Credit(self._credit(key) - 1, trio.current_time())
        self._credits.move_to_end(key)
        if len(self._credits) > ADDRESSES:
            self._credits.popitem(last=False)

    def count_distrust(self) -> None:
        """A peer did not believe our certificate, and said so.

        That is no misdeed: a browser whose user made an exception does it on every new connection, before
        it comes again. And whoever meant harm could complete the handshake as often as they like.
        """
        self.failures["distrust"] += 1

    def wait_s(self, attempt: Attempt, host: str) -> float:
        """How long an attempt from here is not looked at; 0 where it may try."""
        credit = self._credit((attempt, address_of(host)))
        return 0.0 if credit >= 1 else (1 - credit) * 60 / self._limits.failures_per_minute

    def _credit(self, key: tuple[Attempt, str]) -> float:
        most = float(self._limits.failures_per_minute)
        known = self._credits.get(key)
        if known is None:
            return most
        grown = (trio.current_time() - known.at_s) * most / 60
        return min(most, known.failures + grown)


def address_of(host: str) -> str:
    """What counts as one: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
