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
from openai import AsyncOpenAI
from openai.types.live import SessionClosedEvent, SessionStartedEvent

from pipeline.audio.wav import read_speech
from pipeline.loadtest.server_process import ServerProcess, start_server

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


def test_the_openai_package_gets_the_answer(server: ServerProcess, question: npt.NDArray[np.int16]) -> None:
    """Its Live connection with nothing but a `base_url`; its own types parse every event."""
    text, sound = asyncio.run(ask_live(server.port, question))
    assert words(text) == ANSWER
    assert np.abs(sound).max() > 0.05 * 32_768
