"""The hub proxy: serves files of allowed Hugging Face repositories to the pages, from a cache where it can.

    resolve ─▶ in the cache and fresh? ─ yes ───────────────────▶ hit ──▶ stream, from the cache
                       └─ no ─▶ slot ─▶ hub: unchanged? ─ yes ──▶ hit ──▶
                                             └─ no: download ───▶ miss ─▶ stream, as it is downloaded

There is one download per file at a time, for all who request the file; where the hub cannot be
reached, a cached file is served and called stale.

It runs beside the engine and does not know it: what fails here fails for one file. It holds a few
chunks of a file in memory, never the file.

What belongs here: which files are served, and reading them. What does not: when the hub is asked
(`actors.hub_proxy.fetcher`) and the other parts (`actors.hub_proxy`), statuses and headers
(`web.routes.hub`).
"""

import os
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from actors.hub_proxy.cache import Cache
from actors.hub_proxy.client import Upstream
from actors.hub_proxy.disk_store import HEAD_BYTES, DiskStore, Usage
from actors.hub_proxy.download import CHUNK_BYTES, Download, ResolvedFile, TruncatedError
from actors.hub_proxy.fetcher import BUSY_RETRY_MS, UNREACHED, Fetcher
from actors.hub_proxy.request import Allowed, FileRef
from actors.runtime import awake_clock
from pipeline import config
from pipeline.errors import HubFileError

