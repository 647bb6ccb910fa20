"""What stands in front of the server: an address that people know it by, and balancers whose word counts.

Behind a balancer every connection comes from the balancer, and arrives at a port that no browser has
heard of. Who is asking is then the last word in X-Forwarded-For, of balancers that are named and of
nobody else, and the server's own pages come from `server.public_url`. Headers on host and scheme
(X-Forwarded-Host, -Proto) are believed from nobody: a page could send them.

Neighbours: `web.security.origin` keeps other origins out, `web.security.rate_limit` counts addresses. What
does not belong here: the server's own address (`web.security.listen`).
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

from pipeline.config import Server
from pipeline.errors import ConfigError

_PORTS: Final = {"http": 80, "https": 443}
_FORWARDED: Final = b"x-forwarded-for"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Public:
    """The address in a browser: `scheme`, `host` (an IPv6 address in brackets) and `port`."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `https://voice.example.org[:port]`.

        Raises:
            ConfigError: it is more, or less, than an origin.
        """
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            scheme, host, port = "", None, None
        if scheme not in _PORTS or not host or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigError(
                "pipeline.server.public_url", f"{url} is not an origin, such as https://voice.example.org"
            )
        return cls(scheme, f"[{host}]" if ":" in host else host, port or _PORTS[scheme])

    @property
    def origin(self) -> str:
        """What a browser says of its own pages. Source: RFC 6454 §6.2 (a default port is left out)."""
        suffix = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{suffix}"


@dataclass(frozen=True, slots=True)
class Front:
    """`public` where people have an address of their own for the server; `balancers` may speak for others."""

    public: Public | None = None
    balancers: tuple[Network, ...] = ()

    @classmethod
    def of(cls, server: Server) -> Self:
        """What the settings say.

        Raises:
            ConfigError: an address is none.
        """
        public = None if server.public_url is None else Public.parse(server.public_url)
        return cls(public, tuple(map(_network, server.trusted_proxies)))

    @property
    def is_secure(self) -> bool:
        """Whether browsers come by TLS, which ends at a balancer."""
        return self.public is not None and self.public.scheme == "https"

    def believes(self, host: str) -> bool:
        """Whether a balancer is at this address."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self.balancers)

    def asker(self, host: str, forwarded: Iterable[bytes]) -> str:
        """Who asks, over a connection from `host`; `forwarded` are the values of X-Forwarded-For.

        Of the names in them the last that is no balancer's counts: what stands before it, anybody
        may have written. What is no address counts for nothing.
        """
        if not self.believes(host):
            return host
        for word in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            name = word.strip()
            try:
                ipaddress.ip_address(name)
            except ValueError:
                return host
            if not self.believes(name):
                return name
        return host


class Fronted:
    """An application that sees who is asking, and where, as its visitors see it."""

    def __init__(self, app: ASGIFramework, front: Front) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Pass a request on."""
        if scope["type"] != "lifespan" and scope["client"] is not None:
            host, port = scope["client"]
            if self._front.believes(host):
                forwarded = [value for name, value in scope["headers"] if name.lower() == _FORWARDED]
                scope["client"] = self._front.asker(host, forwarded), port
                if self._front.public is not None:
                    scope["server"] = self._front.public.host, self._front.public.port
        await self._app(scope, receive, send)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        raise ConfigError(
            "pipeline.server.trusted_proxies", f"{text} is no address or network, such as 10.0.0.0/8"
        ) from None
