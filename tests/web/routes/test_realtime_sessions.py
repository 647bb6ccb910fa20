"""The Realtime API on a whole engine over real sockets: the sessions, access rules and limits of `/ws`."""

import base64
import json

import numpy as np
import pytest
import structlog
import trio
from support.web.realtime import PATH, realtime_client
from support.web.small_engine import SETTINGS, packet_client, small_server, spoken
from support.web.sockets import fetch, frame, pour, raw_websocket, until_closed, until_health

from pipeline.config import Lanes, Limits, Server, Settings

TEXT = 1  # opcode
TOKEN = "correct-horse-battery-staple"


async def frames_in(served):
    return (await fetch(served, "/health")).json["metrics"]["framesIn"]


async def test_a_session_computes_what_it_would_through_packets():
    """The same text, and the same sound to the nearest step of 16 bits."""
    said = spoken(8)
    async with small_server() as served:
        async with packet_client(served) as packets:
            answers = await packets.exchange(said.astype("<f4") / np.float32(32_768))
            texts = [event.text for event in packets.texts]
        async with realtime_client(served) as client:
            for index, pcm in enumerate(said):
                await client.append(pcm)
                if index:
                    await client.until("response.output_audio.delta")
    expected = np.concatenate([np.frombuffer(answer, "<f4") for answer in answers])
    np.testing.assert_array_equal(client.audio, np.clip(np.rint(expected * 32_768), -32_768, 32_767))
    words = [e["delta"] for e in client.events if e["type"] == "response.output_audio_transcript.delta"]
    assert texts[-1].startswith("".join(words))


async def test_a_question_may_come_at_once():
    """It is heard in real time, all of it, and the session goes on in silence until the answer ends."""
    async with small_server() as served, realtime_client(served) as client:
        for pcm in spoken(12):
            await client.append(pcm)
        await client.send("input_audio_buffer.commit", event_id="c")
        committed = await client.until("input_audio_buffer.committed")
        assert committed["item_id"]
        while len(client.audio) < 16 * 1920:
            await client.receive()
        health = (await fetch(served, "/health")).json
        assert health["metrics"]["framesIn"] > 14
        assert served.engine.statistics().counters.frames_dropped == 0


async def test_audio_that_was_not_processed_can_be_cleared():
    """What waits for its time is forgotten."""
    async with small_server() as served, realtime_client(served) as client:
        for pcm in spoken(60):
            await client.append(pcm)
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        heard = await frames_in(served)
        await client.append(spoken(1))
        await until_health(served, lambda health: health["metrics"]["framesIn"] != heard)
        assert await frames_in(served) == heard + 1 < 60


async def test_the_buffer_is_bounded():
    """More than 20 s ahead of real time is refused by name, and the session goes on."""
    second = base64.b64encode(bytes(36_000)).decode()
    async with small_server() as served, realtime_client(served) as client:
        for _ in range(30):
            await client.send("input_audio_buffer.append", audio=second)
        assert (await client.until("error"))["error"]["code"] == "audio_refused"
        await client.send("session.update", session={"type": "realtime"})
        assert await client.until("session.updated")


async def test_silence_waits_for_no_one():
    """A client that has not ended its turn is the session's clock."""
    async with small_server() as served, realtime_client(served) as client:
        await client.append(spoken(2))
        await client.until("response.output_audio.delta")
        await trio.sleep(0.6)
        assert await frames_in(served) == 2


async def test_a_message_over_the_limit_closes_the_connection():
    """Base64 is bounded before it is decoded."""
    async with small_server() as served, realtime_client(served) as client:
        await client.send("input_audio_buffer.append", audio="A" * 70_000)
        assert await client.close_code() == 1009


async def test_a_client_that_does_not_read_is_closed():
    """It takes the last of the overload actions, and its lane is free again."""
    audio = base64.b64encode(spoken(8).tobytes()).decode()
    append = frame(TEXT, json.dumps({"type": "input_audio_buffer.append", "audio": audio}).encode())
    async with small_server() as served:
        async with raw_websocket(served, PATH, receive_buffer_bytes=4096) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await pour(stream, append)
        await until_closed(served)
        (ending,) = (await fetch(served, "/health")).json["endings"]
        assert ending in {"not_reading", "too_many_frames"}


async def test_a_session_expires():
    """With the error of the API, and a close that is no failure."""
    settings = Settings(server=Server(port=0), limits=Limits(live_session_s=0.3))
    async with small_server(settings) as served, realtime_client(served) as client:
        assert (await client.until("error"))["error"]["code"] == "session_expired"
        assert await client.close_code() == 1000


async def test_shutting_down_closes_the_session():
    """What was said is complete first."""
    async with small_server() as served, realtime_client(served) as client:
        await client.append(spoken(3))
        await client.until("response.output_audio.delta")
        served.shutdown.set()
        done = await client.until("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"].count(" ") == 2
        assert await client.close_code() == 1001


async def test_a_client_waits_in_the_queue():
    """`session.created` follows when a lane is free."""
    settings = Settings(server=Server(port=0), lanes=Lanes(queue=1), limits=SETTINGS.limits)
    async with (
        small_server(settings, lanes=1) as served,
        packet_client(served) as first,
        trio.open_nursery() as n,
    ):

        async def wait():
            async with realtime_client(served) as client:
                assert client.created["session"]["model"] == "small"

        n.start_soon(wait)
        await until_health(served, lambda health: health["lanes"]["queued"])
        await first.connection.aclose()


async def test_the_key_is_the_token():
    """The bearer key has to be the server's token; pages of other origins are refused."""
    settings = Settings(server=Server(port=0, token=TOKEN), limits=SETTINGS.limits)
    async with small_server(settings) as served:
        assert (await fetch(served, PATH)).status == 401
        key = ("Authorization", f"Bearer {TOKEN}")
        cross = await fetch(served, PATH, headers=[key, ("Origin", "https://evil.example")])
        assert cross.status == 403
        async with realtime_client(served, headers=[key]) as client:
            assert client.created["session"]["type"] == "realtime"


async def test_the_dialect_is_named():
    """In `/metrics` and in the log, which also has what a client asked for in vain."""
    with structlog.testing.capture_logs() as logs:
        async with small_server() as served:
            async with realtime_client(served) as client:
                await client.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
                await client.until("session.updated")
                scraped = (await fetch(served, "/metrics")).body.decode()
                assert 'packet_voice_dialect_clients{dialect="realtime"} 1.0' in scraped
            await until_closed(served)
    (entry,) = (entry for entry in logs if entry["event"] == "session")
    assert (entry["dialect"], entry["reason"]) == ("realtime", "peer_closed")
    (entry,) = (entry for entry in logs if entry["event"] == "request_not_supported")
    assert entry["what"] == ["session.instructions"]
