"""`/api/chat` on a whole engine over real sockets, with the Opus of Moshi's own client at the other end."""

import numpy as np
import pytest
import structlog
import trio
import trio.lowlevel
import trio_websocket
from support.web.small_engine import SETTINGS, packet_client, small_server, speech
from support.web.sockets import (
    HANDSHAKE,
    fetch,
    frame,
    pour,
    raw_websocket,
    until_closed,
    until_health,
    websocket,
)

from pipeline.audio.opus import OpusEncoder
from pipeline.config import Lanes, Server, Settings
from pipeline.protocol.moshi.ogg import OggReader, OggWriter

sphn = pytest.importorskip("sphn")  # it has no wheel for Linux on ARM

PATH = "/api/chat"
BINARY = 2  # opcode
TOKEN = "correct-horse-battery-staple"


async def receive(connection, kind):
    """The content of the next message of this kind."""
    while (message := await connection.get_message())[0] != kind:
        pass
    return message[1:]


async def frames_in(served):
    return (await fetch(served, "/health")).json["metrics"]["framesIn"]


async def test_a_client_of_moshi_is_answered():
    """Every frame that it sends is a frame of sound that its own decoder reads, and text."""
    writer, reader, sound, text = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000), [], b""
    async with small_server() as served, websocket(served, PATH) as connection:
        assert await connection.get_message() == b"\x00"
        for pcm in speech(6):
            await connection.send_message(b"\x01" + writer.append_pcm(pcm))
        while len(sound) < 5:
            message = await connection.get_message()
            if message[0] == 1:
                sound.append(reader.append_bytes(message[1:]))
            elif message[0] == 2:
                text += message[1:]
        assert await frames_in(served) == 6
    assert [len(pcm) for pcm in sound] == [1920] * 5
    assert np.abs(np.concatenate(sound)).max() > 0.01
    assert text.split()


