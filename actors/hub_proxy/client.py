"""One request to the hub over HTTP: the result is a file, "not modified", or one error.

A request is built from scratch: no header of a client, no cookie, and the token only for the hub's
own scheme, host and port, never for where it redirects. Of the response only status, length, ETag,
commit and body are used. Redirects are followed here, over https only, except among loopback
addresses.

What does not belong here: what is cached, what is shared by several readers (`download`), and the
HTTP of our own clients (`web.routes.hub`).
"""

import ipaddress
import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
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
RETRY_AFTER_MS: Final = 30_000  # where a hub that is busy does not send its own
_HUB_HEADERS: Final = ("x-linked-etag", "x-linked-size", "x-repo-commit")
_PROXIES: Final = ("all_proxy", "http_proxy", "https_proxy")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_ETAG: Final = re.compile(r'(?:W/)?"?([!#-~]{1,128}?)"?')
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What an earlier attempt left: the first `size_bytes` of the file with this ETag."""

    etag: str
    size_bytes: int


class UpstreamResponse:
    """A file that the hub sends, from its byte `start_bytes` on; a context manager."""

    def __init__(self, metadata: FileMetadata, start_bytes: int, response: httpx2.Response) -> None:
        self.metadata = metadata
        self.start_bytes = start_bytes
        self._response = response

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes as they come; the caller closes the generator.

        Raises:
            HubFileError: the response broke off, or the hub stopped sending.
        """
        chunks = self._response.aiter_raw()
        try:
            async for chunk in chunks:
                yield chunk
        except httpx2.TimeoutException:
            raise HubFileError("hub_timeout", "the hub stopped sending in the middle of the file") from None
        except httpx2.HTTPError:
            raise HubFileError("hub_unreachable", "the download from the hub broke off") from None
        finally:
            await self._response.aclose()
            # The client's layers of generators do not all close the next one; reading to the end does.
            with suppress(httpx2.HTTPError):
                async for _ in chunks:
                    pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._response.aclose()


