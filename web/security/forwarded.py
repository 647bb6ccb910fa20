"""Reverse proxies in front of the server: the public origin, and the real address of a client.

Behind a load balancer every connection comes from the balancer, to a port that no browser knows. The
client's address is then the last entry of X-Forwarded-For, read only from the proxies named in
`server.trusted_proxies`, and the origin of the server's own pages is `server.public_url`.
X-Forwarded-Host and -Proto are never read: a page could send them.

Neighbours: `web.security.origin` refuses other origins, `web.security.rate_limit` counts addresses. What
does not belong here: the address to listen on (`web.security.listen`).
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
class PublicOrigin:
    """The server's address in a browser: `scheme`, `host` (an IPv6 address in brackets) and `port`."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `https://voice.example.org[:port]`.

        Raises:
            ConfigError: the URL has other parts than an origin, or not all of them.
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
        """The Origin header of the server's pages. Source: RFC 6454 §6.2 (a default port is omitted)."""
        suffix = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{suffix}"


@dataclass(frozen=True, slots=True)
class ReverseProxy:
    """What is in front of the server: its `public` origin if it has one, the `trusted` proxies."""

    public: PublicOrigin | None = None
    trusted: tuple[Network, ...] = ()

    @classmethod
    def from_settings(cls, server: Server) -> Self:
        """Read `server.public_url` and `server.trusted_proxies`.

        Raises:
            ConfigError: one of them is malformed.
        """
        public = None if server.public_url is None else PublicOrigin.parse(server.public_url)
        return cls(public, tuple(map(_network, server.trusted_proxies)))

    @property
    def is_secure(self) -> bool:
        """Whether browsers connect through TLS, which then ends at the proxy."""
        return self.public is not None and self.public.scheme == "https"

    def trusts(self, host: str) -> bool:
        """Whether `host` is the address of a trusted proxy."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self.trusted)

    def client_address(self, host: str, forwarded: Iterable[bytes]) -> str:
        """The client behind a connection from `host`, given the values of its X-Forwarded-For headers.

        That is the last entry that is not a trusted proxy: anyone could have written those before it.
        Where an entry is not an address, it is `host` itself.
        """
        if not self.trusts(host):
            return host
        for entry in reversed(b",".join(forwarded).decode("latin-1").split(",")):
            address = entry.strip()
            try:
                ipaddress.ip_address(address)
            except ValueError:
                return host
            if not self.trusts(address):
                return address
        return host


class ForwardedMiddleware:
    """ASGI middleware: the wrapped application sees the client's address and the public host and port."""

    def __init__(self, app: ASGIFramework, reverse_proxy: ReverseProxy) -> None:
        self._app = app
        self._reverse_proxy = reverse_proxy

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Handle one request."""
        if scope["type"] != "lifespan" and scope["client"] is not None:
            host, port = scope["client"]
            if self._reverse_proxy.trusts(host):
                forwarded = [value for name, value in scope["headers"] if name.lower() == _FORWARDED]
                scope["client"] = self._reverse_proxy.client_address(host, forwarded), port
                if (public := self._reverse_proxy.public) is not None:
                    scope["server"] = public.host, public.port
        await self._app(scope, receive, send)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        raise ConfigError(
            "pipeline.server.trusted_proxies", f"{text} is not an address or a network such as 10.0.0.0/8"
        ) from None
