"""The hub proxy: pages get the files of allowed repositories here, and the hub is asked as seldom as can be.

    request ─▶ find ─▶ flight ─▶ on the shelf, and current? ──▶ found ─▶ stream, from the shelf
                          └────▶ slot ─▶ hub: unchanged? ─────▶ found ─▶      or from what has
                                           └─ comes ─▶ shelf ─▶ found ─▶      come so far

One flight per file at a time, for everybody who asks for it; where the hub cannot be reached,
what is there is given and called stale.

It lives beside the line and knows nothing of it: what fails here fails for one file. It holds a
few pieces of a file in memory, never the file.

What belongs here: who may have what, and who reads what. What does not: when the hub is asked
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
from actors.hub_proxy.download import PIECE_BYTES, Download, ResolvedFile, TruncatedError
from actors.hub_proxy.fetcher import BUSY_RETRY_MS, UNREACHED, Fetcher
from actors.hub_proxy.request import Allowed, FileRef
from pipeline import config
from pipeline.errors import HubFileError

READ_BYTES: Final = 4 * PIECE_BYTES  # at once, since the way to a thread and back costs as much as a MiB
_IN_DOUBT: Final = UNREACHED | {"hub_error", "busy", "cache_full"}  # what is there is better than nothing

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

    def __init__(
        self, settings: config.Proxy, upstream: Upstream, store: DiskStore, *, drain_s: float
    ) -> None:
        self._upstream = upstream
        self._shelf = Cache(store, settings.cache_bytes)
        self._drain_s = drain_s
        self._allowed = Allowed(settings.allow)
        self._errands = Fetcher(settings, upstream, self._shelf)
        self._nursery: trio.Nursery | None = None
        self._flights: dict[str, Download] = {}
        self._closed = False
        self._fetched_bytes = self._sent_bytes = self._cut = 0
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
            self._closed = True
            await self._upstream.aclose()

    async def drain(self) -> None:
        """Begin nothing more, let those who read finish for at most `drain_s`, then end."""
        self._closed = True
        with trio.move_on_after(self._drain_s):
            await self._shelf.all_left()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def find(self, wanted: FileRef) -> ResolvedFile:
        """The file, there or on its way.

        Raises:
            HubFileError: it is not given, and why.
        """
        try:
            found = await self._find(wanted)
        except HubFileError as refusal:
            self._results[refusal.code] += 1
            raise
        self._results[found.origin] += 1
        return found

    async def stream(self, found: ResolvedFile, begin: int, end: int) -> AsyncGenerator[bytes, None]:
        """Its bytes from `begin` to before `end`, in pieces; to be closed.

        Raises:
            TruncatedError: the rest is not to be had.
        """
        if self._nursery is None or self._nursery.cancel_scope.cancel_called:
            raise TruncatedError
        flight, scope = found.flight, trio.CancelScope()
        to_reader, pieces = trio.open_memory_channel[bytes](0)
        if flight is not None:
            flight.want(end)
        try:
            with self._shelf.reading(found.name):
                self._nursery.start_soon(self._read_ahead, found, begin, end, to_reader, scope)
                async for piece in pieces:
                    for at in range(0, len(piece), PIECE_BYTES):
                        part = piece[at : at + PIECE_BYTES]
                        begin += len(part)
                        self._sent_bytes += len(part)
                        yield part
            if begin < end:
                self._cut += 1
                raise TruncatedError
        finally:
            scope.cancel()
            pieces.close()
            if flight is not None:
                flight.unwant(end)

    def statistics(self) -> ProxyStatistics:
        """Everything, now."""
        on_their_way = sum(flight.fetched_bytes for flight in self._flights.values())
        return ProxyStatistics(
            results=dict(self._results),
            fetching=self._errands.running,
            queued=self._errands.queued,
            reading=self._shelf.readers,
            fetched_bytes=self._fetched_bytes + on_their_way,
            sent_bytes=self._sent_bytes,
            cut=self._cut,
            kept=self._shelf.usage,
            removed=self._shelf.removed,
        )

    async def _find(self, wanted: FileRef) -> ResolvedFile:
        if wanted.repo not in self._allowed:
            raise HubFileError("repo_refused", f"{wanted.repo} is none of the repositories in proxy.allow")
        if self._closed or self._nursery is None:
            raise _draining()
        name = wanted.name(self._upstream.endpoint)
        self._errands.check_absent(name)
        flight = self._flights.get(name)
        if flight is None or flight.is_over:
            flight = self._flights[name] = Download(name)
            self._nursery.start_soon(self._fly, flight, wanted)
        return await flight.result()

    async def _read_ahead(
        self,
        found: ResolvedFile,
        begin: int,
        end: int,
        to_reader: trio.MemorySendChannel[bytes],
        scope: trio.CancelScope,
    ) -> None:
        """Read the next piece while one is sent; `to_reader` is closed early where there is no next one."""
        descriptor = None
        with scope, to_reader:
            try:
                descriptor = await self._open(found)
                while begin < end:
                    piece = await self._read(found.flight, descriptor, begin, end)
                    begin += len(piece)
                    await to_reader.send(piece)
            except (TruncatedError, OSError) as error:
                log.info("hub_response_truncated", problem=str(error) or "the rest of it is not there")
            finally:
                if descriptor is not None:
                    os.close(descriptor)

    async def _open(self, found: ResolvedFile) -> int:
        """A descriptor of what was found.

        Raises:
            TruncatedError: it is another file by now.
            OSError: it is gone.
        """
        growing = None if found.flight is None else found.flight.descriptor()
        if growing is not None:
            return growing
        descriptor, described = await self._shelf.open(found.name)
        if described != found.described:
            os.close(descriptor)
            raise TruncatedError
        return descriptor

    async def _read(self, flight: Download | None, descriptor: int, begin: int, end: int) -> bytes:
        ready = end if flight is None else min(end, await flight.reach(begin))
        size_bytes = min(READ_BYTES, ready - begin)
        piece = await self._shelf.on_disk(os.pread, descriptor, size_bytes, HEAD_BYTES + begin)
        if not piece:
            raise TruncatedError
        return piece

    async def _fly(self, flight: Download, wanted: FileRef) -> None:
        """One flight, from the question to its end; whatever goes wrong on it stays with its file."""
        try:
            kept = await self._shelf.find(flight.name)
            if kept is not None and self._errands.is_current(wanted, kept):
                flight.settle(kept.described, "hit")
            else:
                await self._errands.run(flight, wanted, kept)
        except HubFileError as refusal:
            if flight.known.is_set():
                log.warning(
                    "hub_fetch_interrupted", file=str(wanted), code=refusal.code, problem=str(refusal)
                )
            elif kept is not None and refusal.code in _IN_DOUBT:
                flight.settle(kept.described, "stale")
            flight.fail(refusal)
        except Exception:
            log.exception("hub_fetch_failed", file=str(wanted))
            flight.fail(HubFileError("hub_error", "the server failed on this file"))
        finally:
            flight.fail(_draining())
            flight.land()
            self._fetched_bytes += flight.fetched_bytes
            if self._flights.get(flight.name) is flight:
                del self._flights[flight.name]


def _draining() -> HubFileError:
    return HubFileError("draining", "the server is shutting down", retry_after_ms=BUSY_RETRY_MS)
