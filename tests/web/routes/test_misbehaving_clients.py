"""Clients of other dialects that are frozen, cut off or flood: they lose their lane, and nobody else notices.

One that is only quiet keeps it.
"""

import socket
import struct

import pytest
import trio
from support.web.small_engine import packet_client, small_server, speech
from support.web.sockets import fetch, frame, pour, raw_websocket, until_lanes_open

from pipeline.audio.noise import noise_frames
from pipeline.client.scripts import scripts
from pipeline.config import Heartbeat, Limits, Server, Settings

TEXT, BINARY, PING, PONG = 1, 2, 9, 10  # opcodes
# Longer than the absence that a server notices (`awake_clock.ABSENT_S`): a busy machine silences no client.
EVERY_S, TIMEOUT_S = 0.3, 1.5
SETTINGS = Settings(
    server=Server(port=0),
    heartbeat=Heartbeat(every_s=EVERY_S, timeout_s=TIMEOUT_S),
    limits=Limits(max_lag_ms=60_000, requests_processor_share=1e6, address_processor_share=1e6),
)
SCRIPTS = {script.path: script for script in scripts(noise_frames(1)) if script.dialect != "packets"}
PATHS = list(SCRIPTS)


async def health(served):
    return (await fetch(served, "/health")).json


def as_frame(message):
    return frame(TEXT, message.encode()) if isinstance(message, str) else frame(BINARY, message)


async def begin(stream, path):
    for message in SCRIPTS[path].opening:
        await stream.send_all(as_frame(message))


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
            state = await health(served)
            while "silent" not in state["endings"] or state["lanes"]["open"] > 1:
                answers += await neighbour.exchange([next(said)])
                state = await health(served)
        answers += await neighbour.exchange([next(said)])
        async with packet_client(served) as alone:
            assert await alone.exchange(speech(1000)[: len(answers) + 1]) == answers


@pytest.mark.parametrize("path", PATHS)
async def test_a_quiet_client_keeps_its_lane(path):
    """It answers pings, as every library does: that is enough, however long no audio comes."""
    async with small_server(SETTINGS) as served, raw_websocket(served, path) as quiet:
        await begin(quiet, path)
        for _ in range(int(2 * TIMEOUT_S / EVERY_S)):
            while await next_opcode(quiet) != PING:
                pass
            await quiet.send_all(frame(PONG, b""))
        assert (await health(served))["lanes"]["open"] == 1
        assert (await health(served))["endings"] == {}


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_is_cut_off_loses_its_lane(path):
    """In the middle of a message, by a reset: at once."""
    async with small_server() as served, packet_client(served) as neighbour:
        answers = await neighbour.exchange(speech(8)[:4])
        async with raw_websocket(served, path) as stream:
            await begin(stream, path)
            message = as_frame(SCRIPTS[path].frames[0])
            await stream.send_all(message + message[: len(message) // 2])
            await until_lanes_open(served, 2)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until_lanes_open(served, 1)
        answers += await neighbour.exchange(speech(8)[4:])
        async with packet_client(served) as alone:
            assert await alone.exchange(speech(8)) == answers


@pytest.mark.parametrize("path", PATHS)
async def test_a_flood_of_audio_harms_nobody_else(path):
    """A client sends without a pause and reads nothing; a neighbour computes as if alone."""
    said = speech(30)
    async with small_server() as served:
        async with packet_client(served) as alone:
            expected = await alone.exchange(said)

        async def flood():
            async with raw_websocket(served, path) as stream:
                await begin(stream, path)
                with pytest.raises(trio.BrokenResourceError):
                    await pour(stream, 8 * as_frame(SCRIPTS[path].frames[0]))

        async with packet_client(served) as neighbour, trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            assert await neighbour.exchange(said) == expected
