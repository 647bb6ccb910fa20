"""The proxy downloads a file once for all readers, and never passes off a part or a damaged file as whole."""

import hashlib
import random
import signal
import subprocess
import sys
import threading
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest
import structlog
import trio
from support.hub_rig import REPO, file, proxy_of, read, read_found, running, until
from support.local_hub import serve

from actors.hub_proxy.disk_store import HEAD_BYTES
from actors.hub_proxy.download import CHUNK_BYTES, TruncatedError
from pipeline.errors import HubFileError

LARGE = random.Random(1).randbytes(3 * CHUNK_BYTES + 777)
FILES = {"config.json": b'{"dim": 3}', "onnx/model.onnx": LARGE, "empty.txt": b""}


@pytest.fixture
def hub():
    with serve() as hub:
        hub.add(REPO, FILES)
        yield hub


def gets(hub, name):
    """Requests for the content of a file, to the hub or its CDN; those that were redirected do not count."""
    return [r for r in hub.log if r.path.endswith(name) and (r.cdn or name != "model.onnx")]


async def refusal(proxy, ref):
    with pytest.raises(HubFileError) as caught:
        await proxy.resolve(ref)
    return caught.value


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_downloaded_once_and_served_unchanged(hub, tmp_path, path):
    """Whatever its size; the second time it comes from the cache, without a request to the hub."""
    async with running(hub, tmp_path) as proxy:
        first = await proxy.resolve(file(path))
        assert await read_found(proxy, first) == FILES[path]
        await until(lambda: not proxy.statistics().fetching)
        again = await proxy.resolve(file(path))
        assert await read_found(proxy, again) == FILES[path]
    assert (first.origin, again.origin) == ("miss", "hit")
    assert first.metadata == again.metadata
    assert first.metadata.etag == hashlib.sha256(FILES[path]).hexdigest()
    assert first.metadata.commit == hub.head(REPO)
    assert len(gets(hub, path.split("/")[-1])) == 1


async def test_fifty_simultaneous_readers_are_one_download(hub, tmp_path):
    """All of them read the file while it is downloaded; the hub sends it once."""
    hub.held["model.onnx"] = held = threading.Event()
    got = []
    async with running(hub, tmp_path) as proxy, trio.open_nursery() as readers:

        async def reader():
            got.append(await read(proxy, file("onnx/model.onnx")))

        for _ in range(50):
            readers.start_soon(reader)
        await until(lambda: proxy.statistics().active_readers == 50)
        early = await read(proxy, file("onnx/model.onnx"), 0, CHUNK_BYTES)
        assert early == LARGE[:CHUNK_BYTES]
        assert not got
        held.set()
    assert got == [LARGE] * 50
    assert len(gets(hub, "model.onnx")) == 1
    assert hub.sent_bytes["onnx/model.onnx"] == len(LARGE)


async def test_a_download_outlives_the_reader_that_began_it(hub, tmp_path):
    """When the first reader leaves, the others get the rest."""
    hub.held["model.onnx"] = held = threading.Event()
    got = []
    async with running(hub, tmp_path) as proxy, trio.open_nursery() as readers:
        first = trio.CancelScope()

        async def reader(scope):
            with scope:
                got.append(await read(proxy, file("onnx/model.onnx")))

        readers.start_soon(reader, first)
        await until(lambda: proxy.statistics().fetched_bytes)
        readers.start_soon(reader, trio.CancelScope())
        await until(lambda: proxy.statistics().active_readers == 2)
        first.cancel()
        await until(lambda: proxy.statistics().active_readers == 1)
        held.set()
    assert got == [LARGE]
    assert len(gets(hub, "model.onnx")) == 1


@pytest.mark.parametrize("comes", [True, False])
async def test_a_reader_that_leaves_early_leaves_nothing_behind(hub, tmp_path, comes):
    """What was read ahead for it is released, also during a download; no response counts as truncated."""
    process = psutil.Process()
    if comes:
        hub.held["model.onnx"] = threading.Event()
    async with running(hub, tmp_path) as proxy:
        if not comes:
            assert await read(proxy, file("onnx/model.onnx")) == LARGE
            await until(lambda: not proxy.statistics().fetching)
        found = await proxy.resolve(file("onnx/model.onnx"))
        before = process.num_fds()
        for _ in range(3):
            async with aclosing(proxy.stream(found, 0, len(LARGE))) as pieces:
                assert LARGE.startswith(await anext(pieces))
        await until(lambda: process.num_fds() <= before)
        assert (proxy.statistics().active_readers, proxy.statistics().truncated) == (0, 0)


