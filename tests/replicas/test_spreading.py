"""New sessions go where lanes are free, then where queues have room, and are refused otherwise."""

import signal
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
from support.replicas.callers import calling, home, refusal, until, visiting, wait_for_states


async def test_sessions_go_where_lanes_are_free(servers):
    """Lanes taken without the balancer are counted; once all are taken, sessions wait in the queues."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        await enter(visiting(servers.replicas["r1"].port))
        await wait_for_states(servers, lambda states: states["r1"].weight == 1)
        homes = Counter([home(await enter(visiting(servers.balancer.port))) for _ in range(5)])
        assert homes == {"r1": 1, "r2": 2, "r3": 2}

        await wait_for_states(servers, lambda states: not any(replica.weight for replica in states.values()))
        waiting = [await enter(calling(servers)) for _ in range(3)]
        for caller in waiting:
            assert (await caller.wait_for("queued")).position == 1
        assert {caller.home for caller in waiting} == {"r1", "r2", "r3"}

        await wait_for_states(
            servers, lambda states: not any(replica.weight for replica in states.values()), "queue"
        )
        status, code, headers = await refusal(servers)
        assert (status, code) == (503, "full")
        assert b"retry-after" in headers
        page = await enter(calling(servers, origin=servers.balancer.url))
        assert (await page.wait_for("error")).code == "full"
        assert await page.close_code() == 1013


async def test_simultaneous_sessions_all_get_a_lane(servers):
    """Six connect at the same moment, before the balancer has an update."""
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(calling(servers)) for _ in range(6)]
        for caller in callers:
            await caller.wait_for("ready")
        assert Counter(caller.home for caller in callers) == {"r1": 2, "r2": 2, "r3": 2}


def weights_add_up_to(total, states):
    return states["r2"].weight + states["r3"].weight == total


async def test_a_replica_that_turns_out_to_be_full_is_skipped(servers):
    """The balancer's information may be old: a refused session is sent on to another replica."""
    balancer = servers.balancer
    balancer.command("disable agent lanes/r1; set weight lanes/r1 100")
    try:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            for _ in range(2):
                await enter(visiting(servers.replicas["r1"].port))
            homes = []
            for free in (3, 2, 1, 0):
                homes.append(home(await enter(visiting(balancer.port))))
                await wait_for_states(servers, partial(weights_add_up_to, free))
            assert Counter(homes) == {"r2": 2, "r3": 2}
    finally:
        balancer.command("enable agent lanes/r1")


async def test_a_resumed_session_returns_to_its_replica(servers):
    """The replica has its state: the answers are those of an unbroken session."""
    async with calling(servers) as whole:
        await whole.wait_for("ready")
        await whole.talk(0, 30)
    async with calling(servers) as first:
        await first.wait_for("ready")
        await first.talk(0, 12)
        established = first.metadata["connection_established"][0]
        first.reset_connection()
    for _ in range(3):
        async with calling(servers, f"/ws?resume={established.resume_token}") as again:
            resumed = await again.wait_for("resumed")
            assert (resumed.session_id, again.home) == (established.session_id, first.home)
            established = again.metadata["connection_established"][0]
            again.reset_connection()
    async with calling(servers, f"/ws?resume={established.resume_token}") as last:
        await last.wait_for("resumed")
        await last.talk(12, 18)
    assert first.answers + last.answers == whole.answers


@pytest.mark.parametrize("token", ["r1.unknown", "r9.unknown", "unknown", "r1.", "%2e%2e/r1"])
async def test_an_unknown_token_starts_a_new_session(servers, token):
    """No such replica, or no such session: the client gets a new session and the error `not_resumed`."""
    async with visiting(servers.balancer.port, f"/ws?resume={token}") as client:
        assert client.errors == ["not_resumed"]
        assert client.resumed is None
        await client.send_audio(5)
        await client.finish()


async def test_resume_tokens_are_not_logged(servers):
    """Neither the balancer's log nor a replica's contains the token, though both log the connection."""
    before = servers.balancer.logged().count("GET /ws HTTP")
    async with calling(servers) as first:
        await first.wait_for("ready")
        token = first.metadata["connection_established"][0].resume_token
        first.reset_connection()
    async with calling(servers, f"/ws?resume={token}&x=1") as again:
        await again.wait_for("resumed")
    await until(lambda: servers.balancer.logged().count("GET /ws HTTP") == before + 2)
    logs = servers.balancer.logged() + "".join(replica.logged() for replica in servers.replicas.values())
    assert token not in logs
    assert token.partition(".")[2] not in logs


async def test_only_pages_of_the_public_address_may_connect(servers):
    """The balancer's origin is accepted; a replica's own, and any other, is refused."""
    async with calling(servers, origin=servers.balancer.url) as page:
        await page.wait_for("ready")
    for origin in ("http://127.0.0.1:1", "https://example.org"):
        assert (await refusal(servers, origin=origin))[:2] == (403, "origin_refused")


async def test_metrics_are_read_from_each_replica(servers):
    """Through the balancer they would be those of any one of them."""
    for name, replica in servers.replicas.items():
        status, metrics = await trio.to_thread.run_sync(replica.get, "/metrics")
        assert status == 200, name
        assert "packet_voice_lanes" in metrics


async def test_without_replicas_the_balancer_sends_retry_after(servers):
    """The response is that of a server which is still loading its models."""
    for name in servers.names:
        await trio.to_thread.run_sync(servers.stop, name, signal.SIGKILL)
    status, code, headers = await refusal(servers)
    assert (status, code, headers[b"retry-after"]) == (503, "not_ready", b"5")
