"""The store within its bound, for those who may not block: what is read stays, what comes has its room.

Neighbours: `store` has the files and blocks; here it is waited for, on a few threads of its own, so
that a slow disk holds up nobody else's.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar, TypeVarTuple

import structlog
import trio

from actors.hub_proxy.disk_store import HEAD_BYTES, CachedFile, DiskStore, FileMetadata, PartialFile, Usage

DISK_THREADS: Final = 4

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger()


class Cache:
    """`store`, of which no more than `cache_bytes` are kept, those that are on their way included."""

    def __init__(self, store: DiskStore, cache_bytes: int) -> None:
        self.usage = Usage(0, 0)
        self.removed = 0
        self._store = store
        self._cache_bytes = cache_bytes
        self._threads = trio.CapacityLimiter(DISK_THREADS)
        self._turn = trio.Lock()
        self._reserved_bytes: dict[str, int] = {}
        self._read: Counter[str] = Counter()
        self._left = trio.lowlevel.ParkingLot()

    @property
    def readers(self) -> int:
        """How many read."""
        return self._read.total()

    @property
    def largest_bytes(self) -> int:
        """The largest file that there could be room for."""
        return self._cache_bytes - HEAD_BYTES

    async def on_disk(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """The result of what blocks."""
        return await trio.to_thread.run_sync(call, *args, limiter=self._threads)

    async def find(self, name: str) -> CachedFile | None:
        """The whole file, if it is there."""
        return await self.on_disk(self._store.find, name)

    async def open(self, name: str) -> tuple[int, FileMetadata]:
        """A descriptor to read it by, the caller's to close, and what it is.

        Raises:
            OSError: it is not there any more.
        """
        return await self.on_disk(self._store.open, name)

    async def note_current(self, name: str) -> None:
        """The hub has just said that this is still the file."""
        await self.on_disk(self._store.note_current, name)

    async def grow(self, name: str) -> PartialFile:
        """A file to be written.

        Raises:
            OSError: the folder cannot be written.
        """
        return await self.on_disk(self._store.grow, name)

    async def reserve(self, name: str, size_bytes: int) -> bool:
        """Make room for a file, until `release`; whether there is any."""
        async with self._turn:
            self._reserved_bytes[name] = HEAD_BYTES + size_bytes
            fits = await self._sweep() >= 0
            if not fits:
                del self._reserved_bytes[name]
            return fits

    def release(self, name: str) -> None:
        """It is in the store now and counted there, or did not come."""
        self._reserved_bytes.pop(name, None)

    async def measure(self) -> None:
        """Look what is there, and hold it to the bound."""
        async with self._turn:
            try:
                await self._sweep()
            except OSError as error:
                log.warning("hub_cache_failed", problem=str(error))

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """The file stays for as long as this lasts."""
        self._read[name] += 1
        try:
            yield
        finally:
            self._read[name] -= 1
            if not self._read[name]:
                del self._read[name]
            self._left.unpark_all()

    async def all_left(self) -> None:
        """Wait until nobody reads."""
        while self._read:
            await self._left.park()

    async def _sweep(self) -> int:
        """Remove what has no room beside the reservations; the room that is left then."""
        room_bytes = self._cache_bytes - sum(self._reserved_bytes.values())
        make_room = partial(
            self._store.make_room,
            room_bytes,
            growing=frozenset(self._reserved_bytes),
            read=frozenset(self._read),
        )
        self.usage = await self.on_disk(make_room)
        self.removed += self.usage.removed
        return room_bytes - self.usage.size_bytes