async def test_no_more_is_downloaded_than_readers_want(hub, tmp_path):
    """A request for one byte downloads a little of a large file; the rest is resumed from there."""
    large = random.Random(2).randbytes(16 * 2**20)
    hub.add(REPO, {"large.onnx": large})
    async with running(hub, tmp_path) as proxy:
        assert await read(proxy, file("large.onnx"), 0, 1) == large[:1]
        await until(lambda: not proxy.statistics().fetching)
        fetched_bytes = proxy.statistics().fetched_bytes
        assert fetched_bytes <= 2 * CHUNK_BYTES
        assert await read(proxy, file("large.onnx")) == large
    *_, whole = [request for request in hub.log if request.cdn]
    assert whole.headers["Range"] == f"bytes={fetched_bytes}-"


async def test_a_download_that_breaks_off_truncates_its_readers_and_is_resumed(hub, tmp_path):
    """The next reader gets all of it, and the hub sends only the rest."""
    hub.cut.add("model.onnx")
    async with running(hub, tmp_path) as proxy:
        with structlog.testing.capture_logs() as logs, pytest.raises(TruncatedError):
            await read(proxy, file("onnx/model.onnx"))
        assert await read(proxy, file("onnx/model.onnx")) == LARGE
    assert "hub_fetch_interrupted" in [entry["event"] for entry in logs]
    whole, rest = gets(hub, "model.onnx")
    assert "Range" not in whole.headers
    assert rest.headers["Range"] == f"bytes={len(LARGE) // 2}-"
    assert hub.sent_bytes["onnx/model.onnx"] == len(LARGE)


async def test_a_part_of_another_version_is_discarded(hub, tmp_path):
    """If the hub has another version by now, the download begins again."""
    hub.cut.add("model.onnx")
    other = random.Random(3).randbytes(len(LARGE) + 5)
    async with running(hub, tmp_path) as proxy:
        with pytest.raises(TruncatedError):
            await read(proxy, file("onnx/model.onnx"))
        hub.add(REPO, {"onnx/model.onnx": other})
        assert await read(proxy, file("onnx/model.onnx")) == other
        assert await read(proxy, file("onnx/model.onnx")) == other


async def test_a_file_that_fails_verification_is_never_complete(hub, tmp_path):
    """The last byte is withheld until the content is verified; nothing of it is kept."""
    hub.wrong.add("model.onnx")
    async with running(hub, tmp_path) as proxy:
        with pytest.raises(TruncatedError):
            await read(proxy, file("onnx/model.onnx"))
        await until(lambda: not proxy.statistics().fetching)
        hub.wrong.clear()
        assert await read(proxy, file("onnx/model.onnx")) == LARGE
    assert ["Range" in request.headers for request in gets(hub, "model.onnx")] == [False, False]


async def test_a_file_at_a_commit_is_never_revalidated(hub, tmp_path):
    """Its content cannot change."""
    pinned = file("config.json", hub.head(REPO))
    async with running(hub, tmp_path, fresh_s=0.0) as proxy:
        for _ in range(3):
            assert await read(proxy, pinned) == FILES["config.json"]
    assert len(hub.log) == 1


async def test_a_file_of_a_branch_is_revalidated_by_its_etag(hub, tmp_path):
    """An unchanged file is not sent again, nor is a large one behind a redirect."""
    async with running(hub, tmp_path, fresh_s=0.0) as proxy:
        for path in ("config.json", "onnx/model.onnx"):
            for _ in range(2):
                assert await read(proxy, file(path)) == FILES[path]
                await until(lambda: not proxy.statistics().fetching)
    requests = [request for request in hub.log if not request.cdn]
    etags = [f'"{hashlib.sha256(FILES[path]).hexdigest()}"' for path in ("config.json", "onnx/model.onnx")]
    assert [request.headers.get("If-None-Match") for request in requests] == [None, etags[0], None, etags[1]]
    assert hub.sent_bytes["onnx/model.onnx"] == len(LARGE)


async def test_a_new_version_of_a_branch_is_served_once_the_old_one_is_not_fresh(hub, tmp_path):
    """A reader of the old version reads it to its end."""
    async with running(hub, tmp_path, fresh_s=0.0) as proxy:
        await read(proxy, file("onnx/model.onnx"))
        await until(lambda: not proxy.statistics().fetching)
        old = await proxy.resolve(file("onnx/model.onnx"))
        async with aclosing(proxy.stream(old, 0, len(LARGE))) as pieces:
            begun = await anext(pieces)
            hub.add(REPO, {"onnx/model.onnx": b"new" + LARGE})
            assert await read(proxy, file("onnx/model.onnx")) == b"new" + LARGE
            assert begun + b"".join([piece async for piece in pieces]) == LARGE


