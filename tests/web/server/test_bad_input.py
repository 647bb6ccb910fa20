"""Bad input never affects another session and is never ignored silently; over real sockets.

Each test runs the same healthy session: half of its frames before the bad input, half after. Its
answers must be, byte for byte, those that it gets alone.
"""

import math
from contextlib import asynccontextmanager

import numpy as np
import pytest
import trio
from support.web.small_engine import SETTINGS, packet_client, small_server, speech
from support.web.sockets import closing_code, fetch, frame, pour, raw_websocket, read_frames, until_lanes_open

from pipeline.config import Heartbeat, Limits, Server, Settings
from pipeline.protocol import outgoing
from pipeline.protocol.packets import Packet, PacketType, Priority, encode
from pipeline.units import BURST_FRAMES, FRAME_SAMPLES

SPOKEN = speech(12, seed=1)
HALF = len(SPOKEN) // 2
# Longer than the absence that a server notices (`awake_clock.ABSENT_S`): a busy machine silences no client.
HEARTBEAT = Heartbeat(every_s=0.3, timeout_s=2.5)
BINARY = 2


@asynccontextmanager
async def beside_a_healthy_session(settings=SETTINGS, **how):
    """A server; the block runs in the middle of a session whose answers it must not change."""
    async with small_server(settings, **how) as served:
        async with packet_client(served) as alone:
            expected = await alone.exchange(SPOKEN)
        async with packet_client(served) as neighbour:
            answers = await neighbour.exchange(SPOKEN[:HALF])
            yield served
            answers += await neighbour.exchange(SPOKEN[HALF:])
        assert answers == expected
        assert len(expected) == len(SPOKEN) - 1


async def frames_out(served):
    """Wait until the writes of the only session have stalled after the first ones."""
    sent = -1
    while sent < 1 or served.engine.health()["metrics"]["framesOut"] != sent:
        sent = served.engine.health()["metrics"]["framesOut"]
        await fetch(served, "/health/live")


def packet(kind=PacketType.METADATA, payload=b'{"type":"bye"}', *, timestamp_ms=0.0):
    return encode(Packet(kind, Priority.HIGH, 0, timestamp_ms, payload, False))


def audio(samples):
    return packet(PacketType.AUDIO_CHUNK, np.asarray(samples, "<f4").tobytes())


GOOD = audio(speech(1)[0])

FATAL = [
    pytest.param("text", "text_frame", 1003, id="text frame"),
    pytest.param("", "text_frame", 1003, id="empty text frame"),
    pytest.param(b"", "empty_message", 1002, id="empty message"),
    pytest.param(GOOD[:16], "short_header", 1002, id="short header"),
    pytest.param(b"\x10", "short_header", 1002, id="one byte"),
    pytest.param(GOOD[:-1], "length_mismatch", 1002, id="payload too short"),
    pytest.param(GOOD + b"\0", "length_mismatch", 1002, id="payload too long"),
    pytest.param(packet(PacketType.TEXT_FINAL, b"\xff\xfe"), "invalid_utf8", 1002, id="text not UTF-8"),
    pytest.param(packet(payload=b'"\xff"'), "invalid_utf8", 1002, id="metadata not UTF-8"),
    pytest.param(packet(payload=b"{"), "invalid_json", 1002, id="metadata not JSON"),
    pytest.param(packet(payload=b'{"type":NaN}'), "invalid_json", 1002, id="metadata with NaN"),
    pytest.param(packet(payload=b"[" * 60_000), "invalid_json", 1002, id="metadata nested deep"),
    pytest.param(packet(payload=b"[]"), "invalid_metadata", 1002, id="metadata no object"),
    pytest.param(packet(payload=b"{}"), "invalid_metadata", 1002, id="metadata without type"),
]


@pytest.mark.parametrize(("message", "code", "close"), FATAL)
async def test_an_invalid_packet_ends_its_session(message, code, close):
    """The client gets the error, is closed with the code for it, and its lane is free again."""
    async with beside_a_healthy_session() as served:
        async with packet_client(served) as faulty:
            await faulty.exchange(speech(2, seed=2))
            await faulty.connection.send_message(message)
            assert (await faulty.receive_metadata("error")).code == code
            assert await faulty.close_code() == close
        await until_lanes_open(served, 1)
        assert (await fetch(served, "/health")).json["endings"][code] == 1


async def test_a_message_over_the_limit_ends_its_session():
    """One byte over the limit is closed with 1009 and counted; the lane is free again."""
    limit_bytes = SETTINGS.limits.message_bytes
    async with beside_a_healthy_session() as served:
        async with packet_client(served) as faulty:
            await faulty.connection.send_message(bytes(limit_bytes + 1))
            assert await faulty.close_code() == 1009
        await until_lanes_open(served, 1)
        assert (await fetch(served, "/health")).json["endings"]["too_big"] == 1


async def test_a_malformed_frame_ends_its_session():
    """Bytes that are not a WebSocket frame are closed with 1002 and counted; the lane is free again."""
    async with beside_a_healthy_session() as served:
        async with raw_websocket(served) as stream:
            await stream.send_all(frame(BINARY, GOOD, masked=False))
            assert closing_code(await read_frames(stream)) == 1002
        await until_lanes_open(served, 1)
        assert (await fetch(served, "/health")).json["endings"]["bad_frame"] == 1


