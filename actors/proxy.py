"""The hub proxy: pages get the files of allowed repositories here, and the hub is asked as seldom as can be.

    request ─▶ find ─▶ flight ─▶ on the shelf, and current? ──▶ found ─▶ stream, from the shelf
                          └────▶ slot ─▶ hub: unchanged? ─────▶ found ─▶      or from what has
                                           └─ comes ─▶ shelf ─▶ found ─▶      come so far

One flight per file at a time; as many of them ask the hub at once as there are slots, and the
others wait for one, not for ever. A file at a commit is never asked for again; one of a branch
is, after a while, and where the hub cannot be reached what is there is given and called stale.

It lives beside the line and knows nothing of it: what fails here fails for one file. It holds a
few pieces of a file in memory, never the file.

What belongs here: who may have what, from where, and when. What does not: the parts
(`actors.proxying`), statuses and headers (`web.hub`).
"""

import os
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from actors.proxying.flight import PIECE_BYTES, CutShortError, Flight, Found
from actors.proxying.hub import Part, Upstream
from actors.proxying.shelf import Shelf
from actors.proxying.store import HEAD_BYTES, Growing, Kept, Store, Usage
from actors.proxying.wanted import Allowed, Wanted
from pipeline import config
from pipeline.errors import NotServedError

ABSENT_FILES: Final = 1024
REST_S: Final = 10.0  # for which a hub that was not reached is not asked about what is there already
BUSY_RETRY_MS: Final = 5_000
FULL_RETRY_MS: Final = 60_000
_UNREACHED: Final = frozenset({"hub_unreachable", "hub_timeout"})
_IN_DOUBT: Final = _UNREACHED | {"hub_error", "busy", "cache_full"}  # what is there is better than nothing

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProxyStatistics:
    """The proxy at one moment. `results` counts answers: where the file came from, or why there was none."""

    results: dict[str, int]
    fetching: int
    queued: int
    reading: int
    fetched_bytes: int
    sent_bytes: int
    cut: int
    kept: Usage
    removed: int