async def test_a_fresh_file_is_served_without_the_hub(hub, tmp_path):
    """For `fresh_s` it is taken as unchanged."""
    async with running(hub, tmp_path, fresh_s=1000.0) as proxy:
        for _ in range(2):
            assert await read(proxy, file("config.json")) == FILES["config.json"]
    assert len(hub.log) == 1


@pytest.mark.parametrize("how", ["down", "gone", "offline", "silent"])
async def test_a_cached_file_is_served_without_the_hub(tmp_path, how):
    """Broken, gone, or offline: a cached file is served and called stale; any other is refused."""
    with serve() as hub:
        hub.add(REPO, FILES)
        async with running(hub, tmp_path) as proxy:
            await read(proxy, file("config.json"))
            await until(lambda: not proxy.statistics().fetching)
        hub.down = how == "down"
        if how == "silent":
            hub.silent["config.json"] = hub.silent["empty.txt"] = threading.Event()
        if how != "gone":
            await expect_stale(hub.url, tmp_path, offline=how == "offline")
    if how == "gone":
        await expect_stale(hub.url, tmp_path)


async def expect_stale(address, folder, *, offline=False):
    async with running(address, folder, fresh_s=0.0, timeout_s=0.5, offline=offline) as proxy:
        for _ in range(2):
            found = await proxy.resolve(file("config.json"))
            assert found.origin == "stale"
            assert await read_found(proxy, found) == FILES["config.json"]
        error = await refusal(proxy, file("empty.txt"))
    assert error.code in {"hub_error", "hub_unreachable", "hub_timeout"}


async def test_a_hub_that_is_unreachable_is_not_asked_again_for_a_while(hub, tmp_path):
    """Of the cached files, only the first one waits for it in vain."""
    async with running(hub, tmp_path, fresh_s=0.0, timeout_s=0.5) as proxy:
        await read(proxy, file("config.json"))
        await until(lambda: not proxy.statistics().fetching)
        hub.silent["config.json"] = threading.Event()
        for _ in range(5):
            assert (await proxy.resolve(file("config.json"))).origin == "stale"
    assert len(hub.log) == 2


async def test_a_missing_file_is_requested_once_in_a_while(hub, tmp_path):
    """Pages probe for files that do not exist; most of these requests do not reach the hub."""
    async with running(hub, tmp_path) as proxy:
        for _ in range(3):
            assert (await refusal(proxy, file("nothing.json"))).code == "not_found"
    assert len(hub.log) == 1
    async with running(hub, tmp_path, absent_s=0.0) as proxy:
        for _ in range(3):
            await refusal(proxy, file("nothing.json"))
    assert len(hub.log) == 4


