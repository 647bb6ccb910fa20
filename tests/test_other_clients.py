"""The clients that other people wrote, as they wrote them, with the embedded model in real time.

Each asks the question of `tests/data/question.wav` and gets the answer as text and as sound.
"""

import asyncio
import base64
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import websockets
from openai import AsyncOpenAI
from openai.types.live import SessionClosedEvent, SessionStartedEvent

from pipeline.audio.sound_file import read_speech
from pipeline.loadtest.server_process import ServerProcess, start_server

ROOT = Path(__file__).parent.parent
ANSWER = "Three plus four is seven."
FRAME_S = 0.08
T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start_server(
        ROOT / "configs/tiny", ["sampling.temperature=0", "sampling.text_temperature=0"]
    ) as server:
        yield server


@pytest.fixture(scope="module")
def question() -> npt.NDArray[np.int16]:
    pcm = read_speech(ROOT / "tests/data/question.wav")
    pcm = pcm[: len(pcm) // 1920 * 1920]
    return np.rint(pcm * 32_768).clip(-32_768, 32_767).astype("<i2")


def run(client: Coroutine[object, object, T]) -> T:
    """`asyncio.run` in a thread of its own: a browser test may have left an event loop in this one."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, client).result()


def words(text: str) -> str:
    return " ".join(text.split())


class Pace:
    """Real time; where the machine is slower than that, no more than a few frames ahead of the answers."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._answered = 0
        self._news = asyncio.Event()

    def answer(self) -> None:
        """A frame of sound has come."""
        self._answered += 1
        self._news.set()

    async def wait(self, index: int) -> None:
        """Wait until the frame after this one may be sent; frames that are never answered cost a second."""
        await asyncio.sleep(max(0.0, self._began_s + FRAME_S * (index + 1) - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self._answered < index - 4:
                    self._news.clear()
                    await self._news.wait()


async def ask_live(port: int, question: npt.NDArray[np.int16]) -> tuple[str, npt.NDArray[np.int16]]:
    """The `openai` package's Live connection: audio in real time, until the question has been asked."""
    client = AsyncOpenAI(api_key="unused", base_url=f"http://127.0.0.1:{port}/v1")
    text, sound = "", b""
    async with client.live.connect() as connection:
        await connection.session.start(session={"model": "gpt-live-1"})
        while not isinstance(await connection.recv(), SessionStartedEvent):
            pass  # it may have to wait in the queue

        pace = Pace()

        async def speak() -> None:
            for index, frame in enumerate(question.reshape(-1, 1920)):
                audio = base64.b64encode(frame.tobytes()).decode()
                await connection.session.input_audio.append(audio=audio)
                await pace.wait(index)
            await connection.session.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(speak())
            async for event in connection:
                if event.type == "session.output_audio.delta":
                    sound += base64.b64decode(event.delta)
                    pace.answer()
                elif event.type == "session.output_transcript.delta":
                    text += event.delta
                elif isinstance(event, SessionClosedEvent):
                    assert event.reason == "close_requested"
    return text, np.frombuffer(sound, "<i2")


async def ask_realtime(port: int, question: npt.NDArray[np.int16]) -> tuple[str, npt.NDArray[np.int16]]:
    """The `openai` package's Realtime connection: a question, and silence until the response is complete."""
    client = AsyncOpenAI(api_key="unused", base_url=f"http://127.0.0.1:{port}/v1")
    text, sound, silence = "", b"", base64.b64encode(bytes(3840)).decode()
    async with client.realtime.connect(model="gpt-realtime") as connection:
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        assert (await connection.recv()).type == "session.updated"

        async def speak() -> None:
            for frame in question.reshape(-1, 1920):
                audio = base64.b64encode(frame.tobytes()).decode()
                await connection.input_audio_buffer.append(audio=audio)
                await asyncio.sleep(FRAME_S)
            while True:
                await connection.input_audio_buffer.append(audio=silence)
                await asyncio.sleep(FRAME_S)

        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(speak())
            async for event in connection:
                if event.type == "response.output_audio.delta":
                    sound += base64.b64decode(event.delta)
                elif event.type == "response.output_audio_transcript.delta":
                    text += event.delta
                elif event.type == "response.done":
                    assert event.response.status == "completed"
                    break
            speaking.cancel()
    return text, np.frombuffer(sound, "<i2")


async def ask_at_once(port: int, question: npt.NDArray[np.int16]) -> tuple[str, npt.NDArray[np.int16]]:
    """The same, as a client that presses a button to talk: all at once, and nothing while it waits."""
    client = AsyncOpenAI(api_key="unused", base_url=f"http://127.0.0.1:{port}/v1")
    text, sound = "", b""
    async with client.realtime.connect(model="gpt-realtime") as connection:
        assert (await connection.recv()).type == "session.created"
        for frame in question.reshape(-1, 1920):
            await connection.input_audio_buffer.append(audio=base64.b64encode(frame.tobytes()).decode())
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        async for event in connection:
            if event.type == "response.output_audio.delta":
                sound += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.delta":
                text += event.delta
            elif event.type == "response.done":
                break
    return text, np.frombuffer(sound, "<i2")


async def ask_moshi(port: int, question: npt.NDArray[np.int16]) -> tuple[str, npt.NDArray[np.int16]]:
    """The protocol half of `moshi.client`, with its Opus: 80 ms a message, until the answer is complete."""
    sphn = pytest.importorskip("sphn")  # it has no wheel for Linux on ARM
    writer, reader = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000)
    text, sound = "", []
    async with websockets.connect(f"ws://127.0.0.1:{port}/api/chat") as connection:
        while await connection.recv() != b"\x00":
            pass  # it may have to wait in the queue

        pace = Pace()

        async def speak() -> None:
            for index, frame in enumerate(question.reshape(-1, 1920).astype(np.float32) / 32_768):
                await connection.send(b"\x01" + writer.append_pcm(frame))
                await pace.wait(index)
            await asyncio.sleep(5 * FRAME_S)
            await connection.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(speak())
            async for message in connection:
                assert isinstance(message, bytes)
                if message[0] == 1:
                    sound.append(reader.append_bytes(message[1:]))
                    pace.answer()
                elif message[0] == 2:
                    text += message[1:].decode()
    return text, (np.concatenate(sound) * 32_768).astype(np.int16)


def test_the_openai_package_gets_the_answer(server: ServerProcess, question: npt.NDArray[np.int16]) -> None:
    """Its Live connection with nothing but a `base_url`; its own types parse every event."""
    text, sound = run(ask_live(server.port, question))
    assert words(text) == ANSWER
    assert np.abs(sound).max() > 0.05 * 32_768


def test_the_openai_package_gets_the_answer_as_a_turn(
    server: ServerProcess, question: npt.NDArray[np.int16]
) -> None:
    """Its Realtime connection with nothing but a `base_url`: one response, with transcript and sound."""
    text, sound = run(ask_realtime(server.port, question))
    assert words(text) == ANSWER
    assert np.abs(sound).max() > 0.05 * 32_768


def test_a_question_that_is_sent_at_once_gets_the_answer(
    server: ServerProcess, question: npt.NDArray[np.int16]
) -> None:
    """Without its silence at the end: the server supplies that."""
    loud = np.flatnonzero(np.abs(question) > 1000)
    text, sound = run(ask_at_once(server.port, question[: (loud[-1] // 1920 + 1) * 1920]))
    assert words(text) == ANSWER
    assert np.abs(sound).max() > 0.05 * 32_768


def test_a_client_of_moshi_gets_the_answer(server: ServerProcess, question: npt.NDArray[np.int16]) -> None:
    """Opus both ways, by the library of Moshi's own client."""
    text, sound = run(ask_moshi(server.port, question))
    assert words(text) == ANSWER
    assert np.abs(sound).max() > 0.05 * 32_768


@pytest.mark.parametrize("heading", ["Live API", "Realtime API"])
def test_the_examples_of_the_page_work(server: ServerProcess, heading: str) -> None:
    """As they stand there, but for the port."""
    page = (ROOT / "docs/how-to/clients.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (example,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    example = example.replace("8788", str(server.port))
    ran = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ANSWER in words(ran.stdout)
