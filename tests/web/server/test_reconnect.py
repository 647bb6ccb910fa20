"""A session and its connections, over real sockets: who is lost may come back, who closes has gone."""

import numpy as np
import pytest
import trio
from support.web.small_engine import Talker, small_server, speech, talker
from support.web.sockets import frame, raw_websocket, read_to_end, websocket

CLOSE = 8


async def until(condition):
    """Wait until it holds, as other tasks get their turns."""
    with trio.fail_after(5):  # half the grace
        while not condition():  # noqa: ASYNC110 - of counters
            await trio.sleep(0.01)


async def test_who_was_cut_off_goes_on_with_the_token():
    """The answers before and after are those of one conversation that was never cut."""
    async with small_server() as served, talker(served) as whole:
        pcm = speech(12)
        due = await whole.speak(pcm)
    async with small_server() as served:
        async with websocket(served) as connection:
            first = Talker(connection)
            await first.told("ready")
            token = first.metadata["connection_established"][0].resume_token
            before = await first.speak(pcm[:5])
            await connection._stream.aclose()  # without a word
        await until(lambda: served.engine.health()["waiting"] == 1)
        async with websocket(served, f"/ws?resume={token}") as connection:
            second = Talker(connection)
            resumed = await second.told("resumed")
            second.frames = 5
            after = await second.speak(pcm[5:])
        assert resumed.session_id == first.metadata["connection_established"][0].session_id
        assert resumed.resume_token not in (None, token)
    assert np.array_equal(np.concatenate([before, after]), due)


@pytest.mark.parametrize(("code", "waits"), [(1000, 0), (1001, 0), (None, 0), (1002, 1), (4000, 1)])
async def test_who_closes_has_gone_and_who_fails_may_come_back(code, waits):
    """1000, 1001 and a close without a code free the lane at once; other codes are not a goodbye."""
    async with small_server() as served, raw_websocket(served) as stream:
        await until(lambda: served.engine.health()["lanes"]["open"] == 1)
        await stream.send_all(frame(CLOSE, b"" if code is None else code.to_bytes(2, "big")))
        await read_to_end(stream)
        await until(lambda: served.engine.health()["clients"] == 0)
        await until(lambda: served.engine.health()["lanes"]["open"] == waits)
        assert served.engine.health()["waiting"] == waits


async def test_a_replaced_connection_is_closed_with_4001():
    """The server need not have noticed that the old one is dead."""
    async with small_server() as served, websocket(served) as connection:
        first = Talker(connection)
        await first.told("ready")
        token = first.metadata["connection_established"][0].resume_token
        async with websocket(served, f"/ws?resume={token}") as newer:
            await Talker(newer).told("resumed")
            assert await first.close_code() == 4001
