"""A real proxy in front of the local hub, and functions to read files through it."""

from contextlib import aclosing, asynccontextmanager

import trio

from actors.hub_proxy.client import HubClient
from actors.hub_proxy.disk_store import DiskStore
from actors.hub_proxy.request import FileRef
from actors.proxy import Proxy
from pipeline import config

REPO = "onnx-community/whisper-small"
HANG_S = 120  # turns a hang into a failure; no test depends on it


def proxy_of(hub, folder, *, token=None, offline=False, drain_s=1.0, **settings):
    """A proxy that does not run yet; `hub` is one of `local_hub`, or an address."""
    knobs = config.Proxy(**{"timeout_s": 20.0} | settings)
    address = getattr(hub, "url", hub)
    upstream = HubClient(
        address, token, offline=offline, timeout_s=knobs.timeout_s, connections=knobs.fetches
    )
    return Proxy(knobs, upstream, DiskStore(folder), drain_s=drain_s)


@asynccontextmanager
async def running(hub, folder, **how):
    """A proxy, for as long as the block lasts."""
    proxy = proxy_of(hub, folder, **how)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            yield proxy
            nursery.cancel_scope.cancel()


def file(path, revision="main", repo=REPO):
    return FileRef(repo, revision, path)


async def read(proxy, ref, begin=0, end=None):
    """The bytes of a file, or of a part of it."""
    found = await proxy.resolve(ref)
    return await read_found(proxy, found, begin, end)


async def read_found(proxy, found, begin=0, end=None):
    end = found.metadata.size_bytes if end is None else end
    async with aclosing(proxy.stream(found, begin, end)) as pieces:
        return b"".join([piece async for piece in pieces])


async def until(condition):
    """Wait for a condition that other tasks and threads fulfil."""
    while not condition():  # noqa: ASYNC110 - there is no event for it
        await trio.sleep(0.001)
