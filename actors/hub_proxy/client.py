"""The hub is asked one question at a time, and whatever it answers is a file, no news, or one refusal.

What goes out is built here from nothing: no header of a client, no cookie, and the token to the
hub's own scheme, host and port alone, never to where it redirects. What comes back is read as
little: status, length, ETag, commit, and the bytes. Redirects are followed here, over https only,
except among loopback addresses.

What does not belong here: what is kept, who waits (`flight`), and what our clients are told
of HTTP (`web.routes.hub`).
"""

import ipaddress
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Final, Protocol, Self
from urllib.parse import quote

import httpx2
import trio

from actors.hub_proxy.disk_store import FileMetadata
from actors.hub_proxy.request import FileRef
from pipeline.errors import HubFileError

HOPS: Final = 5
RETRY_AFTER_MS: Final = 30_000  # of a hub that is told to be asked less, and does not say when
_TOLD: Final = ("x-linked-etag", "x-linked-size", "x-repo-commit")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_ETAG: Final = re.compile(r'(?:W/)?"?([!#-~]{1,128}?)"?')
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The first `size_bytes` of a file, left by an earlier attempt; `etag` says of which."""

    etag: str
    size_bytes: int


class UpstreamResponse:
    """A file that begins to come, from its byte `start_bytes` on; to be closed."""

    def __init__(self, described: FileMetadata, start_bytes: int, response: httpx2.Response) -> None:
        self.described = described
        self.start_bytes = start_bytes
        self._response = response

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, as they come; to be closed.

        Raises:
            HubFileError: it broke off, or the hub went silent.
        """
        pieces = self._response.aiter_raw()
        try:
            async for piece in pieces:
                yield piece
        except httpx2.TimeoutException:
            raise HubFileError("hub_timeout", "the hub went silent in the middle of the file") from None
        except httpx2.HTTPError:
            raise HubFileError("hub_unreachable", "the file broke off on its way from the hub") from None
        finally:
            await self._response.aclose()
            # The client's layers of generators do not all close the next one; at an end they do.
            with suppress(httpx2.HTTPError):
                async for _ in pieces:
                    pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._response.aclose()


class Upstream(Protocol):
    """Whom the proxy asks."""

    endpoint: str

    async def ask(
        self, wanted: FileRef, *, etag: str | None = None, part: ResumePoint | None = None
    ) -> UpstreamResponse | None:
        """The rest of the file if it still is the one of which `part` is, or all of it; None if it is `etag`.

        Raises:
            HubFileError: any other answer, or none in time.
        """
        ...

    async def aclose(self) -> None:
        """Let go of all connections."""
        ...