@pytest.mark.parametrize("kind", [0x00, 0x03, 0x11, 0x7F, 0xFF])
async def test_an_unknown_packet_is_ignored(kind):
    """A packet type of a later protocol does not change the session that sent it either."""
    mine = speech(6, seed=3)
    async with beside_a_healthy_session() as served:
        async with packet_client(served) as plain:
            expected = await plain.exchange(mine)
        async with packet_client(served) as modern:
            answers = await modern.exchange(mine[:3])
            await modern.connection.send_message(packet(kind, b"from the future"))
            answers += await modern.exchange(mine[3:])
    assert answers == expected


LOUD = np.full(FRAME_SAMPLES, 0.5, np.float32)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(LOUD[:-1], id="a sample short"),
        pytest.param([], id="nothing"),
        pytest.param(LOUD[:1], id="one sample"),
        pytest.param(np.tile(LOUD, BURST_FRAMES)[: FRAME_SAMPLES + 1], id="a frame and a sample"),
        pytest.param(np.where(np.arange(FRAME_SAMPLES) == 7, math.nan, LOUD), id="NaN"),
        pytest.param(np.where(np.arange(FRAME_SAMPLES) == 7, math.inf, LOUD), id="infinity"),
        pytest.param(np.where(np.arange(FRAME_SAMPLES) == 7, -math.inf, LOUD), id="minus infinity"),
    ],
)
async def test_bad_audio_is_refused_and_the_session_continues(samples):
    """The packet is refused with an error and counted; later answers are as if it had not been sent."""
    mine = speech(6, seed=4)
    async with beside_a_healthy_session() as served:
        async with packet_client(served) as plain:
            expected = await plain.exchange(mine)
        async with packet_client(served) as noisy:
            answers = await noisy.exchange(mine[:3])
            await noisy.connection.send_message(audio(samples))
            assert (await noisy.receive_metadata("error")).code == "audio_refused"
            answers += await noisy.exchange(mine[3:])
        assert (await fetch(served, "/health")).json["metrics"]["audioRefused"] == 1
    assert answers == expected


async def test_a_burst_is_bounded():
    """Eight frames in one packet are answered in order; nine are over the message limit."""
    async with beside_a_healthy_session() as served, packet_client(served) as hasty:
        await hasty.send(outgoing.audio(speech(BURST_FRAMES, seed=5).tobytes(), 0.0))
        assert len([await hasty.receive_audio() for _ in range(BURST_FRAMES - 1)]) == BURST_FRAMES - 1
        await hasty.connection.send_message(bytes(17 + 4 * FRAME_SAMPLES * (BURST_FRAMES + 1)))
        assert await hasty.close_code() == 1009


async def test_loud_samples_are_clipped():
    """Samples beyond ±1 are answered as ±1."""
    mine = 3 * speech(4, seed=6)
    async with small_server() as served:
        async with packet_client(served) as careful:
            expected = await careful.exchange(np.clip(mine, -1, 1))
        async with packet_client(served) as loud:
            assert await loud.exchange(mine) == expected


@pytest.mark.parametrize("timestamp_ms", [math.nan, math.inf])
async def test_audio_without_a_finite_timestamp_is_refused(timestamp_ms):
    """Such a timestamp cannot be echoed: the packet is refused, the session continues."""
    async with beside_a_healthy_session() as served, packet_client(served) as timeless:
        message = packet(PacketType.AUDIO_CHUNK, speech(1)[0].tobytes(), timestamp_ms=timestamp_ms)
        await timeless.connection.send_message(message)
        assert (await timeless.receive_metadata("error")).code == "bad_timestamp"
        assert len(await timeless.exchange(speech(3))) == 2


async def test_a_silent_client_is_closed():
    """After the timeout it gets an error, is closed and counted; its lane is free again."""
    settings = Settings(server=Server(port=0), limits=SETTINGS.limits, heartbeat=HEARTBEAT)
    async with small_server(settings) as served:
        async with packet_client(served) as alone:
            expected = await alone.exchange(SPOKEN)
        async with packet_client(served) as neighbour, packet_client(served) as silent:
            answers = await neighbour.exchange(SPOKEN[:HALF])
            async with trio.open_nursery() as nursery:
                gone = trio.Event()
                nursery.start_soon(neighbour.keep_alive_until, gone)
                assert (await silent.receive_metadata_silently("error")).code == "silent"
                assert await silent.close_code() == 1013
                await until_lanes_open(served, 1)
                gone.set()
            assert (await fetch(served, "/health")).json["endings"]["silent"] == 1
            answers += await neighbour.exchange(SPOKEN[HALF:])
    assert answers == expected


async def test_a_client_that_does_not_read_is_closed():
    """It is disconnected and counted; its lane is free again."""
    async with beside_a_healthy_session() as served:
        stalled = raw_websocket(served, receive_buffer_bytes=4096)
        async with stalled as stream:
            with pytest.raises(trio.BrokenResourceError):
                await pour(stream, frame(BINARY, GOOD))
        await until_lanes_open(served, 1)
        assert (await fetch(served, "/health")).json["endings"]["not_reading"] == 1


async def test_shutdown_does_not_wait_for_a_session_that_does_not_read():
    """The server shuts down in the middle of writes that do not complete."""
    settings = Settings(
        server=Server(port=0), limits=Limits(send_timeout_s=0.2, max_lag_ms=60_000), drain_s=0.2
    )
    async with (
        small_server(settings) as served,
        raw_websocket(served, receive_buffer_bytes=4096) as stalled,
        trio.open_nursery() as nursery,
    ):

        async def talk():
            with pytest.raises(trio.BrokenResourceError):
                await pour(stalled, frame(BINARY, GOOD))

        nursery.start_soon(talk)
        await frames_out(served)
        served.shutdown.set()
        await served.ended.wait()