class Upstream(Protocol):
    """The hub, as the proxy uses it."""

    endpoint: str

    async def fetch(
        self, ref: FileRef, *, etag: str | None = None, resume: ResumePoint | None = None
    ) -> UpstreamResponse | None:
        """Request a file: the rest of it if it still has the ETag of `resume`, all of it otherwise.

        None if the file still has the ETag `etag`.

        Raises:
            HubFileError: any other response, or none in time.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class HubClient:
    """An `Upstream` over HTTP.

    Args:
        endpoint: the hub's address.
        token: authenticates with the hub; None for anonymous requests.
        offline: never send a request.
        timeout_s: how long the response may take, and then each pause within it.
        connections: kept open for the next request.
    """

    def __init__(
        self, endpoint: str, token: str | None, *, offline: bool, timeout_s: float, connections: int
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._token = token
        self._offline = offline
        self._timeout_s = timeout_s
        self._connections = connections

    @cached_property
    def _url(self) -> httpx2.URL:
        return httpx2.URL(self.endpoint)

    @cached_property
    def _is_local(self) -> bool:
        return self._url.scheme == "http" and _is_loopback(self._url.host)

    @cached_property
    def _client(self) -> httpx2.AsyncClient:
        """Created for the first request, because it reads the proxies and certificates of the environment."""
        return httpx2.AsyncClient(
            timeout=self._timeout_s,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=self._connections),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"User-Agent": "packet-voice", "Accept": "*/*", "Accept-Encoding": "identity"},
        )

    async def fetch(
        self, ref: FileRef, *, etag: str | None = None, resume: ResumePoint | None = None
    ) -> UpstreamResponse | None:
        """See `Upstream`."""
        if self._offline:
            raise HubFileError("hub_unreachable", "HF_HUB_OFFLINE is set, and the file is not in the cache")
        self._check_environment()
        try:
            with trio.fail_after(self._timeout_s):
                return await self._follow(ref, etag, resume)
        except (trio.TooSlowError, httpx2.TimeoutException):
            raise HubFileError(
                "hub_timeout", f"{self._shown} did not answer within {self._timeout_s:g} s"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            problem = type(error).__name__  # its text may hold a signed address
            raise HubFileError("hub_unreachable", f"{self._shown} cannot be reached ({problem})") from None

    async def aclose(self) -> None:
        """See `Upstream`."""
        if "_client" in self.__dict__:
            await self._client.aclose()

    def _check_environment(self) -> None:
        """Create the client.

        Raises:
            HubFileError: the environment's endpoint, proxies or certificates cannot be used.
        """
        try:
            if not self._may_ask(self._url):
                raise HubFileError("hub_error", "HF_ENDPOINT is neither https nor on this machine")
        except httpx2.InvalidURL:
            raise HubFileError("hub_error", "HF_ENDPOINT is not an address") from None
        try:
            _ = self._client
        except ImportError:
            problem = f"{_proxy_names()} names a SOCKS proxy, which needs the package socksio"
        except (ValueError, httpx2.InvalidURL):
            problem = f"{_proxy_names()} does not name a proxy that the hub client can use"
        except OSError as error:  # ssl.SSLError is one
            problem = f"the certificates in SSL_CERT_FILE or SSL_CERT_DIR cannot be read ({error.strerror})"
        else:
            return
        raise HubFileError("hub_unreachable", problem)

    async def _follow(
        self, ref: FileRef, etag: str | None, resume: ResumePoint | None
    ) -> UpstreamResponse | None:
        url = httpx2.URL(f"{self.endpoint}/{ref.repo}/resolve/{quote(ref.revision)}/{quote(ref.path)}")
        hub_headers: dict[str, str] = {}  # the hub's own, about a file that is stored elsewhere
        for _ in range(HOPS + 1):
            response = await self._send(url, etag, resume)
            result = None
            try:
                if self._is_hub(url):
                    hub_headers |= {n: value for n, value in response.headers.items() if n in _HUB_HEADERS}
                if etag is not None and (
                    response.status_code == HTTPStatus.NOT_MODIFIED
                    or _etag(hub_headers.get("x-linked-etag")) == etag
                ):
                    return None
                if resume is not None and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return await self._follow(ref, etag, None)
                if response.status_code not in _REDIRECTS:
                    found = self._read(response, hub_headers, resume)
                    if etag is not None and found.metadata.etag == etag:
                        return None
                    if resume is not None and found.start_bytes and found.metadata.etag != resume.etag:
                        return await self._follow(ref, etag, None)  # the file has changed
                    result = found
                    return result
                url = url.join(response.headers.get("location", ""))
            finally:
                if result is None:
                    await response.aclose()
            if not self._may_ask(url):
                raise HubFileError("hub_error", "the hub redirects to an address that is not safe to follow")
        raise HubFileError("hub_error", f"the hub redirects more than {HOPS} times")

    async def _send(self, url: httpx2.URL, etag: str | None, resume: ResumePoint | None) -> httpx2.Response:
        headers = {}
        if resume is not None:
            headers["Range"] = f"bytes={resume.size_bytes}-"
        if self._is_hub(url):
            if etag is not None:
                headers["If-None-Match"] = f'"{etag}"'
            if self._token is not None:
                headers["Authorization"] = f"Bearer {self._token}"
        return await self._client.send(
            self._client.build_request("GET", url, headers=headers), stream=True, follow_redirects=False
        )

    def _read(
        self, response: httpx2.Response, hub_headers: Mapping[str, str], resume: ResumePoint | None
    ) -> UpstreamResponse:
        """The file in a response that is not a redirect.

        Raises:
            HubFileError: there is none.
        """
        status, headers, start_bytes = response.status_code, response.headers, 0
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise self._error_of(status, headers, is_hub=self._is_hub(response.request.url))
        if headers.get("content-encoding", "identity") != "identity":
            raise HubFileError("hub_error", "the hub sent the file with a content encoding")
        length = _LENGTH.fullmatch(headers.get("content-length", ""))
        size_bytes = int(length[0]) if length else None
        if status == HTTPStatus.PARTIAL_CONTENT:
            start_bytes = resume.size_bytes if resume else 0
            size_bytes = _size_of_rest(headers.get("content-range", ""), start_bytes)
        linked = hub_headers.get("x-linked-size")
        if size_bytes is None or (linked is not None and linked != str(size_bytes)):
            raise HubFileError("hub_error", "the hub did not send the length of the file")
        etag = _etag(hub_headers.get("x-linked-etag") or headers.get("etag"))
        commit = _COMMIT.fullmatch(hub_headers.get("x-repo-commit", ""))
        metadata = FileMetadata(size_bytes, etag, commit[0] if commit else None)
        return UpstreamResponse(metadata, start_bytes, response)

    def _error_of(self, status: int, headers: httpx2.Headers, *, is_hub: bool) -> HubFileError:
        """The error for a response without a file, in our words: the hub's own never reach a client."""
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
                "gated", f"access to this repository is restricted: {todo}", hub_status=status
            )
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            what = {"RevisionNotFound": "revision", "RepoNotFound": "repository"}.get(code, "file")
            return HubFileError("not_found", f"the hub has no such {what}")
        if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            retry_after = headers.get("retry-after", "")
            is_seconds = re.fullmatch(r"[0-9]{1,4}", retry_after) is not None
            wait_ms = int(retry_after) * 1000 if is_seconds else RETRY_AFTER_MS
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
        """The hub's address without credentials, path or query."""
        return f"{self._url.scheme}://{self._url.netloc.decode()}"


class UnavailableHub:
    """An `Upstream` that cannot be asked: every file that is not in the cache fails with `problem`."""

    endpoint = "https://huggingface.co"

    def __init__(self, problem: str) -> None:
        self.problem = problem

    async def fetch(
        self, _ref: FileRef, *, etag: str | None = None, resume: ResumePoint | None = None
    ) -> UpstreamResponse | None:
        """See `Upstream`."""
        del etag, resume
        raise HubFileError("hub_unreachable", self.problem)

    async def aclose(self) -> None:
        """See `Upstream`."""


def _proxy_names() -> str:
    """The variables of the environment that name a proxy."""
    names = [name for name in os.environ if name.lower() in _PROXIES and os.environ[name]]
    return " or ".join(sorted(names)) or "the system's proxy setting"


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
    """The whole file's length, by a Content-Range from `start_bytes` to its end; None for any other."""
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None or int(match[1]) != start_bytes or int(match[2]) + 1 != int(match[3]):
        return None
    return int(match[3])


def _etag(header: str | None) -> str | None:
    match = _ETAG.fullmatch(header or "")
    return match[1] if match else None
