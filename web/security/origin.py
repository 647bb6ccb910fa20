"""Requests from pages of other origins are refused, by their Host, Origin and Sec-Fetch-Site headers.

A page of another site can send requests to a loopback address, and by DNS rebinding even under a
name of its own; it cannot choose these headers, which its browser adds. Command-line clients send no
Origin. Here too: the security headers of every response.

Neighbours: `web.app` checks each request; tokens are `web.security.auth`'s. What does not belong here:
whether a lane is free (`actors.sessions.admission`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_DEFAULT_PORTS = {"http": 80, "https": 443}  # browsers omit them in Host and Origin
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)

HEADERS: Mapping[str, str] = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def content_security_policy(*, style_hashes: Iterable[str] = ()) -> str:
    """A policy that allows nothing but inline styles with these hashes."""
    styles = " ".join(f"'{style}'" for style in style_hashes) or "'none'"
    nothing = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"{nothing}; style-src {styles}"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request is refused: an HTTP status, a code for programs, a message for people."""

    status: int
    code: str
    message: str
    retry_after_ms: int | None = None


class OriginPolicy:
    """Allows the server's own pages, and clients that are not browsers."""

    def __init__(
        self, allowed_hosts: Sequence[str], *, scheme: str = "http", public_origin: str | None = None
    ) -> None:
        """`public_origin`: the origin of the server's own pages behind a reverse proxy."""
        self._scheme = scheme
        self._public = frozenset(() if public_origin is None else (public_origin,))
        self._hosts = frozenset(_bracketed(host) for host in allowed_hosts)

    def denial(
        self,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        fetch_sites: Sequence[str],
        port: int,
        opens_page: bool = False,
    ) -> Denial | None:
        """None where the request is allowed; each argument but the last two holds all values of its header.

        `port` is the one the client connected to: an origin on another port of this machine belongs
        to another program and is refused, unless the browser itself connected to that port, as through
        a tunnel or a forwarded port: then Host names it too. `opens_page`: a browser follows a link.
        """
        if len(hosts) != 1 or not self._is_own_host(hosts[0]):
            return Denial(
                421,
                "host_refused",
                "this server does not know itself under the name in the Host header: add the name to "
                "server.allowed_hosts, or set server.public_url to the address in the browser",
            )
        sites = {site.strip().lower() for site in fetch_sites}
        if not opens_page and sites & {"cross-site", "same-site"}:
            return Denial(
                403,
                "cross_site_refused",
                "requests from pages of other sites or ports are refused: open this address itself",
            )
        own = self._own_origins(port) | {f"{self._scheme}://{hosts[0].lower()}"}
        if origins and (len(origins) != 1 or origins[0] not in own):
            return Denial(
                403,
                "origin_refused",
                "requests from pages of other origins are refused: open the page at this server's own "
                "address, or set server.public_url to the address in the browser",
            )
        return None

    def _is_own_host(self, header: str) -> bool:
        host = _HOST.fullmatch(header)
        return host is not None and host["name"].lower() in self._hosts

    def _own_origins(self, port: int) -> frozenset[str]:
        suffix = "" if port == _DEFAULT_PORTS[self._scheme] else f":{port}"
        return self._public | {f"{self._scheme}://{host}{suffix}" for host in self._hosts}


def _bracketed(host: str) -> str:
    """A host as written in a Host header: lower case, an IPv6 address in brackets."""
    bare = host.lower()
    return f"[{bare}]" if ":" in bare and not bare.startswith("[") else bare
