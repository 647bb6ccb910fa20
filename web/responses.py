"""What all HTTP responses of this server have in common: the JSON of errors, and the security headers."""

import math

from quart import Response, jsonify
from quart.typing import ResponseTypes

from pipeline.errors import SessionRefusedError
from web.security.origin import HEADERS, Denial, content_security_policy

UNAUTHORIZED = 401
DENY_ALL = content_security_policy()


def error_response(status: int, code: str, message: str, *, retry_after_ms: int | None = None) -> Response:
    """`{"error": {"code", "message"}}` with this status: the fields of the protocol's `error` metadata.

    retry_after_ms: also sent as Retry-After in whole seconds, rounded up so that no client is too early.
    """
    response = jsonify(error_fields(code, message, retry_after_ms))
    response.status_code = status
    if retry_after_ms is not None:
        response.headers["Retry-After"] = retry_after(retry_after_ms)
    return response


def error_fields(code: str, message: str, retry_after_ms: int | None = None) -> dict[str, object]:
    """The body of an error as a JSON object."""
    error: dict[str, object] = {"code": code, "message": message}
    if retry_after_ms is not None:
        error["retryAfterMs"] = retry_after_ms
    return {"error": error}


def retry_after(retry_after_ms: int) -> str:
    """The value of Retry-After."""
    return str(math.ceil(retry_after_ms / 1000))


def session_refused(refusal: SessionRefusedError) -> Response:
    """503 with Retry-After: no lane, or the models are not loaded."""
    return error_response(503, refusal.code, str(refusal), retry_after_ms=refusal.retry_after_ms)


def denied(denial: Denial) -> Response:
    """The response to a request that is not allowed; 401 says how to send a token."""
    response = error_response(
        denial.status, denial.code, denial.message, retry_after_ms=denial.retry_after_ms
    )
    if denial.status == UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def add_security_headers(response: ResponseTypes) -> ResponseTypes:
    """Set the headers of every response, except those it has set itself (its own policy, caching)."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", DENY_ALL)
    return response
