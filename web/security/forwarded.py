"""Reverse proxies in front of the server: the public origin, and the real address of a client.

Behind a load balancer every connection comes from the balancer, to a port that no browser knows. The
client's address is then the last entry of X-Forwarded-For, or of Forwarded (RFC 7239), read only from
the proxies named in `server.trusted_proxies`, and the origin of the server's own pages is
`server.public_url`. X-Forwarded-Host and -Proto are never read: a page could send them. A path in
`server.public_url` is taken off each request's path, if the proxy has not done so.

An entry that is not an address is never a client's name: what every client shared, one could use up
for all the others.

Neighbours: `web.security.origin` refuses other origins, `web.security.rate_limit` counts addresses. What
does not belong here: the address to listen on (`web.security.listen`).
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPScope,
    Scope,
    WebsocketScope,
)

from pipeline.config import Server
from pipeline.errors import ConfigError

_PORTS: Final = {"http": 80, "https": 443}
_FORWARDED_FOR: Final = b"x-forwarded-for"
_FORWARDED: Final = b"forwarded"
UNREADABLE: Final = ""  # the client's address, where a trusted proxy names it so that it cannot be read
# An IPv4 address or a bracketed IPv6 address, each perhaps with a port (or an obfuscated one).
_NODE: Final = re.compile(r"(?:(?P<v4>[0-9.]+)|\[(?P<v6>[0-9A-Fa-f:.%\w]+)\])(?::[\w.-]+)?")
_FOR: Final = re.compile(r"(?:^|;)\s*for\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^;]*)", re.IGNORECASE)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class PublicOrigin:
    """The server's address in a browser: `scheme`, `host` (an IPv6 address in brackets) and `port`.

    prefix: the path under which the server is, without a slash at its end; empty: at the root.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `https://voice.example.org[:port][/path]`.

        Raises:
            ConfigError: the URL has other parts than these, or no scheme or host.
        """
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            scheme, host, port = "", None, None
        if scheme not in _PORTS or not host or parts.query or parts.fragment:
            raise ConfigError(
                "pipeline.server.public_url",
                f"{url} is not the address of a server, such as https://voice.example.org",
            )
        name = f"[{host}]" if ":" in host else host
        return cls(scheme, name, port or _PORTS[scheme], parts.path.rstrip("/"))

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
        """The client behind a connection from `host`, given what it forwards.

        That is the last entry that is not a trusted proxy: anyone could have written those before it.
        `UNREADABLE` where it is not an address; `host` itself where there is none.
        """
        if not self.trusts(host):
            return host
        entries = [entry.strip() for entry in b",".join(forwarded).decode("latin-1").split(",")]
        for entry in reversed([entry for entry in entries if entry]):
            address = parse_node(entry)
            if address is None:
                return UNREADABLE
            if not self.trusts(address):
                return address
        return host

    def client_of(self, host: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The client of a request with these headers on a connection from `host`; see `client_address`."""
        values: dict[bytes, list[bytes]] = {_FORWARDED_FOR: [], _FORWARDED: []}
        for name, value in headers:
            if name.lower() in values:
                values[name.lower()].append(value)
        # Some proxies send both headers; the older one is the one that all of them know.
        return self.client_address(host, values[_FORWARDED_FOR] or values[_FORWARDED])

    def without_prefix(self, path: str) -> str:
        """The path as the server knows it; the proxy may have taken the prefix off itself."""
        prefix = "" if self.public is None else self.public.prefix
        return path.removeprefix(prefix) if path == prefix or path.startswith(f"{prefix}/") else path


def parse_node(entry: str) -> str | None:
    """The address in an entry: bare, with a port, in brackets or quotes, or as `for=` of Forwarded.

    None where there is none, such as `unknown` or a pseudonym (RFC 7239 §6).
    """
    named = _FOR.search(entry)
    text = (entry if named is None else named[1]).strip().strip('"').strip()
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        node = _NODE.fullmatch(text)
    try:
        return None if node is None else str(ipaddress.ip_address(node["v4"] or node["v6"]))
    except ValueError:
        return None


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
                scope["client"] = self._reverse_proxy.client_of(host, scope["headers"]), port
                if (public := self._reverse_proxy.public) is not None:
                    scope["server"] = public.host, public.port
        if scope["type"] != "lifespan":
            self._take_prefix_off(scope)
        await self._app(scope, receive, send)

    def _take_prefix_off(self, scope: HTTPScope | WebsocketScope) -> None:
        scope["path"] = self._reverse_proxy.without_prefix(scope["path"]) or "/"
        raw = self._reverse_proxy.without_prefix(scope["raw_path"].decode("latin-1")) or "/"
        scope["raw_path"] = raw.encode("latin-1")


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        raise ConfigError(
            "pipeline.server.trusted_proxies", f"{text} is not an address or a network such as 10.0.0.0/8"
        ) from None