class Proxy:
    """The way to one hub.

    Args:
        settings: what is allowed, and the bounds.
        upstream: who asks the hub; closed when `run` ends.
        store: what is kept.
        drain_s: how long those who read may finish at the end.
    """

    def __init__(self, settings: config.Proxy, upstream: Upstream, store: Store, *, drain_s: float) -> None:
        self._settings = settings
        self._upstream = upstream
        self._shelf = Shelf(store, settings.cache_bytes)
        self._drain_s = drain_s
        self._allowed = Allowed(settings.allow)
        self._nursery: trio.Nursery | None = None
        self._slots = trio.Semaphore(settings.fetches)
        self._flights: dict[str, Flight] = {}
        self._absent: OrderedDict[str, tuple[float, NotServedError]] = OrderedDict()
        self._rest_until_s = -1.0
        self._closed = self._ended = False
        self._fetching = self._queued = self._fetched_bytes = self._sent_bytes = self._cut = 0
        self._results: Counter[str] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Files may be found for as long as this runs; it ends by `drain`."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._shelf.measure)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._closed = self._ended = True
            await self._upstream.aclose()

    async def drain(self) -> None:
        """Begin nothing more, let those who read finish for at most `drain_s`, then end."""
        self._closed = True
        with trio.move_on_after(self._drain_s):
            await self._shelf.all_left()
        self._ended = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def find(self, wanted: Wanted) -> Found:
        """The file, there or on its way.

        Raises:
            NotServedError: it is not given, and why.
        """
        try:
            found = await self._find(wanted)
        except NotServedError as refusal:
            self._results[refusal.code] += 1
            raise
        self._results[found.origin] += 1
        return found

    async def stream(self, found: Found, begin: int, end: int) -> AsyncGenerator[bytes, None]:
        """Its bytes from `begin` to before `end`, in pieces; to be closed.

        Raises:
            CutShortError: the rest is not to be had.
        """
        flight, descriptor = found.flight, None
        if flight is not None:
            flight.want(end)
        try:
            with self._shelf.reading(found.name):
                descriptor = await self._open(found)
                while begin < end:
                    piece = await self._read(flight, descriptor, begin, end)
                    begin += len(piece)
                    self._sent_bytes += len(piece)
                    yield piece
        except (CutShortError, OSError) as error:
            self._cut += 1
            log.info("hub_file_cut", problem=str(error) or "the rest of it is not there")
            raise CutShortError from error
        finally:
            if descriptor is not None:
                os.close(descriptor)
            if flight is not None:
                flight.unwant(end)

    def statistics(self) -> ProxyStatistics:
        """Everything, now."""
        on_their_way = sum(flight.fetched_bytes for flight in self._flights.values())
        return ProxyStatistics(
            results=dict(self._results),
            fetching=self._fetching,
            queued=self._queued,
            reading=self._shelf.readers,
            fetched_bytes=self._fetched_bytes + on_their_way,
            sent_bytes=self._sent_bytes,
            cut=self._cut,
            kept=self._shelf.usage,
            removed=self._shelf.removed,
        )

    async def _find(self, wanted: Wanted) -> Found:
        if wanted.repo not in self._allowed:
            raise NotServedError("repo_refused", f"{wanted.repo} is none of the repositories in proxy.allow")
        if self._closed or self._nursery is None:
            raise _draining()
        name = wanted.name(self._upstream.endpoint)
        until_s, absence = self._absent.get(name, (0.0, None))
        if absence is not None and trio.current_time() < until_s:
            raise absence.with_traceback(None)
        flight = self._flights.get(name)
        if flight is None or flight.is_over:
            flight = self._flights[name] = Flight(name)
            self._nursery.start_soon(self._fly, flight, wanted)
        return await flight.result()

    async def _open(self, found: Found) -> int:
        """A descriptor of what was found.

        Raises:
            CutShortError: it is another file by now.
            OSError: it is gone.
        """
        growing = None if found.flight is None else found.flight.descriptor()
        if growing is not None:
            return growing
        descriptor, described = await self._shelf.open(found.name)
        if described != found.described:
            os.close(descriptor)
            raise CutShortError
        return descriptor

    async def _read(self, flight: Flight | None, descriptor: int, begin: int, end: int) -> bytes:
        ready = end if flight is None else min(end, await flight.reach(begin))
        size_bytes = min(PIECE_BYTES, ready - begin)
        piece = await self._shelf.on_disk(os.pread, descriptor, size_bytes, HEAD_BYTES + begin)
        if self._ended or not piece:
            raise CutShortError
        return piece

    async def _fly(self, flight: Flight, wanted: Wanted) -> None:
        """One flight, from the question to its end; whatever goes wrong on it stays with its file."""
        try:
            kept = await self._shelf.find(flight.name)
            if kept is not None and self._is_current(wanted, kept):
                flight.settle(kept.described, "hit")
            else:
                await self._fetch(flight, wanted, kept)
        except NotServedError as refusal:
            if flight.known.is_set():
                log.warning("hub_fetch_broken", file=str(wanted), code=refusal.code, problem=str(refusal))
            elif kept is not None and refusal.code in _IN_DOUBT:
                flight.settle(kept.described, "stale")
            flight.fail(refusal)
        except Exception:
            log.exception("hub_fetch_failed", file=str(wanted))
            flight.fail(NotServedError("hub_error", "the server failed on this file"))
        finally:
            flight.fail(_draining())
            flight.land()
            self._fetched_bytes += flight.fetched_bytes
            if self._flights.get(flight.name) is flight:
                del self._flights[flight.name]

    def _is_current(self, wanted: Wanted, kept: Kept) -> bool:
        return wanted.is_pinned or 0 <= time.time() - kept.checked_s < self._settings.fresh_s

    async def _fetch(self, flight: Flight, wanted: Wanted, kept: Kept | None) -> None:
        """Ask the hub, and bring what it has.

        Raises:
            NotServedError: nothing came of it, or not all.
        """
        if kept is not None and trio.current_time() < self._rest_until_s:
            raise NotServedError("hub_unreachable", "the hub was not reached a moment ago")
        await self._take_slot()
        growing: Growing | None = None
        try:
            growing = await self._shelf.grow(flight.name)
            await self._ask(flight, wanted, kept, growing)
        except OSError as error:
            if growing is not None:
                growing.drop()
            problem = f"the server's cache cannot be written ({error.strerror})"
            raise NotServedError("cache_full", problem, retry_after_ms=FULL_RETRY_MS) from None
        finally:
            flight.land()
            if growing is not None:
                growing.close()
            self._shelf.release(flight.name)
            self._fetching -= 1
            self._slots.release()
        await self._shelf.measure()

    async def _ask(self, flight: Flight, wanted: Wanted, kept: Kept | None, growing: Growing) -> None:
        began, part = growing.described, None
        if began is not None and began.etag is not None and growing.present_bytes:
            part = Part(began.etag, growing.present_bytes)
        etag = None if kept is None else kept.described.etag
        try:
            coming = await self._upstream.ask(wanted, etag=etag, part=part)
        except NotServedError as refusal:
            if refusal.code in _UNREACHED:
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
        self._queued += 1
        try:
            with trio.move_on_after(self._settings.queue_s):
                await self._slots.acquire()
                self._fetching += 1
                return
        finally:
            self._queued -= 1
        problem = "too many other files are on their way from the hub"
        raise NotServedError("busy", problem, retry_after_ms=BUSY_RETRY_MS)

    async def _reserve(self, name: str, size_bytes: int) -> None:
        """Room for a file.

        Raises:
            NotServedError: it is too large, or what is there is in use.
        """
        most_bytes = min(self._settings.file_bytes, self._shelf.largest_bytes)
        if size_bytes > most_bytes:
            problem = f"the file has {size_bytes} bytes, and this server gives {most_bytes} at most"
            raise NotServedError("too_large", problem)
        if not await self._shelf.reserve(name, size_bytes):
            problem = "the server's cache is full of files that are in use"
            raise NotServedError("cache_full", problem, retry_after_ms=FULL_RETRY_MS)

    def _remember_absent(self, name: str, absence: NotServedError) -> None:
        self._absent.pop(name, None)
        self._absent[name] = trio.current_time() + self._settings.absent_s, absence
        while len(self._absent) > ABSENT_FILES:
            self._absent.popitem(last=False)


def _draining() -> NotServedError:
    return NotServedError("draining", "the server is shutting down", retry_after_ms=BUSY_RETRY_MS)
