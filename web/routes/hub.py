"""Files of a hub, under this server's own origin: no third party, no token, no header of theirs in a browser.

`GET` and `HEAD` of `/api/hf/{org}/{name}/resolve/{revision}/{path}`: ranges, ETags and conditions
as of any file, and JSON for what cannot be given. What is promised by a length and then does not
come ends in a broken connection, never in an answer that looks whole.

Neighbours: `actors.proxy` has the files; `web.routes.ranges` reads what is asked for. What does not belong
here: the hub.
"""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import Final

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.routing import BaseConverter

from actors.hub_proxy.download import CutShortError, Found
from actors.hub_proxy.request import Wanted
from actors.proxy import Proxy
from actors.sessions.transport import TransportClosedError
from pipeline.errors import NotServedCode, NotServedError
from web.responses import problem
from web.routes.ranges import Part, asked_part
from web.server.connection import PATIENCE

PREFIX: Final = "/api/hf/"
# A page that compiles one model does not read the next one meanwhile.
PATIENCE_S: Final = 60.0
STATUSES: Final[Mapping[NotServedCode, int]] = {
    "bad_path": 400,
    "repo_refused": 403,
    "gated": 403,
    "not_found": 404,
    "too_large": 403,
    "busy": 503,
    "cache_full": 507,
    "hub_error": 502,
    "hub_unreachable": 502,
    "hub_timeout": 504,
    "draining": 503,
}
# A browser is to run, show or guess nothing of it.
_TYPES: Final[Mapping[str, str]] = {
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}


class _Anything(BaseConverter):
    """All that follows, slashes, line breaks and nothing included: what is wrong with it, `Wanted` says."""

    regex = r"[\s\S]*"
    part_isolating = False


def add_hub(app: QuartTrio, proxy: Proxy) -> None:
    """Register the route."""
    app.url_map.converters["anything"] = _Anything

    @app.route(
        f"{PREFIX}<anything:address>", methods=["GET"], provide_automatic_options=False, merge_slashes=False
    )
    async def hub_file(address: str) -> Response:  # noqa: ARG001 - decoded; what counts is how it was spelled
        try:
            found = await proxy.find(Wanted.parse(_spelled(request.scope["raw_path"])))
        except NotServedError as refusal:
            return not_served(refusal)
        return _answer(proxy, found)


def status_of(refusal: NotServedError) -> int:
    """The HTTP status that fits; of a file that is not for everybody, the hub's own."""
    if refusal.code == "gated" and refusal.hub_status is not None:
        return refusal.hub_status
    return STATUSES[refusal.code]


def not_served(refusal: NotServedError) -> Response:
    """The refusal as JSON, with Retry-After where asking again makes sense."""
    wait_ms = refusal.retry_after_ms
    status = 503 if wait_ms is not None and refusal.code == "hub_error" else status_of(refusal)
    response = problem(status, refusal.code, str(refusal), retry_after_ms=wait_ms)
    if wait_ms is not None:
        response.headers["Retry-After"] = str(math.ceil(wait_ms / 1000))
    return response


def _spelled(raw_path: bytes) -> str:
    """What follows the prefix, exactly as it was sent; nothing where the prefix itself was disguised."""
    path = raw_path.decode("latin-1")
    return path.removeprefix(PREFIX) if path.startswith(PREFIX) else ""


def _answer(proxy: Proxy, found: Found) -> Response:
    described = found.described
    etag = None if described.etag is None else f'"{described.etag}"'
    part = asked_part(request.headers, method=request.method, size_bytes=described.size_bytes, etag=etag)
    if part.status == 416:
        response = problem(416, "range_not_satisfiable", f"the file has {described.size_bytes} bytes")
        response.headers["Content-Range"] = f"bytes */{described.size_bytes}"
        return response
    has_body = part.status != 304 and request.method == "GET" and part.size_bytes > 0
    if has_body:
        request.scope["state"][PATIENCE](PATIENCE_S)
    response = Response(_body(proxy, found, part) if has_body else "", status=part.status)
    response.timeout = None  # a large file takes its time
    _describe(response, found, part, etag)
    return response


def _describe(response: Response, found: Found, part: Part, etag: str | None) -> None:
    headers = response.headers
    if part.status == 304:
        del headers["Content-Type"], headers["Content-Length"]
    else:
        path = PurePosixPath(request.path)
        headers["Content-Type"] = _TYPES.get(path.suffix.lower(), "application/octet-stream")
        headers["Content-Length"] = str(part.size_bytes)
        headers["Accept-Ranges"] = "bytes"
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.begin}-{part.end - 1}/{found.described.size_bytes}"
    if etag is not None:
        headers["ETag"] = etag
    if found.described.commit is not None:
        headers["X-Repo-Commit"] = found.described.commit
    headers["X-Hub-Cache"] = found.origin


async def _body(proxy: Proxy, found: Found, part: Part) -> AsyncIterator[bytes]:
    try:
        async with aclosing(proxy.stream(found, part.begin, part.end)) as pieces:
            async for piece in pieces:
                yield piece
    except CutShortError:
        raise TransportClosedError from None  # nobody can be told any more but by the end of it
