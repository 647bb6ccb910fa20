"""An error is a JSON object with a name for programs and a sentence for people, whatever went wrong.

What every HTTP answer of this server has in common: the shape of its errors, and the headers
that keep a browser from doing more with it than it must.
"""

import math

from quart import Response, jsonify
from quart.typing import ResponseTypes

from pipeline.errors import RefusedError
from web.security.origin import HEADERS, content_security_policy

NOTHING = content_security_policy()


def problem(status: int, code: str, message: str, *, retry_after_ms: int | None = None) -> Response:
    """An error of HTTP status `status`; the same fields as the protocol's `error` metadata."""
    error: dict[str, object] = {"code": code, "message": message}
    if retry_after_ms is not None:
        error["retryAfterMs"] = retry_after_ms
    response = jsonify(error=error)
    response.status_code = status
    return response


def refused(refusal: RefusedError) -> Response:
    """503 with Retry-After in whole seconds, rounded up, so that nobody comes back too soon."""
    response = problem(503, refusal.code, str(refusal), retry_after_ms=refusal.retry_after_ms)
    response.headers["Retry-After"] = str(math.ceil(refusal.retry_after_ms / 1000))
    return response


def unauthorized() -> Response:
    """401: how the token is shown, and nothing about what was."""
    response = problem(401, "unauthorized", "this server wants its token: Authorization: Bearer …")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def too_many(wait_s: float) -> Response:
    """429: too many attempts came from this address."""
    retry_after_ms = math.ceil(1000 * wait_s)
    message = "too many wrong tokens came from this address"
    response = problem(429, "too_many_attempts", message, retry_after_ms=retry_after_ms)
    response.headers["Retry-After"] = str(math.ceil(wait_s))
    return response


def harden(response: ResponseTypes) -> ResponseTypes:
    """The headers of every answer; one that needs another policy, or may be kept, says so itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", NOTHING)
    return response
