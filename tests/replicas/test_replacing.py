"""When a process ends, in any way, no session hangs and the other sessions are not affected."""

import os
import signal
from contextlib import AsyncExitStack

import pytest
import trio
from support.replicas.callers import HANG_S, calling, home, visiting
from trio_websocket import ConnectionClosed

from pipeline.loadtest.failover import rolling_restart


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_replica_that_ends_affects_only_its_own_sessions(servers, number):
    """Its clients are disconnected at once and get a new session on another replica; the others continue."""
    with trio.fail_after(HANG_S):
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(visiting(servers.balancer.port)) for _ in range(3)]
            assert {home(client) for client in clients} == {"r1", "r2", "r3"}
            lost = next(client for client in clients if home(client) == "r2")
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.send_audio, 40)
                await trio.sleep(0.5)
                await trio.to_thread.run_sync(servers.stop, "r2", number)
                await lost.closed.wait()
                token = lost.established.resume_token
                async with visiting(servers.balancer.port, f"/ws?resume={token}") as again:
                    assert again.errors == ["not_resumed"]
                    assert home(again) != "r2"
                    await again.send_audio(5)
                    await again.finish()
            assert lost.draining == (number == signal.SIGTERM)
            for client in clients:
                if client is not lost:
                    await client.finish()


async def test_a_replica_that_hangs_gets_no_new_session(servers):
    """Whoever was sent to it, before health checks could notice, is sent to another one."""
    homes, all_here = [], trio.Event()

    async def visit():
        async with visiting(servers.balancer.port) as client:
            homes.append(home(client))
            if len(homes) == 3:
                all_here.set()
            await all_here.wait()

    os.kill(servers.replicas["r2"].pid, signal.SIGSTOP)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(visit)
    finally:
        os.kill(servers.replicas["r2"].pid, signal.SIGCONT)
    assert set(homes) == {"r1", "r3"}


async def test_a_drained_replica_keeps_its_sessions(servers):
    """Drained at the balancer, it gets no new sessions; its own continue, and can be resumed."""
    balancer = servers.balancer
    async with calling(servers) as first:
        await first.wait_for("ready")
        await first.talk(0, 5)
        name = first.home
        token = first.metadata["connection_established"][0].resume_token
        balancer.command(f"disable agent lanes/{name}; set server lanes/{name} state drain")
        try:
            homes = []
            for _ in range(3):
                async with visiting(balancer.port) as other:
                    homes.append(home(other))
            assert name not in homes
            await first.talk(5, 5)
            first.reset_connection()
            async with calling(servers, f"/ws?resume={token}") as again:
                await again.wait_for("resumed")
                await again.talk(10, 5)
        finally:
            balancer.command(f"set server lanes/{name} state ready; enable agent lanes/{name}")


async def test_a_killed_balancer_loses_no_session(servers):
    """Every connection ends at once; after a restart, sessions resume on their replicas."""
    with trio.fail_after(HANG_S):
        async with AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(calling(servers)) for _ in range(3)]
            for caller in callers:
                await caller.wait_for("ready")
                await caller.talk(0, 5)
            await trio.to_thread.run_sync(servers.balancer.stop, signal.SIGKILL)
            for caller in callers:
                with pytest.raises(ConnectionClosed):
                    await caller.wait_for("anything")
            await trio.to_thread.run_sync(servers.balancer.start)
            for caller in callers:
                token = caller.metadata["connection_established"][0].resume_token
                async with calling(servers, f"/ws?resume={token}") as again:
                    await again.wait_for("resumed")
                    assert again.home == caller.home
                    await again.talk(5, 5)


async def test_a_rolling_restart_loses_no_client(servers):
    """Every replica is replaced while clients talk; they are drained, and start new sessions on others."""
    with trio.fail_after(6 * HANG_S):
        restarted = await rolling_restart(servers, 3, calm_s=0.5)
    assert restarted.violations() == []
    assert restarted.summary()["new_sessions"] >= 3
    assert all(report.close == 1000 for report in restarted.reports)
