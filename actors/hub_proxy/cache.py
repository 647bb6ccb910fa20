"""The store within its bound, for Trio tasks: files in use stay, and a download has its room reserved.

Neighbours: `disk_store` has the files and blocks; here it runs on a few threads of its own, so that
a slow disk holds up nothing else.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple

import structlog
import trio

from actors.hub_proxy.disk_store import HEAD_BYTES, CachedFile, DiskStore, FileMetadata, PartialFile, Usage

DISK_THREADS: Final = 4

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger()


class Cache:
    """At most `cache_bytes` of files in a store, reservations included.

    Attributes:
        usage: what the store held when it was last measured.
        evicted: files evicted so far.
    """

    def __init__(self, store: DiskStore, cache_bytes: int) -> None:
        self.usage = Usage(0, 0)
        self.evicted = 0
        self._store = store
        self._cache_bytes = cache_bytes
        self._threads = trio.CapacityLimiter(DISK_THREADS)
        self._measuring = trio.Lock()
        self._reserved_bytes: dict[str, int] = {}
        self._readers: Counter[str] = Counter()  # by file
        self._reader_left = trio.lowlevel.ParkingLot()

    @property
    def active_readers(self) -> int:
        """How many responses are being read from the cache."""
        return self._readers.total()

    @property
    def largest_bytes(self) -> int:
        """The size of the largest file that fits."""
        return self._cache_bytes - HEAD_BYTES

    async def run_blocking(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a blocking call on one of the disk threads."""
        return await trio.to_thread.run_sync(call, *args, limiter=self._threads)

    async def find(self, name: str) -> CachedFile | None:
        """See `DiskStore.find`."""
        return await self.run_blocking(self._store.find, name)

    async def open(self, name: str) -> tuple[int, FileMetadata]:
        """See `DiskStore.open`."""
        return await self.run_blocking(self._store.open, name)

    async def mark_validated(self, name: str) -> None:
        """See `DiskStore.mark_validated`."""
        await self.run_blocking(self._store.mark_validated, name)

    async def open_partial(self, name: str) -> PartialFile:
        """See `DiskStore.open_partial`."""
        return await self.run_blocking(self._store.open_partial, name)

    async def reserve(self, name: str, size_bytes: int) -> bool:
        """Make room for a file, and keep it free until `release`; False if there is none."""
        async with self._measuring:
            self._reserved_bytes[name] = HEAD_BYTES + size_bytes
            fits = await self._evict() >= 0
            if not fits:
                del self._reserved_bytes[name]
            return fits

    def release(self, name: str) -> None:
        """End a reservation, if there is one: the file is in the store now, or was not downloaded."""
        self._reserved_bytes.pop(name, None)

    async def measure(self) -> None:
        """Update `usage`, and evict what is beyond the bound."""
        async with self._measuring:
            try:
                await self._evict()
            except OSError as error:
                log.warning("hub_cache_failed", problem=str(error))

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Keep the file from being evicted inside this block."""
        self._readers[name] += 1
        try:
            yield
        finally:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._readers[name]
            self._reader_left.unpark_all()

    async def wait_idle(self) -> None:
        """Wait until no file is being read."""
        while self._readers:
            await self._reader_left.park()

    async def _evict(self) -> int:
        """Evict what has no room beside the reservations; return the room that is left."""
        room_bytes = self._cache_bytes - sum(self._reserved_bytes.values())
        evict = functools.partial(
            self._store.evict,
            room_bytes,
            downloading=frozenset(self._reserved_bytes),
            in_use=frozenset(self._readers),
        )
        self.usage = await self.run_blocking(evict)
        self.evicted += self.usage.evicted
        return room_bytes - self.usage.size_bytes
