"""One file on its way from the hub: it is downloaded once, and every reader follows at its own pace.

A download does not belong to any of its readers, so one that leaves does not disturb the others. It
goes no further than some reader wants, waits a moment for others, and then ends with what it has,
to be resumed later. The last byte is withheld until the whole file is verified, so that a damaged
file can never be mistaken for a complete one.

Neighbours: `actors.proxy` starts downloads; `fetcher` opens the response and the partial file.
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

CHUNK_BYTES: Final = 1024 * 1024  # written and read at once
GATHER_S: Final = 0.05  # a slow hub's bytes are written after this time, even if the chunk is not full
LINGER_S: Final = 2.0  # between a page's request for one byte and the one for the rest

Origin = Literal["hit", "miss", "stale"]


class TruncatedError(Exception):
    """The rest of a response that was begun is not available: the client must see it end early."""


@dataclass(frozen=True, slots=True)
class ResolvedFile:
    """A file that can be read, from the cache or while it is downloaded.

    `origin`: a `hit` is in the cache and current, a `miss` comes from the hub, and a `stale` one is
    in the cache and may have changed on a hub that does not answer.
    """

    name: str
    metadata: FileMetadata
    origin: Origin
    download: "Download | None" = None


class Download:
    """One lookup of a file, shared by all who request it at the same time, and perhaps its download.

    Attributes:
        resolved: set once there is a result or an error.
        is_over: nothing more will be downloaded.
        fetched_bytes: received from the hub.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.resolved = trio.Event()
        self.is_over = False
        self.fetched_bytes = 0
        self._result: ResolvedFile | None = None
        self._error: HubFileError | None = None
        self._partial: PartialFile | None = None
        self._ready_bytes = 0
        self._ends: list[int] = []  # how far each reader wants to read
        self._progress = trio.lowlevel.ParkingLot()  # of the download, or of what readers want

    # For readers

    async def result(self) -> ResolvedFile:
        """Wait for the file to be found, in the cache or on the hub.

        Raises:
            HubFileError: it was not.
        """
        await self.resolved.wait()
        if self._result is None:
            assert self._error is not None
            raise self._error.with_traceback(None)  # each of the waiting tasks adds its own
        return self._result

    def dup_descriptor(self) -> int | None:
        """A descriptor to read the partial file by, for the caller to close; None once it is over."""
        return None if self._partial is None else os.dup(self._partial.descriptor)

    def add_reader(self, end: int) -> None:
        """A reader wants the bytes before `end`."""
        self._ends.append(end)
        self._progress.unpark_all()

    def remove_reader(self, end: int) -> None:
        """A reader that wanted the bytes before `end` has left."""
        self._ends.remove(end)

    async def wait_for(self, position: int) -> int:
        """Wait until the byte at `position` can be read; return how many can.

        Raises:
            TruncatedError: the download is over before that.
        """
        while self._ready_bytes <= position:
            if self.is_over:
                raise TruncatedError
            await self._progress.park()
        return self._ready_bytes

    # For the task that downloads

    def set_result(self, metadata: FileMetadata, origin: Origin) -> None:
        """The file was found; a `miss` is still to be downloaded."""
        self._result = ResolvedFile(self.name, metadata, origin, self if origin == "miss" else None)
        self.resolved.set()

    def set_error(self, error: HubFileError) -> None:
        """The file was not found; does nothing once there is a result or an error."""
        if not self.resolved.is_set():
            self._error = error
            self.resolved.set()

    async def run(self, response: UpstreamResponse, partial: PartialFile, cache: Cache) -> None:
        """Write the file as it comes, as far as readers want it; a whole file is then in the store.

        Raises:
            HubFileError: the response broke off, or the file is not the one that the hub described.
            OSError: the disk failed.
        """
        self._partial = partial
        size_bytes = response.metadata.size_bytes
        self._expose(partial, size_bytes)
        while response.start_bytes and not await cache.run_blocking(partial.hash_existing):
            pass
        problem = await self._transfer(response, partial, cache)
        if problem is not None:
            raise problem
        if partial.present_bytes < size_bytes:
            return
        if not await cache.run_blocking(partial.is_valid):
            partial.discard()
            raise HubFileError("hub_error", "the downloaded file is not the one that the hub described")
        self._ready_bytes = size_bytes
        self._progress.unpark_all()
        await cache.run_blocking(partial.commit)

    def finish(self) -> None:
        """The download is over, successful or not."""
        self.is_over = True
        self._partial = None
        self._progress.unpark_all()

    async def _transfer(
        self, response: UpstreamResponse, partial: PartialFile, cache: Cache
    ) -> Exception | None:
        """Receive the next chunk while one is written; return the error that ended it early."""
        problem: Exception | None = None
        to_disk, from_hub = trio.open_memory_channel[tuple[bytes, HubFileError | None]](1)
        async with trio.open_nursery() as nursery, from_hub:
            nursery.start_soon(self._receive, response, partial.present_bytes, to_disk)
            async for data, failure in from_hub:
                try:
                    await cache.run_blocking(partial.append, data)
                except OSError as error:
                    problem = error
                    nursery.cancel_scope.cancel()
                    break
                problem = failure
                self.fetched_bytes += len(data)
                self._expose(partial, response.metadata.size_bytes)
        return problem

    async def _receive(
        self,
        response: UpstreamResponse,
        position: int,
        to_disk: trio.MemorySendChannel[tuple[bytes, HubFileError | None]],
    ) -> None:
        failure = None
        async with to_disk, aclosing(response.chunks()) as chunks:
            while failure is None and await self._should_continue(position, response.metadata.size_bytes):
                data, failure = await _gather(chunks)
                await to_disk.send((data, failure))
                position += len(data)

    async def _should_continue(self, position: int, size_bytes: int) -> bool:
        """Whether a reader wants more, or comes within `LINGER_S`; the last chunk is always downloaded."""
        if size_bytes - position <= CHUNK_BYTES:
            return position < size_bytes
        with trio.move_on_after(LINGER_S):
            while max(self._ends, default=0) <= position:
                await self._progress.park()
            return True
        return False

    def _expose(self, partial: PartialFile, size_bytes: int) -> None:
        self._ready_bytes = max(0, min(partial.present_bytes, size_bytes - 1))
        self._progress.unpark_all()


async def _gather(chunks: AsyncIterator[bytes]) -> tuple[bytes, HubFileError | None]:
    """About `CHUNK_BYTES` of what the hub sends, and the error if no more will follow."""
    gathered, size_bytes, until_s = [], 0, trio.current_time() + GATHER_S
    try:
        async for chunk in chunks:
            gathered.append(chunk)
            size_bytes += len(chunk)
            if size_bytes >= CHUNK_BYTES or trio.current_time() >= until_s:
                return b"".join(gathered), None
    except HubFileError as error:
        return b"".join(gathered), error
    if gathered:
        return b"".join(gathered), None
    return b"", HubFileError("hub_error", "the hub sent less than it had announced")
