"""Every dialect on one engine with the embedded model, on a virtual clock: the same tokens and rules."""

import base64
import dataclasses
import itertools
import json
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
from numpy.lib.stride_tricks import sliding_window_view
from support.actors import fakes
from support.actors.fakes import Client, MemoryTransport, make_engine, serve_client

from actors.engine import Loaders
from actors.sessions import transcoding
from pipeline.audio.framing import Framer, payload_of
from pipeline.audio.noise import noise_frames
from pipeline.audio.sound_file import read_speech
from pipeline.audio.transcoding import OpusStreamDecoder, OpusStreamEncoder
from pipeline.client.scripts import scripts
from pipeline.config import read_config
from pipeline.protocol import outgoing
from pipeline.protocol.live.dialect import LiveDialect
from pipeline.protocol.moshi.dialect import MoshiDialect
from pipeline.protocol.moshi.ogg import OggReader, OggWriter
from pipeline.protocol.moshi.query import Query
from pipeline.protocol.realtime.dialect import RealtimeDialect
from pipeline.stages.model_stages import open_stages

ROOT = Path(__file__).parent.parent.parent
ANSWER = "Three plus four is seven."
GREEDY = {"sampling": {"seed": 0, "temperature": 0, "text_temperature": 0}}


@pytest.fixture(scope="module")
def loaders():
    stages = open_stages(read_config(ROOT / "configs/tiny", ["lanes.max=8"]))
    return Loaders(stages.load_encoder, stages.load_stepper, stages.load_decoder)


@pytest.fixture(scope="module")
def question():
    """ "What is three plus four", and three seconds of silence."""
    asked = read_speech(ROOT / "tests/data/voices/question-piper.wav")
    return Framer().push(np.pad(asked, (12_000, 72_000)))


async def talk_packets(engine, question):
    client = Client(MemoryTransport(buffer=1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_client, engine, client)
        nursery.start_soon(client.listen)
        await client.ready()
        for frame in question:
            await client.send(outgoing.audio(payload_of(frame), 0.0))
            await trio.sleep(0.08)
        await client.bye()
    return " ".join(client.finals), np.concatenate(client.frames)


async def serve(engine, transport, speak):
    with engine.admit() as reservation:
        await engine.serve(transport, reservation, speak)


async def messages_of(transport):
    try:
        while True:
            yield await transport.client_receive()
    except (trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError):
        return


async def talk_live(engine, question):
    transport, sound, text, closed = MemoryTransport(buffer=1000), b"", "", None

    async def speak():
        for frame in question:
            pcm = np.rint(frame * 32_768).astype("<i2").tobytes()
            audio = base64.b64encode(pcm).decode()
            await transport.client_send(json.dumps({"type": "session.input_audio.append", "audio": audio}))
            await trio.sleep(0.08)
        await transport.client_send('{"type": "session.close"}')

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, engine, transport, LiveDialect)
        await transport.client_send('{"type": "session.start", "session": {"model": "any"}}')
        async for message in messages_of(transport):
            event = json.loads(message)
            if event["type"] == "session.started":
                nursery.start_soon(speak)
            elif event["type"] == "session.output_audio.delta":
                sound += base64.b64decode(event["delta"])
            elif event["type"] == "session.output_transcript.delta":
                text += event["delta"]
            elif event["type"] == "session.closed":
                closed = event["reason"]
    assert closed == "close_requested"
    return text, np.frombuffer(sound, "<i2")


async def talk_realtime(engine, question):
    transport, sound, text = MemoryTransport(buffer=1000), b"", ""

    async def speak():
        for frame in question:
            pcm = np.rint(frame * 32_768).astype("<i2").tobytes()
            audio = base64.b64encode(pcm).decode()
            await transport.client_send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await trio.sleep(0.08)
        await trio.sleep(1)
        transport.vanish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, engine, transport, RealtimeDialect)
        async for message in messages_of(transport):
            event = json.loads(message)
            if event["type"] == "session.created":
                nursery.start_soon(speak)
            elif event["type"] == "response.output_audio.delta":
                sound += base64.b64decode(event["delta"])
            elif event["type"] == "response.output_audio_transcript.delta":
                text += event["delta"]
    return text, np.frombuffer(sound, "<i2")


