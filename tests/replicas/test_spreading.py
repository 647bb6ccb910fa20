"""New sessions go where lanes are free, then where there is room to wait, and are told if there is none."""

import signal
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio
from support.replicas.callers import calling, home, refusal, see, until, visiting


async def test_sessions_go_where_lanes_are_free(servers):
    """Also where a lane was taken behind the balancer's back; then they wait, each queue in its turn."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        await enter(visiting(servers.replicas["r1"].port))
        await see(servers, lambda seen: seen["r1"].weight == 1)
        homes = Counter([home(await enter(visiting(servers.balancer.port))) for _ in range(5)])
        assert homes == {"r1": 1, "r2": 2, "r3": 2}

        await see(servers, lambda seen: not any(replica.weight for replica in seen.values()))
        waiting = [await enter(calling(servers)) for _ in range(3)]
        for caller in waiting:
            assert (await caller.hear_of("queued")).position == 1
        assert {caller.home for caller in waiting} == {"r1", "r2", "r3"}

        await see(servers, lambda seen: not any(replica.weight for replica in seen.values()), "queue")
        status, code, headers = await refusal(servers)
        assert (status, code) == (503, "full")
        assert b"retry-after" in headers
        page = await enter(calling(servers, origin=servers.balancer.url))
        assert (await page.hear_of("error")).code == "full"
        assert await page.close_code() == 1013


async def test_all_at_once_find_a_lane(servers):
    """Six come in the same moment, before the balancer hears of any."""
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(calling(servers)) for _ in range(6)]
        for caller in callers:
            await caller.hear_of("ready")
        assert Counter(caller.home for caller in callers) == {"r1": 2, "r2": 2, "r3": 2}


async def test_a_replica_that_is_full_after_all_is_passed_over(servers):
    """What is believed of it may be old: who is sent there in vain is sent on, and does not notice."""
    balancer = servers.balancer
    balancer.ask("disable agent lanes/r1; set weight lanes/r1 100")
    try:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            for _ in range(2):
                await enter(visiting(servers.replicas["r1"].port))
            homes = []
            for free in (3, 2, 1, 0):
                homes.append(home(await enter(visiting(balancer.port))))
                await see(servers, lambda seen: seen["r2"].weight + seen["r3"].weight == free)  # noqa: B023
            assert Counter(homes) == {"r2": 2, "r3": 2}
    finally:
        balancer.ask("enable agent lanes/r1")


async def test_a_session_that_is_resumed_comes_home(servers):
    """To the replica that holds its state: what it goes on to say is what it would have said unbroken."""
    async with calling(servers) as whole:
        await whole.hear_of("ready")
        await whole.talk(0, 30)
    async with calling(servers) as first:
        await first.hear_of("ready")
        await first.talk(0, 12)
        established = first.told["connection_established"][0]
        first.lose()
    for _ in range(3):
        async with calling(servers, f"/ws?resume={established.resume_token}") as again:
            resumed = await again.hear_of("resumed")
            assert (resumed.session_id, again.home) == (established.session_id, first.home)
            established = again.told["connection_established"][0]
            again.lose()
    async with calling(servers, f"/ws?resume={established.resume_token}") as last:
        await last.hear_of("resumed")
        await last.talk(12, 18)
    assert first.answers + last.answers == whole.answers


@pytest.mark.parametrize("token", ["r1.nobody", "r9.nobody", "nobody", "r1.", "%2e%2e/r1"])
async def test_a_token_that_nobody_knows_begins_anew(servers, token):
    """A replica that is not there, or has no such session: the client gets a new one, and is told so."""
    async with visiting(servers.balancer.port, f"/ws?resume={token}") as talker:
        assert talker.errors == ["not_resumed"]
        assert talker.resumed is None
        await talker.speak(5)
        await talker.part()


async def test_the_balancer_tells_no_secrets(servers):
    """Neither its log nor a replica's holds a token to resume with, though both tell of the connection."""
    before = servers.balancer.logged().count("GET /ws HTTP")
    async with calling(servers) as first:
        await first.hear_of("ready")
        token = first.told["connection_established"][0].resume_token
        first.lose()
    async with calling(servers, f"/ws?resume={token}&x=1") as again:
        await again.hear_of("resumed")
    await until(lambda: servers.balancer.logged().count("GET /ws HTTP") == before + 2)
    said = servers.balancer.logged() + "".join(replica.logged() for replica in servers.replicas.values())
    assert token not in said
    assert token.partition(".")[2] not in said


async def test_only_pages_of_the_public_address_come_in(servers):
    """The balancer's own origin is the server's; that of a replica, or of anybody else, is not."""
    async with calling(servers, origin=servers.balancer.url) as page:
        await page.hear_of("ready")
    for origin in ("http://127.0.0.1:1", "https://example.org"):
        assert (await refusal(servers, origin=origin))[:2] == (403, "origin_refused")


async def test_figures_are_asked_of_each_replica(servers):
    """Through the balancer they would be of one or the other."""
    for name, replica in servers.replicas.items():
        status, metrics = await trio.to_thread.run_sync(replica.get, "/metrics")
        assert status == 200, name
        assert "packet_voice_lanes" in metrics


async def test_with_nobody_there_the_balancer_says_when_to_come_again(servers):
    """As a server would that loads its models."""
    for name in servers.names:
        await trio.to_thread.run_sync(servers.end, name, signal.SIGKILL)
    status, code, headers = await refusal(servers)
    assert (status, code, headers[b"retry-after"]) == (503, "not_ready", b"5")
