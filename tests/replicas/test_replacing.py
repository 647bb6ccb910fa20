"""Whatever process ends, and however: no session hangs, and nobody else's is touched."""

import signal
from contextlib import AsyncExitStack

import pytest
import trio
from support.replicas.callers import HANG_S, calling, home, visiting
from trio_websocket import ConnectionClosed

from pipeline.loadtest.failover import rolling_restart


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_replica_that_ends_takes_nobody_with_it(servers, number):
    """Its clients learn it at once and begin anew elsewhere, tokens and all; the others notice nothing."""
    with trio.fail_after(HANG_S):
        async with AsyncExitStack() as stack:
            talkers = [await stack.enter_async_context(visiting(servers.balancer.port)) for _ in range(3)]
            assert {home(talker) for talker in talkers} == {"r1", "r2", "r3"}
            lost = next(talker for talker in talkers if home(talker) == "r2")
            async with trio.open_nursery() as speaking:
                for talker in talkers:
                    speaking.start_soon(talker.speak, 40)
                await trio.sleep(0.5)
                await trio.to_thread.run_sync(servers.end, "r2", number)
                await lost.closed.wait()
                token = lost.established.resume_token
                async with visiting(servers.balancer.port, f"/ws?resume={token}") as again:
                    assert again.errors == ["not_resumed"]
                    assert home(again) != "r2"
                    await again.speak(5)
                    await again.part()
            assert lost.draining == (number == signal.SIGTERM)
            for talker in talkers:
                if talker is not lost:
                    await talker.part()


async def test_a_replica_put_aside_keeps_what_it_has(servers):
    """Drained at the balancer it gets nobody new; its sessions go on, also after a break."""
    balancer = servers.balancer
    async with calling(servers) as first:
        await first.hear_of("ready")
        await first.talk(0, 5)
        name = first.home
        token = first.told["connection_established"][0].resume_token
        balancer.ask(f"disable agent lanes/{name}; set server lanes/{name} state drain")
        try:
            homes = []
            for _ in range(3):
                async with visiting(balancer.port) as other:
                    homes.append(home(other))
            assert name not in homes
            await first.talk(5, 5)
            first.lose()
            async with calling(servers, f"/ws?resume={token}") as again:
                await again.hear_of("resumed")
                await again.talk(10, 5)
        finally:
            balancer.ask(f"set server lanes/{name} state ready; enable agent lanes/{name}")


async def test_the_balancer_that_is_killed_loses_no_session(servers):
    """Everybody's connection ends at once; started again, it takes them home."""
    with trio.fail_after(HANG_S):
        async with AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(calling(servers)) for _ in range(3)]
            for caller in callers:
                await caller.hear_of("ready")
                await caller.talk(0, 5)
            await trio.to_thread.run_sync(servers.balancer.end, signal.SIGKILL)
            for caller in callers:
                with pytest.raises(ConnectionClosed):
                    await caller.hear_of("anything")
            await trio.to_thread.run_sync(servers.balancer.start)
            for caller in callers:
                token = caller.told["connection_established"][0].resume_token
                async with calling(servers, f"/ws?resume={token}") as again:
                    await again.hear_of("resumed")
                    assert again.home == caller.home
                    await again.talk(5, 5)


async def test_a_rolling_restart_loses_nobody(servers):
    """Every replica is replaced under talking clients: they are asked to leave, and go on elsewhere."""
    with trio.fail_after(6 * HANG_S):
        restarted = await rolling_restart(servers, 3, calm_s=0.5)
    assert restarted.laws() == []
    assert restarted.figures()["asked_to_leave"] >= 3
    assert all(report.close == 1000 for report in restarted.reports)
