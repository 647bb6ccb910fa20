"""The agent check of HAProxy: free capacity in HAProxy's format."""

import contextlib
import threading

import pytest
import structlog
import trio
from support.limits import no_more_files
from support.web.small_engine import SETTINGS, small_server

from pipeline.config import Lanes, Server, Settings
from pipeline.errors import ConfigError, PortInUseError
from web.routes import haproxy_agent
from web.routes.haproxy_agent import serve_agent

HANG_S = 60  # turns a hang into a failure; no test depends on it
AGENT = Server(port=0, agent_port=0)
TWO_MAY_WAIT = Settings(server=AGENT, lanes=Lanes(queue=2), limits=SETTINGS.limits, drain_s=SETTINGS.drain_s)


async def replies(port, query=b""):
    """Everything sent to one connection."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if query:
            await stream.send_all(query)
        return b"".join([piece async for piece in stream])


@contextlib.asynccontextmanager
async def agent_server(*, lanes=3, before=None):
    """A server, and the port of its agent."""
    async with (
        small_server(TWO_MAY_WAIT, lanes=lanes, before=before) as served,
        trio.open_nursery() as nursery,
    ):
        served.agent_port = await nursery.start(serve_agent, AGENT, served.engine)
        yield served
        nursery.cancel_scope.cancel()


async def test_the_weight_is_the_free_capacity():
    """Free lanes, or free places in the queue: 100 % of a weight of 1 for each."""
    seen = []
    async with agent_server() as served:
        with contextlib.ExitStack() as reservations:
            for _ in range(5):
                seen.append([await replies(served.agent_port, word) for word in (b"lanes\n", b"queue\n")])
                reservations.enter_context(served.engine.admit())
            seen.append([await replies(served.agent_port, word) for word in (b"lanes\n", b"queue\n")])
        assert await replies(served.agent_port, b"lanes\n") == b"up ready 300%\n"
    assert [lanes for lanes, _ in seen] == [b"up ready %d%%\n" % p for p in (300, 200, 100, 0, 0, 0)]
    assert [queue for _, queue in seen] == [b"up ready %d%%\n" % p for p in (200, 200, 200, 200, 100, 0)]


async def test_lanes_that_the_machine_is_too_slow_for_are_no_capacity():
    """The weight follows the limit; a session that was put back takes no place of new ones in the queue."""
    async with agent_server() as served:
        with served.engine.admit(), served.engine.admit():
            served.engine.admission.set_limit(1)
            assert await replies(served.agent_port, b"lanes\n") == b"up ready 0%\n"
            assert await replies(served.agent_port, b"queue\n") == b"up ready 200%\n"
            served.engine.admission.set_limit(3)
            assert await replies(served.agent_port, b"lanes\n") == b"up ready 100%\n"


@pytest.mark.parametrize("query", [b"", b"\n", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"lanes\r\n"])
async def test_any_query_gets_a_reply(query):
    """Without a query, or with an unknown one, the reply is the number of lanes."""
    async with agent_server() as served:
        assert await replies(served.agent_port, query) == b"up ready 300%\n"


async def test_a_loading_server_is_down():
    """Once the models are loaded it is up."""
    loading = threading.Event()
    async with agent_server(before=loading.wait) as served:
        assert await replies(served.agent_port) == b"down #not_ready\n"
        loading.set()
        await served.engine.ready.wait()
        assert await replies(served.agent_port) == b"up ready 300%\n"


async def test_a_draining_server_gets_no_new_sessions():
    """It replies `drain` while its sessions finish."""
    async with agent_server() as served:
        served.engine.admission.drain()
        assert await replies(served.agent_port, b"queue\n") == b"drain\n"


async def test_a_server_that_stalls_has_failed():
    """It replies `fail`: its process is about to exit."""
    async with agent_server() as served:
        served.engine.stalled = True
        assert await replies(served.agent_port) == b"fail #stalled\n"


async def test_silent_connections_are_bounded_and_closed(monkeypatch):
    """One over the limit is closed at once; idle connections get the reply and are closed."""
    monkeypatch.setattr(haproxy_agent, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(haproxy_agent, "QUERY_TIMEOUT_S", 60)
    async with agent_server() as served, await trio.open_tcp_stream("127.0.0.1", served.agent_port) as first:
        assert await replies(served.agent_port) == b""
        await first.send_all(b"lanes\n")
        assert await first.receive_some() == b"up ready 300%\n"


async def test_a_connection_that_is_never_closed_makes_room(monkeypatch):
    """A balancer that does not read, or does not close, has its turn and no more."""
    monkeypatch.setattr(haproxy_agent, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(haproxy_agent, "REPLY_TIMEOUT_S", 0.1)
    async with agent_server() as served, await trio.open_tcp_stream("127.0.0.1", served.agent_port) as stays:
        await stays.send_all(b"lanes\n")
        with trio.fail_after(HANG_S):
            while await replies(served.agent_port) == b"":
                pass


async def test_the_agent_goes_on_when_files_can_be_opened_again():
    """There is one line of the log meanwhile, and no traceback; the next connection gets its reply."""
    async with agent_server() as served:
        with trio.socket.socket() as refused, no_more_files(), structlog.testing.capture_logs() as logs:
            with contextlib.suppress(OSError):  # some kernels reset what they cannot hand over
                await refused.connect(("127.0.0.1", served.agent_port))
            while not logs:
                await trio.lowlevel.checkpoint()
        assert await replies(served.agent_port) == b"up ready 300%\n"
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("cannot_accept", "EMFILE")]


async def test_an_unusable_address_is_an_error():
    """A port in use and an address of another machine; each error names its key."""
    async with agent_server() as served:
        with pytest.raises(PortInUseError) as taken:
            await serve_agent(Server(agent_port=served.agent_port), served.engine)
        assert "server.agent_port" in str(taken.value)
        with pytest.raises(ConfigError) as elsewhere:
            await serve_agent(Server(agent_port=0, agent_host="192.0.2.1"), served.engine)
        assert elsewhere.value.key == "pipeline.server.agent_host"