async def talk_moshi(engine, question):
    transport, sound, text = MemoryTransport(buffer=1000), [], ""
    encoder, writer = OpusStreamEncoder(), OggWriter()
    decoder, reader = OpusStreamDecoder(), OggReader()

    async def speak():
        await transport.client_send(b"\x01" + writer.headers())
        for frame in question:
            await transport.client_send(b"\x01" + writer.page(encoder.encode(frame), 1920))
            await trio.sleep(0.08)
        await trio.sleep(1)
        transport.vanish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, engine, transport, partial(MoshiDialect, query=Query()))
        async for message in messages_of(transport):
            if message[0] == 0:
                nursery.start_soon(speak)
            elif message[0] == 1:
                sound.append(decoder.decode(reader.push(message[1:])).frames)
            elif message[0] == 2:
                text += message[1:].decode()
    return text, np.concatenate(sound)


async def test_opus_is_charged_to_its_client():
    """It is decoded on a thread, whose time no meter of the event loop sees."""
    engine = make_engine()
    transport, writer = MemoryTransport(buffer=1000), OggWriter()
    async with trio.open_nursery() as running:
        await running.start(engine.run)
        await engine.ready.wait()
        running.start_soon(serve, engine, transport, partial(MoshiDialect, query=Query()))
        while (await transport.client_receive())[0] != 0:
            pass
        page = writer.page(OpusStreamEncoder().encode(noise_frames(1)[0]), 1920)
        await transport.client_send(b"\x01" + writer.headers() + page + writer.page(b"\xff", 1920))
        while (await transport.client_receive())[0] != 5:  # an error, because of the last packet
            pass
        running.cancel_scope.cancel()
    assert transport.charged_s > 0


def asked(speak):
    """The opening messages of a client, and last the one with a frame of loud audio."""
    (script,) = (
        script
        for script in scripts(noise_frames(1))
        if script.dialect == (speak.func if isinstance(speak, partial) else speak).name
    )
    return [*script.opening, script.frames[0]]


TALKS = {"packets": talk_packets, "live": talk_live, "realtime": talk_realtime, "moshi": talk_moshi}


async def test_every_dialect_gets_the_answer(autojump_clock, monkeypatch, loaders, question):
    """Eight clients of four dialects at once, greedy: the samples of `/ws` in 16 bits, and so its tokens."""
    monkeypatch.setattr(transcoding, "ON_THREADS", ())  # the virtual clock would jump ahead of a thread
    engine = make_engine(loaders=loaders, lanes=8, **GREEDY)
    answers = defaultdict(list)

    async def keep(name, talk):
        answers[name].append(await talk(engine, question))

    async with trio.open_nursery() as running:
        await running.start(engine.run)
        await engine.ready.wait()
        async with trio.open_nursery() as nursery:
            for name, talk in TALKS.items():
                nursery.start_soon(keep, name, talk)
                nursery.start_soon(keep, name, talk)
        statistics = engine.statistics()
        running.cancel_scope.cancel()
    for text, _ in itertools.chain(*answers.values()):
        assert " ".join(text.split()) == ANSWER
    sound = answers["packets"][0][1].reshape(-1)
    rounded = np.clip(np.rint(sound * 32_768), -32_768, 32_767)
    np.testing.assert_array_equal(answers["packets"][1][1].reshape(-1), sound)
    for _, samples in answers["live"]:
        np.testing.assert_array_equal(samples, rounded)
    for _, samples in answers["realtime"]:
        assert len(samples) > 24_000
        frames = sliding_window_view(rounded, len(samples))[::1920]
        assert (frames == samples).all(axis=1).sum() == 1
    for _, samples in answers["moshi"]:
        assert len(samples) == len(question) - 1
        assert np.abs(samples).max() > 0.05
    assert statistics.dialect_endings == dict.fromkeys(TALKS, 2)
    assert statistics.counters.frames_dropped == 0


