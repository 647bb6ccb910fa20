"""The clients that other people wrote, as they wrote them, with the embedded model in real time.

Each asks the question of `tests/data/question.wav` and gets the answer as text and as sound.
"""

import asyncio
import base64
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import websockets
from openai import AsyncOpenAI
from openai.types.live import SessionClosedEvent, SessionStartedEvent

from pipeline.audio.wav import read_speech
from pipeline.loadtest.server_process import ServerProcess, start_server
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, MetadataReceived, TextReceived
from pipeline.protocol.metadata import Bye, Ready

ROOT = Path(__file__).parent.parent
ANSWER = "three plus four is seven"
FRAME_S = 0.08


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start_server(
        ROOT / "configs/tiny", ["sampling.temperature=0", "sampling.text_temperature=0"]
    ) as server:
        yield server


@pytest.fixture(scope="module")
def question() -> npt.NDArray[np.int16]:
    pcm = read_speech(ROOT / "tests/data/question.wav")
    return np.rint(pcm * 32_768).clip(-32_768, 32_767).astype("<i2")


def words(text: str) -> str:
    return " ".join(text.split())


async def ask_live(port: int, question: npt.NDArray[np.int16]) -> tuple[str, npt.NDArray[np.int16]]:
    """The `openai` package's Live connection: audio in real time, until the question has been asked."""
    client = AsyncOpenAI(api_key="unused", base_url=f"http://127.0.0.1:{port}/v1")
    text, sound = "", b""
    async with client.live.connect() as connection:
        await connection.session.start(session={"model": "gpt-live-1"})
        assert isinstance(await connection.recv(), SessionStartedEvent)

        async def speak() -> None:
            began_s = time.monotonic()
            for index in range(0, len(question), 1920):
                audio = base64.b64encode(question[index : index + 1920].tobytes()).decode()
                await connection.session.input_audio.append(audio=audio)
                await asyncio.sleep(max(0.0, began_s + FRAME_S * (index / 1920 + 1) - time.monotonic()))
            await connection.session.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(speak())
            async for event in connection:
                if event.type == "session.output_audio.delta":
                    sound += base64.b64decode(event.delta)
                elif event.type == "session.output_transcript.delta":
                    text += event.delta
                elif isinstance(event, SessionClosedEvent):
                    assert event.reason == "close_requested"
    return text, np.frombuffer(sound, "<i2")


async def ask_moshi(port: int, question: npt.NDArray[np.int16]) -> tuple[str, npt.NDArray[np.int16]]:
    """The protocol half of `moshi.client`, with its Opus: 80 ms a message, until the answer is complete."""
    sphn = pytest.importorskip("sphn")  # it has no wheel for Linux on ARM
    writer, reader = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000)
    text, sound = "", []
    async with websockets.connect(f"ws://127.0.0.1:{port}/api/chat") as connection:
        assert await connection.recv() == b"\x00"

        async def speak() -> None:
            began_s = time.monotonic()
            pcm = question.astype(np.float32) / 32_768
            for index in range(len(pcm) // 1920):
                await connection.send(b"\x01" + writer.append_pcm(pcm[1920 * index : 1920 * (index + 1)]))
                await asyncio.sleep(max(0.0, began_s + FRAME_S * (index + 1) - time.monotonic()))
            await asyncio.sleep(5 * FRAME_S)
            await connection.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(speak())
            async for message in connection:
                assert isinstance(message, bytes)
                if message[0] == 1:
                    sound.append(reader.append_bytes(message[1:]))
                elif message[0] == 2:
                    text += message[1:].decode()
    return text, (np.concatenate(sound) * 32_768).astype(np.int16)


def test_the_openai_package_gets_the_answer(server: ServerProcess, question: npt.NDArray[np.int16]) -> None:
    """Its Live connection with nothing but a `base_url`; its own types parse every event."""
    text, sound = asyncio.run(ask_live(server.port, question))
    assert words(text) == ANSWER
    assert np.abs(sound).max() > 0.05 * 32_768


def test_a_client_of_moshi_gets_the_answer(server: ServerProcess, question: npt.NDArray[np.int16]) -> None:
    """Opus both ways, by the library of Moshi's own client."""
    text, sound = asyncio.run(ask_moshi(server.port, question))
    assert words(text) == ANSWER
    assert np.abs(sound).max() > 0.05 * 32_768


async def ask_packets(port: int, question: npt.NDArray[np.int16]) -> tuple[str, npt.NDArray[np.int16]]:
    """The packet protocol on `/ws`, until as much sound has come as the Live session got."""
    conversation = Conversation("client", heartbeat_every_s=1e9, heartbeat_timeout_s=1e9, now_s=0.0)
    text, sound = "", b""
    async with websockets.connect(f"ws://127.0.0.1:{port}/ws") as connection:

        async def send(packet: outgoing.OutgoingPacket) -> None:
            await connection.send(conversation.encode_next(packet, timestamp_ms=0.0))

        async def speak() -> None:
            began_s = time.monotonic()
            pcm = question.astype("<f4") / np.float32(32_768)
            for index in range(len(pcm) // 1920):
                await send(outgoing.audio(pcm[1920 * index : 1920 * (index + 1)].tobytes(), FRAME_S * index))
                await asyncio.sleep(max(0.0, began_s + FRAME_S * (index + 1) - time.monotonic()))
            await send(outgoing.metadata(Bye()))

        async with asyncio.TaskGroup() as tasks:
            async for message in connection:
                event, replies = conversation.receive(message, now_s=0.0)
                for reply in replies:
                    await send(reply)
                if isinstance(event, MetadataReceived) and isinstance(event.value, Ready):
                    tasks.create_task(speak())
                elif isinstance(event, TextReceived) and event.final:
                    text += event.text
                elif isinstance(event, AudioReceived):
                    sound += event.payload
    return text, np.rint(np.frombuffer(sound, "<f4") * 32_768).clip(-32_768, 32_767).astype(np.int16)


def test_the_model_computes_the_same_for_both(server: ServerProcess, question: npt.NDArray[np.int16]) -> None:
    """Greedy: the text and every sample of the Live API are those of `/ws`, to the nearest 16-bit step."""
    live_text, live = asyncio.run(ask_live(server.port, question))
    text, packets = asyncio.run(ask_packets(server.port, question))
    assert words(live_text) == words(text) == ANSWER
    np.testing.assert_allclose(live, packets, rtol=0, atol=1)
