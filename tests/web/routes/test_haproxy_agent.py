"""A balancer is told how much room there is, in HAProxy's words, whatever else it sends."""

import contextlib
import threading

import pytest
import trio
from support.web.small_engine import SETTINGS, small_server

from pipeline.config import Lanes, Server, Settings
from pipeline.errors import ConfigError, PortInUseError
from web.routes import haproxy_agent
from web.routes.haproxy_agent import serve_agent

AGENT = Server(port=0, agent_port=0)
TWO_MAY_WAIT = Settings(server=AGENT, lanes=Lanes(queue=2), limits=SETTINGS.limits, drain_s=SETTINGS.drain_s)


async def heard(port, question=b""):
    """All that is said to one connection."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if question:
            await stream.send_all(question)
        return b"".join([piece async for piece in stream])


@contextlib.asynccontextmanager
async def answering(*, lanes=3, before=None):
    """A server, and the port of its agent."""
    async with (
        small_server(TWO_MAY_WAIT, lanes=lanes, before=before) as served,
        trio.open_nursery() as nursery,
    ):
        served.agent_port = await nursery.start(serve_agent, AGENT, served.engine)
        yield served
        nursery.cancel_scope.cancel()


async def test_the_weight_is_the_room_there_is():
    """Free lanes, or free places in the queue: a hundred per cent of a weight of 1 for each."""
    told = []
    async with answering() as served:
        with contextlib.ExitStack() as seats:
            for _ in range(5):
                told.append([await heard(served.agent_port, word) for word in (b"lanes\n", b"queue\n")])
                seats.enter_context(served.engine.admit())
            told.append([await heard(served.agent_port, word) for word in (b"lanes\n", b"queue\n")])
        assert await heard(served.agent_port, b"lanes\n") == b"up ready 300%\n"
    assert [lanes for lanes, _ in told] == [b"up ready %d%%\n" % p for p in (300, 200, 100, 0, 0, 0)]
    assert [queue for _, queue in told] == [b"up ready %d%%\n" % p for p in (200, 200, 200, 200, 100, 0)]


@pytest.mark.parametrize("question", [b"", b"\n", b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"lanes\r\n"])
async def test_whatever_is_asked_is_answered(question):
    """Who says nothing, or nonsense, is told of lanes."""
    async with answering() as served:
        assert await heard(served.agent_port, question) == b"up ready 300%\n"


async def test_without_models_nobody_is_to_come():
    """While they load the replica is down; then it is up by itself."""
    loading = threading.Event()
    async with answering(before=loading.wait) as served:
        assert await heard(served.agent_port) == b"down #not_ready\n"
        loading.set()
        await served.engine.ready.wait()
        assert await heard(served.agent_port) == b"up ready 300%\n"


async def test_a_server_that_drains_gets_nobody_new():
    """And it says so while its sessions finish."""
    async with answering() as served:
        served.engine.admission.drain()
        assert await heard(served.agent_port, b"queue\n") == b"drain\n"


async def test_a_server_that_stalls_has_failed():
    """Its process is about to end."""
    async with answering() as served:
        served.engine.stalled = True
        assert await heard(served.agent_port) == b"fail #stalled\n"


async def test_silent_connections_are_bounded_and_closed(monkeypatch):
    """One too many is turned away at once, and none keeps its place by saying and reading nothing."""
    monkeypatch.setattr(haproxy_agent, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(haproxy_agent, "QUERY_TIMEOUT_S", 60)
    async with answering() as served, await trio.open_tcp_stream("127.0.0.1", served.agent_port) as first:
        assert await heard(served.agent_port) == b""
        await first.send_all(b"lanes\n")
        assert await first.receive_some() == b"up ready 300%\n"


async def test_the_port_is_one_that_is_free():
    """A taken port and an address of another machine are mistakes, each with its key."""
    async with answering() as served:
        with pytest.raises(PortInUseError) as taken:
            await serve_agent(Server(agent_port=served.agent_port), served.engine)
        assert "server.agent_port" in str(taken.value)
        with pytest.raises(ConfigError) as elsewhere:
            await serve_agent(Server(agent_port=0, agent_host="192.0.2.1"), served.engine)
        assert elsewhere.value.key == "pipeline.server.agent_host"