READ_BYTES: Final = 4 * CHUNK_BYTES  # at once: the way to a thread and back costs as much as reading a MiB
# Errors after which a cached file is served although it may have changed.
_SERVE_STALE: Final = UNREACHED | {"hub_error", "busy", "cache_full"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProxyStatistics:
    """The proxy at one moment.

    Attributes:
        results: requests by where the file came from, or by the error.
        fetching: fetches from the hub under way.
        queued: fetches that wait for a slot.
        active_readers: responses being sent.
        fetched_bytes: received from the hub.
        sent_bytes: sent to clients.
        truncated: responses that ended early.
        cache: files in the cache.
        evicted: files evicted from the cache.
    """

    results: dict[str, int]
    fetching: int
    queued: int
    active_readers: int
    fetched_bytes: int
    sent_bytes: int
    truncated: int
    cache: Usage
    evicted: int


class Proxy:
    """A caching proxy of one hub.

    Args:
        settings: what is allowed, and the bounds.
        upstream: makes the requests to the hub; closed when `run` ends.
        store: the files on disk.
        drain_s: how long readers may finish at the end.
    """

    def __init__(
        self, settings: config.Proxy, upstream: Upstream, store: DiskStore, *, drain_s: float
    ) -> None:
        self._upstream = upstream
        self._cache = Cache(store, settings.cache_bytes)
        self._drain_s = drain_s
        self._allowed = Allowed(settings.allow)
        self._fetcher = Fetcher(settings, upstream, self._cache)
        self._nursery: trio.Nursery | None = None
        self._downloads: dict[str, Download] = {}
        self._closed = False
        self._fetched_bytes = self._sent_bytes = self._truncated = 0
        self._results: Counter[str] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve files for as long as this runs; `drain` ends it."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._cache.measure)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._closed = True
            await self._upstream.aclose()

    async def drain(self) -> None:
        """Refuse new requests, let readers finish within `drain_s`, then let `run` end."""
        self._closed = True
        with awake_clock.move_on_after(self._drain_s):
            await self._cache.wait_idle()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def resolve(self, ref: FileRef) -> ResolvedFile:
        """Find the file in the cache, or begin to download it.

        Raises:
            HubFileError: it is not served; the code is why.
        """
        try:
            file = await self._resolve(ref)
        except HubFileError as error:
            self._results[error.code] += 1
            raise
        self._results[file.origin] += 1
        return file

    async def stream(self, file: ResolvedFile, begin: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield its bytes from `begin` to before `end`, in chunks; the caller closes the generator.

        Raises:
            TruncatedError: the rest is not available.
        """
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            raise TruncatedError
        download, scope = file.download, trio.CancelScope()
        to_reader, pieces = trio.open_memory_channel[bytes](0)
        if download is not None:
            download.add_reader(end)
        try:
            with self._cache.reading(file.name):
                self._nursery.start_soon(self._read_ahead, file, begin, end, to_reader, scope)
                async for piece in pieces:
                    for at in range(0, len(piece), CHUNK_BYTES):
                        chunk = piece[at : at + CHUNK_BYTES]
                        begin += len(chunk)
                        self._sent_bytes += len(chunk)
                        yield chunk
            if begin < end:
                self._truncated += 1
                raise TruncatedError
        finally:
            scope.cancel()
            pieces.close()
            if download is not None:
                download.remove_reader(end)

    def statistics(self) -> ProxyStatistics:
        """The counters now."""
        under_way_bytes = sum(download.fetched_bytes for download in self._downloads.values())
        return ProxyStatistics(
            results=dict(self._results),
            fetching=self._fetcher.running,
            queued=self._fetcher.queued,
            active_readers=self._cache.active_readers,
            fetched_bytes=self._fetched_bytes + under_way_bytes,
            sent_bytes=self._sent_bytes,
            truncated=self._truncated,
            cache=self._cache.usage,
            evicted=self._cache.evicted,
        )

    async def _resolve(self, ref: FileRef) -> ResolvedFile:
        if ref.repo not in self._allowed:
            raise HubFileError("repo_refused", f"{ref.repo} is not one of the repositories in proxy.allow")
        if self._closed or self._nursery is None:
            raise _draining()
        name = ref.name(self._upstream.endpoint)
        self._fetcher.check_missing(name)
        download = self._downloads.get(name)
        if download is None or download.is_over:
            download = self._downloads[name] = Download(name)
            self._nursery.start_soon(self._run_download, download, ref)
        return await download.result()

    async def _read_ahead(
        self,
        file: ResolvedFile,
        begin: int,
        end: int,
        to_reader: trio.MemorySendChannel[bytes],
        scope: trio.CancelScope,
    ) -> None:
        """Read the next piece while one is sent; `to_reader` is closed early where there is no next one."""
        descriptor = None
        with scope, to_reader:
            try:
                descriptor = await self._open(file)
                while begin < end:
                    piece = await self._read(file.download, descriptor, begin, end)
                    begin += len(piece)
                    await to_reader.send(piece)
            except (TruncatedError, OSError) as error:
                problem = str(error) or "the rest of the file is not available"
                log.info("hub_response_truncated", problem=problem)
            finally:
                if descriptor is not None:
                    os.close(descriptor)

    async def _open(self, file: ResolvedFile) -> int:
        """A descriptor of the file, for the caller to close.

        Raises:
            TruncatedError: the cache has another version of it by now.
            OSError: it is gone.
        """
        descriptor = None if file.download is None else file.download.dup_descriptor()
        if descriptor is not None:
            return descriptor
        descriptor, metadata = await self._cache.open(file.name)
        if metadata != file.metadata:
            os.close(descriptor)
            raise TruncatedError
        return descriptor

    async def _read(self, download: Download | None, descriptor: int, begin: int, end: int) -> bytes:
        ready = end if download is None else min(end, await download.wait_for(begin))
        size_bytes = min(READ_BYTES, ready - begin)
        piece = await self._cache.run_blocking(os.pread, descriptor, size_bytes, HEAD_BYTES + begin)
        if not piece:
            raise TruncatedError
        return piece

    async def _run_download(self, download: Download, ref: FileRef) -> None:
        """One lookup, from the cache to the last byte; whatever goes wrong concerns this file alone."""
        try:
            cached = await self._cache.find(download.name)
            if cached is not None and self._fetcher.is_fresh(ref, cached):
                download.set_result(cached.metadata, "hit")
            else:
                await self._fetcher.fetch(download, ref, cached)
        except HubFileError as error:
            if download.resolved.is_set():
                log.warning("hub_fetch_interrupted", file=str(ref), code=error.code, problem=str(error))
            elif cached is not None and error.code in _SERVE_STALE:
                download.set_result(cached.metadata, "stale")
            download.set_error(error)
        except Exception:
            log.exception("hub_fetch_failed", file=str(ref))
            download.set_error(HubFileError("hub_error", "the server failed on this file"))
        finally:
            download.set_error(_draining())
            download.finish()
            self._fetched_bytes += download.fetched_bytes
            if self._downloads.get(download.name) is download:
                del self._downloads[download.name]


def _draining() -> HubFileError:
    return HubFileError("draining", "the server is shutting down", retry_after_ms=BUSY_RETRY_MS)
