"""The Live API on a whole engine over real sockets: the same sessions, access rules and limits as `/ws`."""

import base64
import itertools
import json
import threading

import numpy as np
import pytest
import structlog
import trio
from support.web.live import PATH, START, live_client
from support.web.small_engine import SETTINGS, packet_client, small_server, speech, spoken
from support.web.sockets import (
    HANDSHAKE,
    closing_code,
    fetch,
    frame,
    pour,
    raw_websocket,
    read_frames,
    until_closed,
    websocket,
)

from pipeline.config import Heartbeat, Lanes, Limits, Server, Settings

TEXT = 1  # opcode
TOKEN = "correct-horse-battery-staple"


async def test_a_session_computes_what_it_would_through_packets():
    """The same text, and the same sound to the nearest step of 16 bits."""
    said = spoken(12)
    async with small_server() as served:
        async with packet_client(served) as packets:
            answers = await packets.exchange(said.astype("<f4") / np.float32(32_768))
            texts = [event.text for event in packets.texts]
        async with live_client(served) as live:
            for index, pcm in enumerate(said):
                await live.append(pcm)
                if index:
                    await live.until("session.output_audio.delta")
            await live.send({"type": "session.close", "event_id": "c"})
            assert await live.close_code() == 1000
    expected = np.concatenate([np.frombuffer(answer, "<f4") for answer in answers])
    np.testing.assert_array_equal(live.audio, np.clip(np.rint(expected * 32_768), -32_768, 32_767))
    deltas = [event for event in live.events if event["type"] == "session.output_transcript.delta"]
    assert "".join(event["delta"] for event in deltas).startswith(texts[-1])
    closed = live.events[-1]
    assert (closed["type"], closed["reason"], closed["client_event_id"]) == (
        "session.closed",
        "close_requested",
        "c",
    )


async def test_pieces_of_any_length_are_frames():
    """A sample cut in two, a frame in three, two frames at once: nothing is lost."""
    said = spoken(6).tobytes()
    cuts = [0, 1, 1001, 3840, 3 * 3840 + 7, len(said)]
    async with small_server() as served, live_client(served) as live:
        for begin, end in itertools.pairwise(cuts):
            audio = base64.b64encode(said[begin:end]).decode()
            await live.send({"type": "session.input_audio.append", "audio": audio})
        while len(live.audio) < 5 * 1920:
            await live.receive()
        assert (await fetch(served, "/health")).json["metrics"]["framesIn"] == 6


async def test_bad_events_leave_other_sessions_alone():
    """Answered by name, counted, and a neighbour computes as if alone."""
    said = speech(8)
    async with small_server() as served:
        async with packet_client(served) as alone:
            expected = await alone.exchange(said)
        async with packet_client(served) as neighbour, live_client(served) as live:
            answers = await neighbour.exchange(said[:4])
            for text in ("{", "[]", '{"type":"nonsense","event_id":"n"}', '{"type":"session.start"}'):
                await live.send(text)
                await live.until("error")
            assert live.events[-2]["error"]["client_event_id"] == "n"
            answers += await neighbour.exchange(said[4:])
            await live.append(spoken(2))
            await live.until("session.output_audio.delta")
    assert answers == expected


async def test_a_message_over_the_limit_closes_the_connection():
    """Base64 is bounded before it is decoded."""
    async with small_server() as served, live_client(served) as live:
        await live.send({"type": "session.input_audio.append", "audio": "A" * 70_000})
        assert await live.close_code() == 1009


async def test_a_client_that_does_not_read_is_closed():
    """It takes the last of the overload actions, and its lane is free again."""
    start = frame(TEXT, json.dumps(START).encode())
    audio = base64.b64encode(spoken(8).tobytes()).decode()
    append = frame(TEXT, json.dumps({"type": "session.input_audio.append", "audio": audio}).encode())
    async with small_server() as served:
        async with raw_websocket(served, PATH, receive_buffer_bytes=4096) as stream:
            await stream.send_all(start)
            with pytest.raises(trio.BrokenResourceError):
                await pour(stream, append)
        await until_closed(served)
        assert (await fetch(served, "/health")).json["endings"] == {"not_reading": 1}


async def test_a_lost_session_is_not_kept():
    """A client of this API cannot resume, so its lane is free at once."""
    async with small_server() as served:
        async with raw_websocket(served, PATH) as stream:
            await stream.send_all(frame(TEXT, json.dumps(START).encode()))
            await stream.receive_some(64)
        await until_closed(served)
        assert (await fetch(served, "/health")).json["waiting"] == 0


async def test_a_client_has_to_start_its_session():
    """One that sends nothing is closed after the heartbeat timeout, with an error."""
    settings = Settings(server=Server(port=0), heartbeat=Heartbeat(every_s=0.1, timeout_s=0.2))
    async with small_server(settings) as served, live_client(served, start=None) as live:
        error = await live.until("error")
        assert error["error"]["code"] == "silent"
        assert await live.close_code() == 1013