async def test_waiting_for_a_slot_is_bounded(hub, tmp_path):
    """Beyond `fetches` files wait for at most `queue_s`; cached files do not wait."""
    hub.held["model.onnx"] = held = threading.Event()
    async with running(hub, tmp_path, fetches=1, queue_s=0.2) as proxy:
        await read(proxy, file("empty.txt"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, proxy, file("onnx/model.onnx"))
            await until(lambda: proxy.statistics().fetched_bytes)
            error = await refusal(proxy, file("config.json"))
            assert (error.code, error.retry_after_ms) == ("busy", 5000)
            assert (await proxy.resolve(file("empty.txt"))).origin == "hit"
            held.set()
        assert await read(proxy, file("config.json")) == FILES["config.json"]


async def test_the_cache_stays_within_its_bound(hub, tmp_path):
    """The least recently used files are evicted; one that is being read stays, to its end."""
    names = [f"part{number}.onnx" for number in range(6)]
    content = {name: random.Random(name).randbytes(2 * CHUNK_BYTES) for name in names}
    hub.add(REPO, content)
    bound = 3 * (HEAD_BYTES + 2 * CHUNK_BYTES)
    async with running(hub, tmp_path, cache_bytes=bound) as proxy:
        for name in names[:3]:
            assert await read(proxy, file(name)) == content[name]
            await until(lambda: not proxy.statistics().fetching)
        found = await proxy.resolve(file(names[1]))
        async with aclosing(proxy.stream(found, 0, found.metadata.size_bytes)) as pieces:
            begun = await anext(pieces)
            for name in (names[2], names[0], *names[3:]):
                assert await read(proxy, file(name)) == content[name]
                await until(lambda: not proxy.statistics().fetching)
                assert held_bytes(tmp_path) <= bound
            assert begun + b"".join([piece async for piece in pieces]) == content[names[1]]
        assert (await proxy.resolve(file(names[1]))).origin == "hit"
        assert (await proxy.resolve(file(names[5]))).origin == "hit"
        assert (await proxy.resolve(file(names[0]))).origin == "miss"
        assert proxy.statistics().evicted >= 3


def held_bytes(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


async def test_a_file_without_room_is_refused_before_it_is_downloaded(hub, tmp_path):
    """One that could never fit, or that is larger than allowed."""
    async with running(hub, tmp_path, cache_bytes=HEAD_BYTES + 1000) as proxy:
        assert (await refusal(proxy, file("onnx/model.onnx"))).code == "too_large"
        assert await read(proxy, file("config.json")) == FILES["config.json"]
    async with running(hub, tmp_path, file_bytes=5) as proxy:
        assert (await refusal(proxy, file("config.json", hub.head(REPO)))).code == "too_large"
    assert held_bytes(tmp_path) == HEAD_BYTES + len(FILES["config.json"])


async def test_a_cache_that_cannot_be_written_is_reported(hub, tmp_path):
    """The server continues, and the file is refused with the reason."""
    (tmp_path / "taken").write_bytes(b"no folder")
    async with running(hub, tmp_path / "taken") as proxy:
        assert (await refusal(proxy, file("config.json"))).code == "cache_full"


async def test_only_allowed_repositories_are_requested(hub, tmp_path):
    """No request for any other reaches the hub."""
    hub.add("somebody/else", FILES)
    async with running(hub, tmp_path) as proxy:
        for repo in ("somebody/else", "onnx-community/other", "x-onnx-community/whisper-small"):
            assert (await refusal(proxy, file("config.json", repo=repo))).code == "repo_refused"
    assert not hub.log


async def test_draining_is_bounded(hub, tmp_path):
    """No request is accepted any more; readers have `drain_s`, and are truncated then."""
    hub.held["model.onnx"] = threading.Event()
    async with running(hub, tmp_path, drain_s=0.1) as proxy, trio.open_nursery() as nursery:

        async def reader():
            with pytest.raises(TruncatedError):
                await read(proxy, file("onnx/model.onnx"))

        nursery.start_soon(reader)
        await until(lambda: proxy.statistics().fetched_bytes)
        await proxy.drain()
        assert (await refusal(proxy, file("config.json"))).code == "draining"


async def test_a_proxy_that_does_not_run_refuses_every_request(hub, tmp_path):
    """Before it is started nothing could be downloaded."""
    proxy = proxy_of(hub, tmp_path)
    assert (await refusal(proxy, file("config.json"))).code == "draining"


KILLED = """
import sys, trio
sys.path.insert(0, {tests!r})
from support.hub_rig import file, read, running
async def main():
    async with running({url!r}, __import__("pathlib").Path({folder!r})) as proxy:
        await read(proxy, file("config.json"))
        found = await proxy.resolve(file("onnx/model.onnx"))
        async for piece in proxy.stream(found, 0, found.metadata.size_bytes):
            print(len(piece), flush=True)
trio.run(main)
"""


def killed_after_a_piece(script):
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert int(process.stdout.readline()) == CHUNK_BYTES
        process.kill()
    return process


async def test_a_killed_process_leaves_a_usable_cache(hub, tmp_path):
    """`kill -9` in the middle of a file: whole files are found, and the other one is resumed."""
    hub.held["model.onnx"] = held = threading.Event()
    script = KILLED.format(tests=str(Path(__file__).parents[2]), url=hub.url, folder=str(tmp_path))
    process = await trio.to_thread.run_sync(killed_after_a_piece, script)
    assert process.returncode == -signal.SIGKILL
    held.set()
    del hub.held["model.onnx"]
    async with running(hub, tmp_path) as proxy:
        assert (await proxy.resolve(file("config.json"))).origin == "hit"
        assert await read(proxy, file("onnx/model.onnx")) == LARGE
    *_, rest = gets(hub, "model.onnx")
    assert int(rest.headers["Range"].removeprefix("bytes=").removesuffix("-")) >= CHUNK_BYTES


async def test_two_servers_may_share_a_cache(hub, tmp_path):
    """Both download what neither has, and neither damages the other's file."""
    hub.held["model.onnx"] = held = threading.Event()
    got = []
    async with running(hub, tmp_path) as one, running(hub, tmp_path) as other, trio.open_nursery() as both:

        async def reader(proxy):
            got.append(await read(proxy, file("onnx/model.onnx")))

        both.start_soon(reader, one)
        both.start_soon(reader, other)
        await until(lambda: one.statistics().fetched_bytes and other.statistics().fetched_bytes)
        held.set()
    assert got == [LARGE] * 2
    async with running(hub, tmp_path) as third:
        assert (await third.resolve(file("onnx/model.onnx"))).origin == "hit"
    assert len(list(tmp_path.iterdir())) == 1
