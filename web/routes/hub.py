"""The hub proxy's route: files of a Hugging Face hub from this server's own origin.

The page contacts no third party, and sees neither the hub's token nor its headers. `GET` and `HEAD` of
`/api/hf/{org}/{name}/resolve/{revision}/{path}`, with ranges, ETags and conditional requests, and JSON
errors. A file that breaks off before its Content-Length ends in a broken connection, never in a response
that looks complete.

Neighbours: `actors.proxy` provides the files; `web.routes.ranges` reads the request's headers. What does
not belong here: talking to the hub.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import Final

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.routing import BaseConverter

from actors.hub_proxy.download import ResolvedFile, TruncatedError
from actors.hub_proxy.request import FileRef
from actors.proxy import Proxy
from actors.sessions.transport import TransportClosedError
from pipeline.errors import HubFileError, HubFileErrorCode
from web.responses import error_response
from web.routes.ranges import Part, requested_part
from web.server.connection import EXTEND_SEND_TIMEOUT

PREFIX: Final = "/api/hf/"
# A page that compiles one model does not read the next one in the meantime.
SEND_TIMEOUT_S: Final = 60.0
STATUSES: Final[Mapping[HubFileErrorCode, int]] = {
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
# Types that a browser neither executes, renders nor guesses.
_TYPES: Final[Mapping[str, str]] = {
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}


class _AnyPath(BaseConverter):
    """Matches any rest of the path, empty or with slashes and line breaks; `FileRef` validates it."""

    regex = r"[\s\S]*"
    part_isolating = False


def add_hub(app: QuartTrio, proxy: Proxy) -> None:
    """Register the route."""
    app.url_map.converters["anything"] = _AnyPath

    @app.route(
        f"{PREFIX}<anything:address>", methods=["GET"], provide_automatic_options=False, merge_slashes=False
    )
    async def hub_file(address: str) -> Response:  # noqa: ARG001 - decoded; the raw path is what counts
        try:
            found = await proxy.resolve(FileRef.parse(_raw_address(request.scope["raw_path"])))
        except HubFileError as error:
            return hub_error_response(error)
        return _file_response(proxy, found)


def status_of(error: HubFileError) -> int:
    """The HTTP status of an error; for a gated file, the hub's own."""
    if error.code == "gated" and error.hub_status is not None:
        return error.hub_status
    return STATUSES[error.code]


def hub_error_response(error: HubFileError) -> Response:
    """The error as JSON, with Retry-After where a retry makes sense."""
    wait_ms = error.retry_after_ms
    status = 503 if wait_ms is not None and error.code == "hub_error" else status_of(error)
    return error_response(status, error.code, str(error), retry_after_ms=wait_ms)


def _raw_address(raw_path: bytes) -> str:
    """The path after the prefix as it was sent; empty where the prefix itself was percent-encoded."""
    path = raw_path.decode("latin-1")
    return path.removeprefix(PREFIX) if path.startswith(PREFIX) else ""


def _file_response(proxy: Proxy, found: ResolvedFile) -> Response:
    metadata = found.metadata
    etag = None if metadata.etag is None else f'"{metadata.etag}"'
    part = requested_part(request.headers, method=request.method, size_bytes=metadata.size_bytes, etag=etag)
    if part.status == 416:
        response = error_response(416, "range_not_satisfiable", f"the file has {metadata.size_bytes} bytes")
        response.headers["Content-Range"] = f"bytes */{metadata.size_bytes}"
        return response
    has_body = part.status != 304 and request.method == "GET" and part.size_bytes > 0
    if has_body:
        request.scope["state"][EXTEND_SEND_TIMEOUT](SEND_TIMEOUT_S)
    response = Response(_body(proxy, found, part) if has_body else "", status=part.status)
    response.timeout = None  # a large file takes longer
    _set_headers(response, found, part, etag)
    return response


def _set_headers(response: Response, found: ResolvedFile, part: Part, etag: str | None) -> None:
    headers = response.headers
    if part.status == 304:
        del headers["Content-Type"], headers["Content-Length"]
    else:
        path = PurePosixPath(request.path)
        headers["Content-Type"] = _TYPES.get(path.suffix.lower(), "application/octet-stream")
        headers["Content-Length"] = str(part.size_bytes)
        headers["Accept-Ranges"] = "bytes"
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.begin}-{part.end - 1}/{found.metadata.size_bytes}"
    if etag is not None:
        headers["ETag"] = etag
    if found.metadata.commit is not None:
        headers["X-Repo-Commit"] = found.metadata.commit
    headers["X-Hub-Cache"] = found.origin


async def _body(proxy: Proxy, found: ResolvedFile, part: Part) -> AsyncIterator[bytes]:
    try:
        async with aclosing(proxy.stream(found, part.begin, part.end)) as chunks:
            async for chunk in chunks:
                yield chunk
    except TruncatedError:
        raise TransportClosedError from None  # the headers are sent: only the connection can break