async def test_a_session_expires():
    """It is closed when it said it would be, with the reason."""
    settings = Settings(server=Server(port=0), limits=Limits(live_session_s=0.3))
    async with small_server(settings) as served, live_client(served) as live:
        assert (await live.until("session.closed"))["reason"] == "expired"
        assert await live.close_code() == 1000


async def test_a_session_can_be_hung_up():
    """By its id, once; an unknown id is 404, and so is the id of a session of another kind."""
    async with small_server() as served, live_client(served) as live, packet_client(served) as packets:
        (established,) = packets.metadata["connection_established"]
        for other in ("0" * 16, established.session_id):
            missing = await fetch(served, f"{PATH}/{other}/hangup", method="POST")
            assert (missing.status, missing.error) == (404, "session_not_found")
        path = f"{PATH}/{live.started['session']['id']}/hangup"
        assert (await fetch(served, path, method="POST")).status == 200
        assert (await live.until("session.closed"))["reason"] == "close_requested"
        assert await live.close_code() == 1000


async def test_webrtc_is_refused_by_name():
    """POST is how the API opens a WebRTC session."""
    async with small_server() as served:
        answer = await fetch(served, PATH, method="POST")
    assert (answer.status, answer.error) == (501, "unsupported_transport")


async def test_shutting_down_closes_the_session():
    """The client is informed, and the session is closed."""
    async with small_server() as served, live_client(served) as live:
        served.shutdown.set()
        assert (await live.until("info"))["code"] == "draining"
        assert (await live.until("session.closed"))["reason"] == "connection_lost"
        assert await live.close_code() == 1001


async def test_a_client_waits_in_the_queue():
    """`info` says so; the session starts when a lane is free."""
    settings = Settings(server=Server(port=0), lanes=Lanes(queue=1), limits=SETTINGS.limits)
    async with (
        small_server(settings, lanes=1) as served,
        packet_client(served) as first,
        live_client(served, start=None) as live,
    ):
        await live.send(START)
        assert (await live.until("info"))["code"] == "queued"
        await first.connection.aclose()
        assert (await live.until("session.started"))["client_event_id"] == "e1"


async def test_a_server_that_is_not_ready_refuses():
    """Without an Origin with 503; a page is upgraded, sent the API's error, and closed with 1013."""
    loaded = threading.Event()
    async with small_server(before=loaded.wait) as served:
        try:
            handshake = HANDSHAKE % (PATH.encode(), served.host.encode(), b"")
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            async with stream:
                await stream.send_all(handshake)
                assert (await stream.receive_some(64)).startswith(b"HTTP/1.1 503")
            origin = ("Origin", f"http://{served.host}")
            async with live_client(served, start=None, headers=[origin]) as page:
                assert (await page.until("error"))["error"]["code"] == "not_ready"
                assert await page.close_code() == 1013
        finally:
            loaded.set()


async def test_the_key_is_the_token():
    """The bearer key has to be the server's token; pages of other origins are refused."""
    settings = Settings(server=Server(port=0, token=TOKEN), limits=SETTINGS.limits)
    async with small_server(settings) as served:
        for path, method in ((PATH, "GET"), (f"{PATH}/x/hangup", "POST")):
            assert (await fetch(served, path, method=method)).status == 401
        key = ("Authorization", f"Bearer {TOKEN}")
        cross = await fetch(served, PATH, headers=[key, ("Origin", "https://evil.example")])
        assert cross.status == 403
        async with live_client(served, headers=[key]) as live:
            assert live.started["session"]["status"] == "active"


async def test_the_dialect_is_named():
    """In `/metrics` and in the one event that the session leaves in the log."""
    with structlog.testing.capture_logs() as logs:
        async with small_server() as served:
            async with live_client(served) as live:
                scraped = (await fetch(served, "/metrics")).body.decode()
                assert 'packet_voice_dialect_clients{dialect="live"} 1.0' in scraped
                await live.send({"type": "session.close"})
                await live.close_code()
            await until_closed(served)
            scraped = (await fetch(served, "/metrics")).body.decode()
    assert 'packet_voice_dialect_sessions_ended_total{dialect="live"} 1.0' in scraped
    assert 'packet_voice_packets_total{direction="sent",type="session.started"} 1.0' in scraped
    (entry,) = (entry for entry in logs if entry["event"] == "session")
    assert (entry["dialect"], entry["reason"]) == ("live", "bye")


async def test_a_binary_frame_is_an_error_of_the_api():
    """Events travel in text frames."""
    async with small_server() as served, websocket(served, PATH) as connection:
        await connection.send_message(b"\x00")
        assert json.loads(await connection.get_message())["error"]["code"] == "invalid_event"


async def test_frames_close_with_the_code_of_the_fault():
    """A malformed frame is the transport's fault, as on `/ws`."""
    async with small_server() as served, raw_websocket(served, PATH) as stream:
        await stream.send_all(frame(TEXT, b"{}", reserved=0x40))
        assert closing_code(await read_frames(stream)) == 1002
