"""The hub is asked as seldom as can be, a few questions at a time, and what it said is remembered a while.

As many errands run at once as there are slots, and the others wait for one, not for ever. A file at
a commit is never asked for again; one of a branch is, after a while; an absent one too. A hub that
was not reached is left alone for a moment as far as the cache can answer.

Neighbours: `actors.proxy` starts a flight and sends it on its errand; `hub` puts the question.
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
from pipeline import config
from pipeline.errors import HubFileError

ABSENT_FILES: Final = 1024
REST_S: Final = 10.0  # for which a hub that was not reached is not asked about what is there already
BUSY_RETRY_MS: Final = 5_000
FULL_RETRY_MS: Final = 60_000
UNREACHED: Final = frozenset({"hub_unreachable", "hub_timeout"})


class Fetcher:
    """Questions to one hub.

    Args:
        settings: the bounds.
        upstream: who asks the hub.
        shelf: where what comes is put.
    """

    def __init__(self, settings: config.Proxy, upstream: Upstream, shelf: Cache) -> None:
        self.running = 0
        self.queued = 0
        self._settings = settings
        self._upstream = upstream
        self._shelf = shelf
        self._slots = trio.Semaphore(settings.fetches)
        self._absent: OrderedDict[str, tuple[float, HubFileError]] = OrderedDict()
        self._rest_until_s = -1.0

    def is_current(self, wanted: FileRef, kept: CachedFile) -> bool:
        """Whether what is kept may be given unasked."""
        return wanted.is_pinned or 0 <= time.time() - kept.checked_s < self._settings.fresh_s

    def check_absent(self, name: str) -> None:
        """Whether the hub may have it.

        Raises:
            HubFileError: it said a moment ago that it has not.
        """
        until_s, absence = self._absent.get(name, (0.0, None))
        if absence is not None and trio.current_time() < until_s:
            raise absence.with_traceback(None)

    async def run(self, flight: Download, wanted: FileRef, kept: CachedFile | None) -> None:
        """Ask the hub, and bring what it has.

        Raises:
            HubFileError: nothing came of it, or not all.
        """
        if kept is not None and trio.current_time() < self._rest_until_s:
            raise HubFileError("hub_unreachable", "the hub was not reached a moment ago")
        await self._take_slot()
        growing: PartialFile | None = None
        try:
            growing = await self._shelf.grow(flight.name)
            await self._ask(flight, wanted, kept, growing)
        except OSError as error:
            if growing is not None:
                growing.drop()
            problem = f"the server's cache cannot be written ({error.strerror})"
            raise HubFileError("cache_full", problem, retry_after_ms=FULL_RETRY_MS) from None
        finally:
            flight.land()
            if growing is not None:
                growing.close()
            self._shelf.release(flight.name)
            self.running -= 1
            self._slots.release()
        await self._shelf.measure()

    async def _ask(
        self, flight: Download, wanted: FileRef, kept: CachedFile | None, growing: PartialFile
    ) -> None:
        began, part = growing.described, None
        if began is not None and began.etag is not None and growing.present_bytes:
            part = ResumePoint(began.etag, growing.present_bytes)
        etag = None if kept is None else kept.described.etag
        try:
            coming = await self._upstream.ask(wanted, etag=etag, part=part)
        except HubFileError as refusal:
            if refusal.code in UNREACHED:
                self._rest_until_s = trio.current_time() + REST_S
            elif refusal.code == "not_found":
                self._remember_absent(flight.name, refusal)
            raise
        if coming is None:
            assert kept is not None  # it was its ETag
            await self._shelf.note_current(flight.name)
            flight.settle(kept.described, "hit")
            return
        async with coming:
            await self._reserve(flight.name, coming.described.size_bytes)
            if not coming.start_bytes:
                await self._shelf.on_disk(growing.begin, wanted, coming.described)
            flight.settle(coming.described, "miss")
            await flight.bring(coming, growing, self._shelf)

    async def _take_slot(self) -> None:
        self.queued += 1
        try:
            with trio.move_on_after(self._settings.queue_s):
                await self._slots.acquire()
                self.running += 1
                return
        finally:
            self.queued -= 1
        problem = "too many other files are on their way from the hub"
        raise HubFileError("busy", problem, retry_after_ms=BUSY_RETRY_MS)

    async def _reserve(self, name: str, size_bytes: int) -> None:
        """Room for a file.

        Raises:
            HubFileError: it is too large, or what is there is in use.
        """
        most_bytes = min(self._settings.file_bytes, self._shelf.largest_bytes)
        if size_bytes > most_bytes:
            problem = f"the file has {size_bytes} bytes, and this server gives {most_bytes} at most"
            raise HubFileError("too_large", problem)
        if not await self._shelf.reserve(name, size_bytes):
            problem = "the server's cache is full of files that are in use"
            raise HubFileError("cache_full", problem, retry_after_ms=FULL_RETRY_MS)

    def _remember_absent(self, name: str, absence: HubFileError) -> None:
        self._absent.pop(name, None)
        self._absent[name] = trio.current_time() + self._settings.absent_s, absence
        while len(self._absent) > ABSENT_FILES:
            self._absent.popitem(last=False)
