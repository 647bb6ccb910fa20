"""Who shows the token may speak; everybody else learns that there is one, and nothing about it.

Clients show it in an `Authorization: Bearer` header. A page cannot add one to a WebSocket: it
exchanges the token once (POST `/api/session`) for a cookie that scripts cannot read and that no
other site's request carries. The cookie is its own expiry date, signed with a key that dies with
the process; nothing is kept per session. Comparisons take the same time wherever they fail.

Neighbours: `web.app` asks; `web.security.rate_limit` counts who failed. What does not belong here: where
the token comes from (`web.security.listen`).
"""

import hashlib
import hmac
import time
from collections.abc import Sequence
from enum import Enum
from typing import Final

COOKIE_S: Final = 12 * 3600
_COOKIE_LABEL: Final = b"packet-voice cookie 1"  # the token itself signs nothing (RFC 5869 §3.2)
# What a page needs before it can show its token, and what tells a supervisor whether to restart.
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


class Shown(Enum):
    """What a request showed of the token."""

    RIGHT = "right"
    NOTHING = "nothing"  # or a cookie that has expired
    WRONG = "wrong"


class Keys:
    """The token of this server, or None where everybody may speak."""

    def __init__(self, token: str | None, *, secure: bool) -> None:
        self._digest = None if token is None else _digest(token)
        # Where there is no token nobody looks at a cookie.
        self._cookie_key = hmac.new(_bytes(token or ""), _COOKIE_LABEL, hashlib.sha256).digest()
        self._secure = secure

    @property
    def wanted(self) -> bool:
        """Whether there is a token at all."""
        return self._digest is not None

    def fits(self, token: str) -> bool:
        """Whether this is the token."""
        return self._digest is None or hmac.compare_digest(_digest(token), self._digest)

    def shown(self, *, authorizations: Sequence[str], cookie: str | None) -> Shown:
        """What a request showed; the arguments hold its Authorization headers and our cookie's value."""
        if self._digest is None:
            return Shown.RIGHT
        if authorizations:
            scheme, _, token = authorizations[0].partition(" ")
            is_right = len(authorizations) == 1 and scheme.lower() == "bearer" and self.fits(token.strip())
            return Shown.RIGHT if is_right else Shown.WRONG
        return Shown.RIGHT if cookie is not None and self._is_current(cookie) else Shown.NOTHING

    def cookie_name(self, port: int) -> str:
        """Browsers keep one jar for all ports of a host; a prefix of `__Host-` demands TLS and this host."""
        return f"{'__Host-' if self._secure else ''}packet-voice-{port}"

    def cookie(self, port: int) -> str:
        """A Set-Cookie header's value, for `COOKIE_S` from now."""
        expires = str(int(time.time()) + COOKIE_S)
        attributes = f"Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Strict"
        value = f"{expires}.{self._sign(expires)}"
        return f"{self.cookie_name(port)}={value}; {attributes}{'; Secure' if self._secure else ''}"

    def _is_current(self, cookie: str) -> bool:
        expires, _, signature = cookie.partition(".")
        is_ours = hmac.compare_digest(_bytes(signature), self._sign(expires).encode())
        return is_ours and int(expires) > time.time()

    def _sign(self, expires: str) -> str:
        return hmac.new(self._cookie_key, _bytes(expires), hashlib.sha256).hexdigest()


def _digest(token: str) -> bytes:
    """As long for every token, so that a comparison does not tell how long ours is."""
    return hashlib.sha256(_bytes(token)).digest()


def _bytes(text: str) -> bytes:
    """Anything that JSON or a header may hold, half a surrogate pair included."""
    return text.encode("utf-8", "surrogatepass")