@pytest.mark.parametrize("samples", [120, 240, 480, 960, 1440, 1920, 2400, 2880])
async def test_packets_of_any_legal_length_are_frames(samples):
    """Ten frames and a bit of sound are ten frames, however long the packets; several packets a message."""
    pcm = speech(12).reshape(-1)[: 10 * 1920 + 1440] * 0.2
    pcm = pcm[: len(pcm) // samples * samples]
    encoder, writer = OpusEncoder(), OggWriter()
    pages = [writer.page(encoder.encode(part), samples) for part in pcm.reshape(-1, samples)]
    async with small_server() as served, websocket(served, PATH) as connection:
        await receive(connection, 0)
        data = writer.headers() + b"".join(pages)
        for at in range(0, len(data), 2000):
            await connection.send_message(b"\x01" + data[at : at + 2000])
            await trio.lowlevel.checkpoint()
        await until_health(served, lambda health: health["metrics"]["framesIn"] >= 10)
        assert await frames_in(served) == len(pcm) // 1920


async def test_a_bomb_of_packets_is_bounded():
    """A message of tiny packets of 120 ms each is cut and refused, and a neighbour is undisturbed."""
    said = speech(8)
    packet = OpusEncoder().encode(np.zeros(2880, np.float32))
    count = 60_000 // (len(packet) + 1)
    writer = OggWriter()
    headers = writer.headers()
    pages = b"".join(writer.page(packet, 2880) for _ in range(count // 10))[:60_000]
    async with small_server() as served:
        async with packet_client(served) as alone:
            expected = await alone.exchange(said)
        async with packet_client(served) as neighbour, websocket(served, PATH) as connection:
            await receive(connection, 0)
            answers = await neighbour.exchange(said[:4])
            await connection.send_message(b"\x01" + headers)
            await connection.send_message(b"\x01" + pages)
            assert b"audio in one message" in await receive(connection, 5)
            answers += await neighbour.exchange(said[4:])
            assert await frames_in(served) <= 2 * len(said) + 16
    assert answers == expected


async def test_an_invalid_packet_is_refused_and_the_next_is_decoded():
    """Message 5, and the session goes on."""
    encoder, writer = OpusEncoder(), OggWriter()
    async with small_server() as served, websocket(served, PATH) as connection:
        await receive(connection, 0)
        invalid = bytes([0xFF]) * 3
        await connection.send_message(b"\x01" + writer.headers() + writer.page(invalid, 1920))
        assert b"invalid" in await receive(connection, 5)
        for pcm in speech(3):
            await connection.send_message(b"\x01" + writer.page(encoder.encode(pcm), 1920))
        await receive(connection, 1)


async def test_the_query_chooses_the_sampling_and_a_bad_one_is_refused():
    """400 before the upgrade, naming the parameter."""
    async with small_server() as served:
        async with websocket(served, PATH + "?text_temperature=0.7&seed=3") as connection:
            assert await connection.get_message() == b"\x00"
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with stream:
            path = (PATH + "?text_topk=many").encode()
            await stream.send_all(HANDSHAKE % (path, served.host.encode(), b""))
            answer = await stream.receive_some(4096)
    assert answer.startswith(b"HTTP/1.1 400")


async def test_prompts_are_named_and_the_session_goes_on():
    """In a message of kind 4 and in the log: PersonaPlex's clients send both always."""
    with structlog.testing.capture_logs() as logs:
        async with small_server() as served:
            path = PATH + "?voice_prompt=NATF0.pt&text_prompt=Be%20kind."
            async with websocket(served, path) as connection:
                assert await connection.get_message() == b"\x00"
                assert b"voice_prompt" in await receive(connection, 4)
            await until_closed(served)
    (entry,) = (entry for entry in logs if entry["event"] == "request_not_supported")
    assert (entry["dialect"], entry["what"]) == ("moshi", ["voice_prompt", "text_prompt"])
    (entry,) = (entry for entry in logs if entry["event"] == "session")
    assert entry["dialect"] == "moshi"


async def test_a_client_waits_for_its_handshake():
    """Pings while it is in the queue; the handshake once a lane is free."""
    settings = Settings(server=Server(port=0), lanes=Lanes(queue=1), limits=SETTINGS.limits)
    async with (
        small_server(settings, lanes=1) as served,
        packet_client(served) as first,
        websocket(served, PATH) as connection,
    ):
        assert await connection.get_message() == b"\x06"
        await first.connection.aclose()
        assert await receive(connection, 0) == b""


async def test_a_client_that_does_not_read_is_closed():
    """It takes the last of the overload actions, and its lane is free again."""
    encoder, writer = OpusEncoder(), OggWriter()
    message = (
        b"\x01" + writer.headers() + b"".join(writer.page(encoder.encode(pcm), 1920) for pcm in speech(8))
    )
    async with small_server() as served:
        async with raw_websocket(served, PATH, receive_buffer_bytes=4096) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await pour(stream, frame(BINARY, message))
        await until_closed(served)
        assert (await fetch(served, "/health")).json["endings"] == {"not_reading": 1}


async def test_a_text_frame_closes_the_connection():
    """With message 5 and 1003."""
    async with small_server() as served, websocket(served, PATH) as connection:
        await connection.send_message("hello")
        await receive(connection, 5)
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await connection.get_message()
        assert closed.value.reason.code == 1003


async def test_the_token_is_required():
    """As on `/ws`: 401 without it, 403 from a page of another origin."""
    settings = Settings(server=Server(port=0, token=TOKEN), limits=SETTINGS.limits)
    key = ("Authorization", f"Bearer {TOKEN}")
    async with small_server(settings) as served:
        assert (await fetch(served, PATH)).status == 401
        assert (await fetch(served, PATH, headers=[key, ("Origin", "https://evil.example")])).status == 403
        async with websocket(served, PATH, headers=[key]) as connection:
            assert await connection.get_message() == b"\x00"


async def test_what_is_sent_is_one_stream():
    """Pages of one stream, each with one packet, in order."""
    encoder, writer, reader = OpusEncoder(), OggWriter(), OggReader()
    async with small_server() as served, websocket(served, PATH) as connection:
        await receive(connection, 0)
        await connection.send_message(b"\x01" + writer.headers())
        for pcm in speech(4):
            await connection.send_message(b"\x01" + writer.page(encoder.encode(pcm), 1920))
        packets = [reader.push(await receive(connection, 1)) for _ in range(3)]
    assert [len(each) for each in packets] == [1, 1, 1]
