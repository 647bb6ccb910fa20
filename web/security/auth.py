"""Token authentication: a bearer token for clients, a signed cookie for pages.

Clients send the token in an `Authorization: Bearer` header. A page cannot add one to a WebSocket: it
exchanges the token once (POST `/api/session`) for a cookie that scripts cannot read and that no request
from another site carries. The cookie is its own expiry time, signed with a key derived from the token:
the server stores nothing per login, and every server with the same token accepts it. Comparisons take
the same time wherever they fail.

Neighbours: `web.app` checks requests, `web.security.rate_limit` counts failures. What does not belong
here: where the token comes from (`web.security.listen`).
"""

import hashlib
import hmac
import time
from collections.abc import Sequence
from enum import Enum
from typing import Final

from itsdangerous import BadSignature, Signer

COOKIE_S: Final = 12 * 3600
_COOKIE_LABEL: Final = b"packet-voice cookie 1"  # the token itself signs nothing (RFC 5869 §3.2)
# What a page needs before it can send its token, and what a supervisor needs to decide on a restart.
PUBLIC_PATHS: Final = frozenset(
    {
        "/",
        "/packet-voice",
        "/whisperx",
        "/favicon.ico",
        "/authority.crt",
        "/api/session",
        "/health/live",
        "/health/ready",
    }
)
PUBLIC_FOLDERS: Final = ("/static/", "/vendor/")


class AuthResult(Enum):
    """What a request's credentials are worth."""

    VALID = "valid"
    MISSING = "missing"  # none, or a cookie that is not (or no longer) valid
    INVALID = "invalid"  # a wrong token, which counts as a failed attempt


class TokenAuth:
    """Checks requests against the server's token; with `token=None` every request is valid."""

    def __init__(self, token: str | None, *, secure: bool) -> None:
        """`secure`: browsers reach the server through TLS, so the cookie may demand it."""
        self._digest = None if token is None else _digest(token)
        # `itsdangerous.TimestampSigner` would reject a cookie from a server whose clock is a second
        # ahead, so the signed value is the expiry time. Without a token no cookie is ever checked.
        self._signer = Signer(
            _bytes(token or ""), salt=_COOKIE_LABEL, key_derivation="hmac", digest_method=hashlib.sha256
        )
        self._secure = secure

    @property
    def required(self) -> bool:
        """Whether the server has a token."""
        return self._digest is not None

    def matches(self, token: str) -> bool:
        """Whether `token` is the server's token."""
        return self._digest is None or hmac.compare_digest(_digest(token), self._digest)

    def check(self, *, authorizations: Sequence[str], cookie: str | None) -> AuthResult:
        """Judge a request by all of its Authorization headers and the value of our cookie."""
        if self._digest is None:
            return AuthResult.VALID
        if authorizations:
            scheme, _, token = authorizations[0].partition(" ")
            is_valid = len(authorizations) == 1 and scheme.lower() == "bearer" and self.matches(token.strip())
            return AuthResult.VALID if is_valid else AuthResult.INVALID
        return AuthResult.VALID if cookie is not None and self._is_current(cookie) else AuthResult.MISSING

    def cookie_name(self, port: int) -> str:
        """Contains the port, because browsers share cookies between ports. `__Host-`: TLS, this host only."""
        return f"{'__Host-' if self._secure else ''}packet-voice-{port}"

    def cookie(self, port: int) -> str:
        """The value of a Set-Cookie header, valid for `COOKIE_S` from now."""
        value = self._signer.sign(str(int(time.time()) + COOKIE_S)).decode("ascii")
        attributes = f"Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Strict"
        return f"{self.cookie_name(port)}={value}; {attributes}{'; Secure' if self._secure else ''}"

    def _is_current(self, cookie: str) -> bool:
        try:
            expires = self._signer.unsign(_bytes(cookie))
        except BadSignature:
            return False
        return int(expires) > time.time()


def _digest(token: str) -> bytes:
    """The same length for every token, so that a comparison does not reveal how long ours is."""
    return hashlib.sha256(_bytes(token)).digest()


def _bytes(text: str) -> bytes:
    """Encode anything that JSON or a header can hold, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")
