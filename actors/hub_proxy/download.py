"""However many wait for a file, it comes once, and each of them reads what has come at a pace of its own.

A flight belongs to nobody who waits for it: who leaves takes nothing away. It goes no further than
somebody wants to read, waits a moment for others, and then lands with what it has, to be gone on
with later. The last byte is not given out before the whole was found to be right, so that a file
that is not can never look like one that is.

Neighbours: `actors.proxy` starts flights and decides what they are for; `shelf` has the disk.
"""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal

import trio

from actors.hub_proxy.cache import Cache
from actors.hub_proxy.client import UpstreamResponse
from actors.hub_proxy.disk_store import FileMetadata, PartialFile
from pipeline.errors import HubFileError

PIECE_BYTES: Final = 1024 * 1024  # written and read at once
GATHER_S: Final = 0.05  # and sooner from a slow hub, so that nobody waits for a piece to be full
LINGER_S: Final = 2.0  # between a page's question for one byte and the one for the rest

Origin = Literal["hit", "miss", "stale"]


class TruncatedError(Exception):
    """The rest of a body that was begun cannot be had: who reads it must see it break off."""


@dataclass(frozen=True, slots=True)
class ResolvedFile:
    """A file that can be read, wherever it is now.

    `origin`: a `hit` is in the cache, a `miss` comes from the hub, and what is `stale` is in the
    cache and may have changed on a hub that cannot be asked.
    """

    name: str
    described: FileMetadata
    origin: Origin
    flight: "Download | None" = None


class Download:
    """One question for one file, for all who have it at the same time, and perhaps the file on its way.

    `known` is set once there is either a `ResolvedFile` or a failure; `is_over` once nothing more will come.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.known = trio.Event()
        self.is_over = False
        self.fetched_bytes = 0
        self._found: ResolvedFile | None = None
        self._failure: HubFileError | None = None
        self._growing: PartialFile | None = None
        self._ready_bytes = 0
        self._ends: list[int] = []  # of those who read, how far
        self._moved = trio.lowlevel.ParkingLot()

    # For those who wait

    async def result(self) -> ResolvedFile:
        """What became of the question.

        Raises:
            HubFileError: it has no good answer.
        """
        await self.known.wait()
        if self._found is None:
            assert self._failure is not None
            raise self._failure.with_traceback(None)  # each of those who wait adds its own
        return self._found

    def descriptor(self) -> int | None:
        """A descriptor to read the file by, the caller's to close; None once it is in the store, or gone."""
        return None if self._growing is None else os.dup(self._growing.descriptor)

    def want(self, end: int) -> None:
        """Somebody reads up to `end`."""
        self._ends.append(end)
        self._moved.unpark_all()

    def unwant(self, end: int) -> None:
        """They do not any more."""
        self._ends.remove(end)

    async def reach(self, at: int) -> int:
        """How far it may be read, once that is beyond `at`.

        Raises:
            TruncatedError: that will not be.
        """
        while self._ready_bytes <= at:
            if self.is_over:
                raise TruncatedError
            await self._moved.park()
        return self._ready_bytes

    # For who flies it

    def settle(self, described: FileMetadata, origin: Origin) -> None:
        """There is a file; with `miss` it is still to come."""
        self._found = ResolvedFile(self.name, described, origin, self if origin == "miss" else None)
        self.known.set()

    def fail(self, error: HubFileError) -> None:
        """There is none, unless it was already said that there is."""
        if not self.known.is_set():
            self._failure = error
            self.known.set()

    async def bring(self, coming: UpstreamResponse, growing: PartialFile, shelf: Cache) -> None:
        """Write the file as it comes, as far as it is wanted; all of it is then in the store.

        Raises:
            HubFileError: it broke off, or it is not the file that it should be.
            OSError: the disk.
        """
        self._growing = growing
        size_bytes = coming.described.size_bytes
        self._expose(growing, size_bytes)
        while coming.start_bytes and not await shelf.on_disk(growing.catch_up):
            pass
        problem = await self._pour(coming, growing, shelf)
        if problem is not None:
            raise problem
        if growing.present_bytes < size_bytes:
            return
        if not await shelf.on_disk(growing.is_right):
            growing.drop()
            raise HubFileError("hub_error", "what came is not the file that the hub described")
        self._ready_bytes = size_bytes
        self._moved.unpark_all()
        await shelf.on_disk(growing.keep)

    def land(self) -> None:
        """It is over, whatever it came to."""
        self.is_over = True
        self._growing = None
        self._moved.unpark_all()

    async def _pour(self, coming: UpstreamResponse, growing: PartialFile, shelf: Cache) -> Exception | None:
        """Receive the next piece while one is written; give what ended it too soon."""
        problem: Exception | None = None
        to_disk, from_hub = trio.open_memory_channel[tuple[bytes, HubFileError | None]](1)
        async with trio.open_nursery() as nursery, from_hub:
            nursery.start_soon(self._receive, coming, growing.present_bytes, to_disk)
            async for data, failure in from_hub:
                try:
                    await shelf.on_disk(growing.append, data)
                except OSError as error:
                    problem = error
                    nursery.cancel_scope.cancel()
                    break
                problem = failure
                self.fetched_bytes += len(data)
                self._expose(growing, coming.described.size_bytes)
        return problem

    async def _receive(
        self,
        coming: UpstreamResponse,
        at: int,
        to_disk: trio.MemorySendChannel[tuple[bytes, HubFileError | None]],
    ) -> None:
        failure = None
        async with to_disk, aclosing(coming.pieces()) as pieces:
            while failure is None and await self._is_wanted(at, coming.described.size_bytes):
                data, failure = await _gather(pieces)
                await to_disk.send((data, failure))
                at += len(data)

    async def _is_wanted(self, at: int, size_bytes: int) -> bool:
        """Whether to go on. A last piece always comes, and a reader that is not there yet has a moment."""
        if size_bytes - at <= PIECE_BYTES:
            return at < size_bytes
        with trio.move_on_after(LINGER_S):
            while max(self._ends, default=0) <= at:
                await self._moved.park()
            return True
        return False

    def _expose(self, growing: PartialFile, size_bytes: int) -> None:
        self._ready_bytes = max(0, min(growing.present_bytes, size_bytes - 1))
        self._moved.unpark_all()


async def _gather(pieces: AsyncIterator[bytes]) -> tuple[bytes, HubFileError | None]:
    """What is worth a write, and why there will be no more of it."""
    gathered, size_bytes, until_s = [], 0, trio.current_time() + GATHER_S
    try:
        async for piece in pieces:
            gathered.append(piece)
            size_bytes += len(piece)
            if size_bytes >= PIECE_BYTES or trio.current_time() >= until_s:
                return b"".join(gathered), None
    except HubFileError as error:
        return b"".join(gathered), error
    if gathered:
        return b"".join(gathered), None
    return b"", HubFileError("hub_error", "the hub sent less than it had announced")