async def test_a_session_that_is_put_back_is_told(autojump_clock):
    """`info` when it has to wait, what of its audio was not processed, and when it goes on."""
    engine = make_engine(lanes=2)
    transport, codes = MemoryTransport(buffer=1000), []
    silence = base64.b64encode(bytes(3840)).decode()
    append = json.dumps({"type": "session.input_audio.append", "audio": silence})
    async with trio.open_nursery() as running:
        await running.start(engine.run)
        await engine.ready.wait()
        running.start_soon(serve, engine, transport, LiveDialect)
        await transport.client_send('{"type": "session.start", "session": {"model": "any"}}')
        while codes[-1:] != ["ready"]:
            event = json.loads(await transport.client_receive())
            codes.append(event.get("code", event["type"]))
            if codes[-1] == "session.started":
                engine.admission.set_limit(0)
            elif codes[-1] == "queued":
                await transport.client_send(append)
                await trio.sleep(0.5)
                engine.admission.set_limit(2)
        counters = engine.statistics().counters
        running.cancel_scope.cancel()
    assert codes == ["session.started", "queued", "dropped", "ready"]
    assert (counters.frames_in, counters.frames_put_back) == (0, 1)


async def test_a_model_with_voices_begins_with_what_was_asked_for(autojump_clock, monkeypatch):
    """`session.started` follows once the lane has both; a refusal is an error, and no start."""
    monkeypatch.setattr(fakes, "CARD", dataclasses.replace(fakes.CARD, voices=("deep",)))
    engine = make_engine()
    transport, events = MemoryTransport(buffer=1000), []
    async with trio.open_nursery() as running:
        await running.start(engine.run)
        await engine.ready.wait()
        running.start_soon(serve, engine, transport, LiveDialect)
        for voice in ("none", "deep"):
            session = {"model": "m", "instructions": "1 2", "audio": {"output": {"voice": voice}}}
            start = {"type": "session.start", "event_id": voice, "session": session}
            await transport.client_send(json.dumps(start))
            events.append(json.loads(await transport.client_receive()))
        running.cancel_scope.cancel()
    error, started = events
    assert (error["type"], error["error"]["client_event_id"]) == ("error", "none")
    assert (started["type"], started["client_event_id"]) == ("session.started", "deep")
    assert started["session"]["instructions"] == "1 2"
    assert started["session"]["audio"]["output"] == {"voice": "deep"}


async def test_a_burst_of_events_is_answered_event_by_event(autojump_clock):
    """As of an application that begins with a history: its client is read as fast as it reads the replies."""
    engine = make_engine()
    transport, events = MemoryTransport(buffer=1), Counter()

    async def read_slowly():
        async for message in messages_of(transport):
            events[json.loads(message)["type"]] += 1
            await trio.sleep(0.01)

    async with trio.open_nursery() as running:
        await running.start(engine.run)
        await engine.ready.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, engine, transport, RealtimeDialect)
            nursery.start_soon(read_slowly)
            for number in range(300):
                item = {"id": f"item_{number}", "type": "message", "role": "user", "content": []}
                await transport.client_send(json.dumps({"type": "conversation.item.create", "item": item}))
            await trio.sleep(5)
            assert transport.close_reason is None
            transport.vanish()
        running.cancel_scope.cancel()
    assert events == {"session.created": 1, "error": 300}


@pytest.mark.parametrize("speak", [LiveDialect, RealtimeDialect, partial(MoshiDialect, query=Query())])
async def test_a_slow_client_of_any_dialect_climbs_the_same_ladder(autojump_clock, monkeypatch, speak):
    """Old audio is dropped for it, it stays connected, and a neighbour gets everything."""
    monkeypatch.setattr(transcoding, "ON_THREADS", ())
    engine = make_engine(limits={"max_lag_ms": 400})
    neighbour = Client(MemoryTransport(buffer=1000))
    transport, frames, messages = MemoryTransport(buffer=2), fakes.speech(1, 60), asked(speak)

    async def read_slowly():
        async for _ in messages_of(transport):
            await trio.sleep(0.2)

    async with trio.open_nursery() as running:
        await running.start(engine.run)
        await engine.ready.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, engine, transport, speak)
            nursery.start_soon(serve_client, engine, neighbour)
            nursery.start_soon(neighbour.listen)
            nursery.start_soon(read_slowly)
            await neighbour.ready()
            for message in messages[:-1]:
                await transport.client_send(message)
            await trio.sleep(1)
            for frame in frames:
                await transport.client_send(messages[-1])
                await neighbour.send(outgoing.audio(payload_of(frame), 0.0))
                await trio.sleep(0.08)
            assert transport.close_reason is None
            await neighbour.bye()
            transport.vanish()
        ladder = engine.health()["metrics"]["ladder"]
        running.cancel_scope.cancel()
    assert ladder["audioDropped"] > 0
    assert all(map(np.array_equal, neighbour.frames, fakes.expected(frames, 0)))
