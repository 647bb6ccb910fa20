"""A LiveKit agent whose speech-to-speech model is this server, without a room.

    python tests/clients/livekit_agent.py [HOST:PORT] [realtime|live|personaplex]

In a room, leave `input` and `output` to LiveKit: `await session.start(agent, room=ctx.room)`.
"""

import asyncio
import os
import sys

import aiohttp
from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice import io
from livekit.plugins import openai
from livekit.plugins.nvidia.experimental import realtime as nvidia
from question import FRAME_SAMPLES, RATE_HZ, microphone, report, server


class Microphone(io.AudioInput):
    """Stands in for that of a participant."""

    def __init__(self) -> None:
        super().__init__(label="question")
        self._frames = microphone()

    async def __anext__(self) -> rtc.AudioFrame:
        async for audio in self._frames:
            return rtc.AudioFrame(audio, RATE_HZ, 1, FRAME_SAMPLES)
        await asyncio.Event().wait()  # nothing is said any more
        raise StopAsyncIteration


class Speaker(io.AudioOutput):
    """Stands in for the loudspeaker of a participant: what is captured is played."""

    def __init__(self) -> None:
        super().__init__(
            label="answer", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=RATE_HZ
        )
        self.sound = b""
        self._played_s = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self.sound += bytes(frame.data)
        self._played_s += frame.duration

    def flush(self) -> None:
        super().flush()
        self._finish(interrupted=False)

    def clear_buffer(self) -> None:
        self._finish(interrupted=True)

    def _finish(self, *, interrupted: bool) -> None:
        if self._pending_playback_count:
            self.on_playback_finished(playback_position=self._played_s, interrupted=interrupted)
        self._played_s = 0.0


async def main() -> None:
    async with aiohttp.ClientSession() as http:
        match sys.argv[2:]:
            case ["live"]:
                model = openai.realtime.GPTLiveModel(
                    api_key="unused",
                    base_url=f"http://{server()}/v1",
                    delegation="client",
                    http_session=http,
                )
            case ["personaplex"]:
                model = nvidia.RealtimeModel(base_url=f"ws://{server()}", http_session=http)
            case _:
                model = openai.realtime.RealtimeModel(
                    api_key="unused", base_url=f"http://{server()}/v1", http_session=http
                )
        session = AgentSession(llm=model)
        speaker, answered, said = Speaker(), asyncio.Event(), []
        session.input.audio, session.output.audio = Microphone(), speaker

        @session.on("conversation_item_added")
        def added(event) -> None:
            if event.item.type == "message" and event.item.role == "assistant":
                said.append(event.item.text_content)
                if "seven" in event.item.text_content:
                    answered.set()

        await session.start(Agent(instructions=""))
        await answered.wait()
        await session.aclose()
        report(" ".join(said), speaker.sound)


asyncio.run(asyncio.wait_for(main(), 60))
# LiveKit's native threads still call into Python. While the interpreter shuts down, Python 3.13 and older
# end a thread that does so, through frames of Rust, and that aborts the process.
sys.stdout.flush()
os._exit(0)
