"""Resuming over real sockets: a lost session can be resumed, a closed one cannot."""

import numpy as np
import pytest
import trio
from support.web.small_engine import PacketClient, packet_client, small_server, speech
from support.web.sockets import HANG_S, frame, raw_websocket, read_to_end, websocket

CLOSE = 8


async def until(condition):
    """Run other tasks until the condition holds."""
    with trio.fail_after(HANG_S):
        while not condition():  # noqa: ASYNC110 - of counters
            await trio.sleep(0.01)


async def test_a_lost_session_is_resumed():
    """The answers before and after are those of one uninterrupted session."""
    async with small_server() as served, packet_client(served) as whole:
        pcm = speech(12)
        due = await whole.exchange(pcm)
    async with small_server() as served:
        async with websocket(served) as connection:
            first = PacketClient(connection)
            await first.receive_metadata("ready")
            token = first.metadata["connection_established"][0].resume_token
            before = await first.exchange(pcm[:5])
            await connection._stream.aclose()  # without a close frame
        await until(lambda: served.engine.health()["waiting"] == 1)
        async with websocket(served, f"/ws?resume={token}") as connection:
            second = PacketClient(connection)
            resumed = await second.receive_metadata("resumed")
            second.frames = 5
            after = await second.exchange(pcm[5:])
        assert resumed.session_id == first.metadata["connection_established"][0].session_id
        assert resumed.resume_token not in (None, token)
    assert np.array_equal(np.concatenate([before, after]), due)


@pytest.mark.parametrize(("code", "waits"), [(1000, 0), (1001, 0), (None, 0), (1002, 1), (4000, 1)])
async def test_a_close_frees_the_lane_and_a_loss_does_not(code, waits):
    """1000, 1001 and a close without a code free the lane at once; after others one can resume."""
    async with small_server() as served, raw_websocket(served) as stream:
        await until(lambda: served.engine.health()["lanes"]["open"] == 1)
        await stream.send_all(frame(CLOSE, b"" if code is None else code.to_bytes(2, "big")))
        await read_to_end(stream)
        await until(lambda: served.engine.health()["clients"] == 0)
        await until(lambda: served.engine.health()["lanes"]["open"] == waits)
        assert served.engine.health()["waiting"] == waits


async def test_a_replaced_connection_is_closed_with_4001():
    """Even where the server has not yet noticed that the old connection is lost."""
    async with small_server() as served, websocket(served) as connection:
        first = PacketClient(connection)
        await first.receive_metadata("ready")
        token = first.metadata["connection_established"][0].resume_token
        async with websocket(served, f"/ws?resume={token}") as newer:
            await PacketClient(newer).receive_metadata("resumed")
            assert await first.close_code() == 4001
