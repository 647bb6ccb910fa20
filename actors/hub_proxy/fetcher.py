"""Asks the hub as rarely as possible, a few requests at a time, and remembers its recent answers.

As many fetches run at once as there are slots; the others wait for one, for a bounded time. A file
at a commit is never revalidated, one of a branch is after a while, and so is a missing one. After a
request that did not reach the hub, it is not asked again for a moment about files in the cache.

Neighbours: `actors.proxy` starts a download and fetches it here; `client` makes the request.
"""

import time
from collections import OrderedDict
from typing import Final

import trio

from actors.hub_proxy.cache import Cache
from actors.hub_proxy.client import ResumePoint, Upstream
from actors.hub_proxy.disk_store import CachedFile, PartialFile
from actors.hub_proxy.download import Download
from actors.hub_proxy.request import FileRef
from actors.runtime import awake_clock
from pipeline import config
from pipeline.errors import HubFileError

MISSING_FILES: Final = 1024  # remembered at most
UNREACHABLE_S: Final = 10.0  # how long a hub that was not reached is not asked about files in the cache
BUSY_RETRY_MS: Final = 5_000
FULL_RETRY_MS: Final = 60_000
UNREACHED: Final = frozenset({"hub_unreachable", "hub_timeout"})


class Fetcher:
    """Fetches from one hub.

    Args:
        settings: the bounds.
        upstream: makes the requests.
        cache: stores what is downloaded.

    Attributes:
        running: fetches that have a slot.
        queued: fetches that wait for one.
    """

    def __init__(self, settings: config.Proxy, upstream: Upstream, cache: Cache) -> None:
        self.running = 0
        self.queued = 0
        self._settings = settings
        self._upstream = upstream
        self._cache = cache
        self._slots = trio.Semaphore(settings.fetches)
        self._missing: OrderedDict[str, tuple[float, HubFileError]] = OrderedDict()
        self._unreachable_until_s = -1.0

    def is_fresh(self, ref: FileRef, cached: CachedFile) -> bool:
        """Whether a cached file may be served without asking the hub."""
        return ref.is_pinned or 0 <= time.time() - cached.validated_s < self._settings.fresh_s

    def check_missing(self, name: str) -> None:
        """Do nothing, unless the hub answered recently that it has no such file.

        Raises:
            HubFileError: that answer.
        """
        until_s, error = self._missing.get(name, (0.0, None))
        if error is not None and trio.current_time() < until_s:
            raise error.with_traceback(None)

    async def fetch(self, download: Download, ref: FileRef, cached: CachedFile | None) -> None:
        """Ask the hub for a file, and download it unless the cached one is still current.

        Raises:
            HubFileError: the file was not found, or not downloaded completely.
        """
        if cached is not None and trio.current_time() < self._unreachable_until_s:
            raise HubFileError("hub_unreachable", "the hub could not be reached a moment ago")
        await self._take_slot()
        partial: PartialFile | None = None
        try:
            partial = await self._cache.open_partial(download.name)
            await self._request(download, ref, cached, partial)
        except OSError as error:
            if partial is not None:
                partial.discard()
            problem = f"the server's cache cannot be written ({error.strerror})"
            raise HubFileError("cache_full", problem, retry_after_ms=FULL_RETRY_MS) from None
        finally:
            download.finish()
            if partial is not None:
                partial.close()
            self._cache.release(download.name)
            self.running -= 1
            self._slots.release()
        await self._cache.measure()

    async def _request(
        self, download: Download, ref: FileRef, cached: CachedFile | None, partial: PartialFile
    ) -> None:
        resume: ResumePoint | None = None
        if partial.metadata is not None and partial.metadata.etag is not None and partial.present_bytes:
            resume = ResumePoint(partial.metadata.etag, partial.present_bytes)
        etag = None if cached is None else cached.metadata.etag
        try:
            response = await self._upstream.fetch(ref, etag=etag, resume=resume)
        except HubFileError as error:
            if error.code in UNREACHED:
                self._unreachable_until_s = trio.current_time() + UNREACHABLE_S
            elif error.code == "not_found":
                self._remember_missing(download.name, error)
            raise
        if response is None:
            assert cached is not None  # the ETag was that of the cached file
            await self._cache.mark_validated(download.name)
            download.set_result(cached.metadata, "hit")
            return
        async with response:
            await self._reserve(download.name, response.metadata.size_bytes)
            if not response.start_bytes:
                await self._cache.run_blocking(partial.start, ref, response.metadata)
            download.set_result(response.metadata, "miss")
            await download.run(response, partial, self._cache)

    async def _take_slot(self) -> None:
        self.queued += 1
        try:
            with awake_clock.move_on_after(self._settings.queue_s):
                await self._slots.acquire()
                self.running += 1
                return
        finally:
            self.queued -= 1
        problem = "too many other files are being downloaded"
        raise HubFileError("busy", problem, retry_after_ms=BUSY_RETRY_MS)

    async def _reserve(self, name: str, size_bytes: int) -> None:
        """Reserve room for a file.

        Raises:
            HubFileError: it is too large, or all other files are in use.
        """
        most_bytes = min(self._settings.file_bytes, self._cache.largest_bytes)
        if size_bytes > most_bytes:
            problem = f"the file has {size_bytes} bytes, and the limit of this server is {most_bytes}"
            raise HubFileError("too_large", problem)
        if not await self._cache.reserve(name, size_bytes):
            problem = "the server's cache is full of files that are in use"
            raise HubFileError("cache_full", problem, retry_after_ms=FULL_RETRY_MS)

    def _remember_missing(self, name: str, error: HubFileError) -> None:
        self._missing.pop(name, None)
        self._missing[name] = trio.current_time() + self._settings.absent_s, error
        while len(self._missing) > MISSING_FILES:
            self._missing.popitem(last=False)
