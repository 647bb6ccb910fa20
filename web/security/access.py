"""One door for all requests: every route, public or not, and every method and protocol goes through it.

In this order: whether the client's address can be read, Host and Origin, the credentials. A wrong token
is counted wherever it is sent, also where none is needed: a check made in two places would be counted
in one. Whatever is refused is logged with its reason, in bounded lines.

Neighbours: `web.app` turns a `Denial` into a response; `web.security.origin`, `web.security.auth` and
`web.security.rate_limit` know the rules. What does not belong here: lanes and their queue.
"""

import math
from typing import Final

from quart import Request
from quart.wrappers.base import BaseRequestWebsocket

from web.security.auth import AuthResult, TokenAuth
from web.security.forwarded import UNREADABLE
from web.security.origin import Denial, OriginPolicy
from web.security.rate_limit import RateLimiter
from web.security.request_info import is_public, peer_and_port

# A link from elsewhere opens a page, and is harmless; these make the server work.
_WORKING: Final = ("/profile/", "/api/")
_UNAUTHORIZED: Final = Denial(401, "unauthorized", "this server requires a token: Authorization: Bearer …")


class AccessControl:
    """Decides about every request; counts and logs what it refuses."""

    def __init__(self, origin_policy: OriginPolicy, auth: TokenAuth, limiter: RateLimiter) -> None:
        self._origin_policy = origin_policy
        self._auth = auth
        self._limiter = limiter

    def check(self, incoming: BaseRequestWebsocket) -> Denial | None:
        """Why a request is refused, or None."""
        denial = self._check_sender(incoming) or self._check_credentials(incoming)
        if denial is not None:
            self.log_refusal(incoming, denial.code)
        return denial

    def log_refusal(self, incoming: BaseRequestWebsocket, reason: str) -> None:
        """Log a request that is refused; `reason` is one of our own words."""
        headers = incoming.headers
        self._limiter.log.warning(
            "request_refused",
            reason=reason,
            peer=peer_and_port(incoming)[0],
            path=incoming.path,
            host=headers.get("Host"),
            origin=headers.get("Origin"),
            site=headers.get("Sec-Fetch-Site"),
        )

    def check_token(self, incoming: BaseRequestWebsocket, token: str) -> Denial | None:
        """Why a token is refused that a request carries, or None; a wrong one is counted."""
        host, _ = peer_and_port(incoming)
        return self.check_attempts(incoming) or self._judge(host, valid=self._auth.matches(token))

    def check_attempts(self, incoming: BaseRequestWebsocket) -> Denial | None:
        """Why no token is accepted from this address now, or None."""
        host, _ = peer_and_port(incoming)
        wait_s = self._limiter.wait_s("token", host)
        if not wait_s:
            return None
        self._limiter.reject(host, "token")
        message = "too many wrong tokens from this address"
        return Denial(429, "too_many_attempts", message, math.ceil(1000 * wait_s))

    def has_cookie(self, incoming: BaseRequestWebsocket) -> bool:
        """Whether a page may show more than its public part: by a cookie, never by a token."""
        return self._auth.check(authorizations=(), cookie=self._cookie(incoming)) is AuthResult.VALID

    def _check_sender(self, incoming: BaseRequestWebsocket) -> Denial | None:
        host, port = peer_and_port(incoming)
        if host == UNREADABLE:
            return Denial(
                400,
                "client_address_unreadable",
                "the reverse proxy names its client so that it cannot be read: have it send the address "
                "in X-Forwarded-For",
            )
        headers = incoming.headers
        return self._origin_policy.denial(
            hosts=headers.getlist("Host"),
            origins=headers.getlist("Origin"),
            fetch_sites=headers.getlist("Sec-Fetch-Site"),
            port=port,
            opens_page=_opens_page(incoming),
        )

    def _check_credentials(self, incoming: BaseRequestWebsocket) -> Denial | None:
        if not self._auth.required:
            return None
        authorizations = incoming.headers.getlist("Authorization")
        if authorizations:  # a cookie cannot be guessed
            result = self._auth.check(authorizations=authorizations, cookie=None)
            return self.check_attempts(incoming) or self._judge(
                peer_and_port(incoming)[0], valid=result is AuthResult.VALID
            )
        if isinstance(incoming, Request) and is_public(incoming.path):
            return None
        return None if self.has_cookie(incoming) else _UNAUTHORIZED

    def _judge(self, host: str, *, valid: bool) -> Denial | None:
        if valid:
            return None
        self._limiter.record_failure("token", host)
        return _UNAUTHORIZED

    def _cookie(self, incoming: BaseRequestWebsocket) -> str | None:
        _, port = peer_and_port(incoming)
        return incoming.cookies.get(self._auth.cookie_name(port))


def _opens_page(incoming: BaseRequestWebsocket) -> bool:
    """Whether a browser follows a link or a bookmark to a page of this server."""
    headers = incoming.headers
    return (
        isinstance(incoming, Request)
        and incoming.method == "GET"
        and headers.getlist("Sec-Fetch-Mode") == ["navigate"]
        and headers.getlist("Sec-Fetch-Dest") == ["document"]
        and not incoming.path.startswith(_WORKING)
    )
