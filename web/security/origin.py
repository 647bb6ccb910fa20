"""A web page elsewhere must not reach a microphone server on this machine.

What belongs here: who may ask (Host, Origin, Sec-Fetch-Site) and what every answer says to a
browser about itself. A page of another site can send requests to a loopback address, and by
DNS rebinding even under a name of its own; it cannot choose the Host, Origin and
Sec-Fetch-Site headers that its browser adds. Command-line clients send no Origin.

Neighbours: `web.app` asks before it answers; who must show a token is `web.security.auth`. What does not
belong here: whether there is room (`actors.sessions.admission`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_DEFAULT_PORTS = {"http": 80, "https": 443}  # a browser leaves them out of Host and Origin
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
    """Nothing may be loaded, run, framed or submitted but the styles named by hash."""
    styles = " ".join(f"'{style}'" for style in style_hashes) or "'none'"
    nothing = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"{nothing}; style-src {styles}"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request is not answered: an HTTP status, a name for programs, a sentence for people."""

    status: int
    code: str
    message: str


class Gate:
    """Only this server's own pages, and clients that are no pages at all, come through."""

    def __init__(
        self, allowed_hosts: Sequence[str], *, scheme: str = "http", public_origin: str | None = None
    ) -> None:
        """`public_origin`: that of the server's own pages as they come through a balancer."""
        self._scheme = scheme
        self._public = frozenset(() if public_origin is None else (public_origin,))
        self._hosts = frozenset(_bracketed(host) for host in allowed_hosts)

    def denial(
        self, *, hosts: Sequence[str], origins: Sequence[str], fetch_sites: Sequence[str], port: int
    ) -> Denial | None:
        """None where the request may pass; each argument holds every value its header came with.

        `port` is the one the connection arrived at, so that an origin on another port of this
        machine, which is another program's, is another origin.
        """
        if len(hosts) != 1 or not self._is_own_host(hosts[0]):
            return Denial(421, "host_refused", "the Host header names none of server.allowed_hosts")
        if any(site.strip().lower() == "cross-site" for site in fetch_sites):
            return Denial(403, "cross_site_refused", "requests from other sites are refused")
        if origins and (len(origins) != 1 or origins[0] not in self._own_origins(port)):
            return Denial(403, "origin_refused", "pages of other origins are refused")
        return None

    def _is_own_host(self, header: str) -> bool:
        host = _HOST.fullmatch(header)
        return host is not None and host["name"].lower() in self._hosts

    def _own_origins(self, port: int) -> frozenset[str]:
        suffix = "" if port == _DEFAULT_PORTS[self._scheme] else f":{port}"
        return self._public | {f"{self._scheme}://{host}{suffix}" for host in self._hosts}


def _bracketed(host: str) -> str:
    """A host as the Host header spells it: lower case, an IPv6 address in brackets."""
    bare = host.lower()
    return f"[{bare}]" if ":" in bare and not bare.startswith("[") else bare
