"""A client that is frozen or cut off loses its lane, and one that is only quiet does not."""

import json
import struct

import pytest
from support.web.live import START
from support.web.small_engine import packet_client, small_server, speech
from support.web.sockets import fetch, frame, raw_websocket

from pipeline.config import Heartbeat, Limits, Server, Settings

TEXT, PING, PONG = 1, 9, 10  # opcodes
EVERY_S, TIMEOUT_S = 0.1, 0.3
SETTINGS = Settings(
    server=Server(port=0),
    heartbeat=Heartbeat(every_s=EVERY_S, timeout_s=TIMEOUT_S),
    limits=Limits(max_lag_ms=60_000),
)
PATHS = ["/v1/live/sessions", "/v1/realtime", "/api/chat"]


async def health(served):
    return (await fetch(served, "/health")).json


async def begin(stream, path):
    if path == "/v1/live/sessions":
        await stream.send_all(frame(TEXT, json.dumps(START).encode()))


async def receive_exactly(stream, size):
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


async def next_opcode(stream):
    """The opcode of the next frame, which is read whole."""
    opcode, size = await receive_exactly(stream, 2)
    if size == 126:
        (size,) = struct.unpack("!H", await receive_exactly(stream, 2))
    await receive_exactly(stream, size)
    return opcode & 0x0F


@pytest.mark.parametrize("path", PATHS)
async def test_a_frozen_client_loses_its_lane(path):
    """It answers no ping: its lane is free after the heartbeat timeout, and a neighbour is undisturbed."""
    said, answers = iter(speech(1000)), []
    async with small_server(SETTINGS) as served, packet_client(served) as neighbour:
        async with raw_websocket(served, path) as frozen:
            await begin(frozen, path)
            while "silent" not in (await health(served))["endings"]:
                answers += await neighbour.exchange([next(said)])
            assert (await health(served))["lanes"]["open"] == 1
        answers += await neighbour.exchange([next(said)])
        async with packet_client(served) as alone:
            assert await alone.exchange(speech(1000)[: len(answers) + 1]) == answers


@pytest.mark.parametrize("path", PATHS)
async def test_a_quiet_client_keeps_its_lane(path):
    """It answers pings, as every library does: that is enough, however long no audio comes."""
    async with small_server(SETTINGS) as served, raw_websocket(served, path) as quiet:
        await begin(quiet, path)
        for _ in range(int(3 * TIMEOUT_S / EVERY_S)):
            while await next_opcode(quiet) != PING:
                pass
            await quiet.send_all(frame(PONG, b""))
        assert (await health(served))["lanes"]["open"] == 1
        assert (await health(served))["endings"] == {}