class HubClient:
    """An `Upstream` over HTTP.

    Args:
        endpoint: the hub's address.
        token: who asks; None: anybody.
        offline: nobody is ever asked.
        timeout_s: how long the answer may take, and then each silence within it.
        connections: kept open for the next question.
    """

    def __init__(
        self, endpoint: str, token: str | None, *, offline: bool, timeout_s: float, connections: int
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        self._offline = offline
        self._timeout_s = timeout_s
        self._url = httpx2.URL(self.endpoint)
        self._is_local = self._url.scheme == "http" and _is_loopback(self._url.host)
        self._client = httpx2.AsyncClient(
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=connections),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"User-Agent": "packet-voice", "Accept": "*/*", "Accept-Encoding": "identity"},
        )

    async def ask(
        self, wanted: FileRef, *, etag: str | None = None, part: ResumePoint | None = None
    ) -> UpstreamResponse | None:
        """See `Upstream`."""
        if self._offline:
            raise HubFileError("hub_unreachable", "HF_HUB_OFFLINE is set, and the cache has no such file")
        if not self._may_ask(self._url):
            raise HubFileError("hub_error", "HF_ENDPOINT is neither https nor on this machine")
        try:
            with trio.fail_after(self._timeout_s):
                return await self._follow(wanted, etag, part)
        except (trio.TooSlowError, httpx2.TimeoutException):
            raise HubFileError(
                "hub_timeout", f"{self._shown} did not answer within {self._timeout_s:g} s"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            problem = type(error).__name__  # its text may hold an address that is signed
            raise HubFileError("hub_unreachable", f"{self._shown} cannot be reached ({problem})") from None

    async def aclose(self) -> None:
        """See `Upstream`."""
        await self._client.aclose()

    async def _follow(
        self, wanted: FileRef, etag: str | None, part: ResumePoint | None
    ) -> UpstreamResponse | None:
        url = httpx2.URL(
            f"{self.endpoint}/{wanted.repo}/resolve/{quote(wanted.revision)}/{quote(wanted.path)}"
        )
        told: dict[str, str] = {}  # by the hub itself, of a file that lies elsewhere
        for _ in range(HOPS + 1):
            response = await self._send(url, etag, part)
            coming = None
            try:
                if self._is_hub(url):
                    told |= {name: value for name, value in response.headers.items() if name in _TOLD}
                if etag is not None and (
                    response.status_code == HTTPStatus.NOT_MODIFIED
                    or _etag(told.get("x-linked-etag")) == etag
                ):
                    return None
                if part is not None and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return await self._follow(wanted, etag, None)
                if response.status_code not in _REDIRECTS:
                    found = self._read(response, told, part)
                    if etag is not None and found.described.etag == etag:
                        return None
                    if part is not None and found.start_bytes and found.described.etag != part.etag:
                        return await self._follow(wanted, etag, None)  # it is another file by now
                    coming = found
                    return coming
                url = url.join(response.headers.get("location", ""))
            finally:
                if coming is None:
                    await response.aclose()
            if not self._may_ask(url):
                raise HubFileError("hub_error", "the hub redirects to an address that is not safe to follow")
        raise HubFileError("hub_error", f"the hub redirects more than {HOPS} times")

    async def _send(self, url: httpx2.URL, etag: str | None, part: ResumePoint | None) -> httpx2.Response:
        headers = {}
        if part is not None:
            headers["Range"] = f"bytes={part.size_bytes}-"
        if self._is_hub(url):
            if etag is not None:
                headers["If-None-Match"] = f'"{etag}"'
            if self._token is not None:
                headers["Authorization"] = f"Bearer {self._token}"
        return await self._client.send(
            self._client.build_request("GET", url, headers=headers), stream=True, follow_redirects=False
        )

    def _read(
        self, response: httpx2.Response, told: Mapping[str, str], part: ResumePoint | None
    ) -> UpstreamResponse:
        """What a last answer brings.

        Raises:
            HubFileError: nothing.
        """
        status, headers, start_bytes = response.status_code, response.headers, 0
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise self._refusal(status, headers, is_hub=self._is_hub(response.request.url))
        if headers.get("content-encoding", "identity") != "identity":
            raise HubFileError("hub_error", "the hub sent the file encoded, unasked")
        length = _LENGTH.fullmatch(headers.get("content-length", ""))
        size_bytes = int(length[0]) if length else None
        if status == HTTPStatus.PARTIAL_CONTENT:
            start_bytes = part.size_bytes if part else 0
            size_bytes = _size_of_rest(headers.get("content-range", ""), start_bytes)
        linked = told.get("x-linked-size")
        if size_bytes is None or (linked is not None and linked != str(size_bytes)):
            raise HubFileError("hub_error", "the hub does not say how long the file is")
        etag = _etag(told.get("x-linked-etag") or headers.get("etag"))
        commit = _COMMIT.fullmatch(told.get("x-repo-commit", ""))
        return UpstreamResponse(
            FileMetadata(size_bytes, etag, commit[0] if commit else None), start_bytes, response
        )

    def _refusal(self, status: int, headers: httpx2.Headers, *, is_hub: bool) -> HubFileError:
        """What an answer without a file says, in our words: the hub's own never reach a client."""
        code = headers.get("x-error-code", "")
        if is_hub and status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            if code == "RepoNotFound":
                return HubFileError(
                    "not_found",
                    "the hub has no such repository, or a private one that HF_TOKEN does not open",
                )
            if self._token is None:
                todo = "accept its terms on the hub and start the server with HF_TOKEN"
            else:
                todo = "the account of the server's HF_TOKEN has no access to it, or the token is not valid"
            return HubFileError(
                "gated", f"the hub does not give this to everybody: {todo}", hub_status=status
            )
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            what = {"RevisionNotFound": "revision", "RepoNotFound": "repository"}.get(code, "file")
            return HubFileError("not_found", f"the hub has no such {what}")
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            asked = headers.get("retry-after", "")
            wait_ms = int(asked) * 1000 if re.fullmatch(r"[0-9]{1,4}", asked) else RETRY_AFTER_MS
            return HubFileError(
                "hub_error", "the hub is busy", hub_status=status, retry_after_ms=max(wait_ms, 1000)
            )
        return HubFileError("hub_error", f"the hub answered with status {status}", hub_status=status)

    def _is_hub(self, url: httpx2.URL) -> bool:
        return _origin(url) == _origin(self._url)

    def _may_ask(self, url: httpx2.URL) -> bool:
        return bool(url.host) and (
            url.scheme == "https" or (self._is_local and url.scheme == "http" and _is_loopback(url.host))
        )

    @property
    def _shown(self) -> str:
        """The hub, without what an address may hold besides."""
        return f"{self._url.scheme}://{self._url.netloc.decode()}"


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _size_of_rest(header: str, start_bytes: int) -> int | None:
    """The whole file's length, by a Content-Range that says: from `start_bytes` to its end."""
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None or int(match[1]) != start_bytes or int(match[2]) + 1 != int(match[3]):
        return None
    return int(match[3])


def _etag(header: str | None) -> str | None:
    match = _ETAG.fullmatch(header or "")
    return match[1] if match else None
