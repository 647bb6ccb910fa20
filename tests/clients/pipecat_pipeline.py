"""A pipecat pipeline whose speech-to-speech service is this server, without a transport.

python tests/clients/pipecat_pipeline.py [HOST:PORT] [realtime|live]
"""

import asyncio
import sys

from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    SpeechOutputAudioRawFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.live.llm import OpenAILiveLLMService
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from question import RATE_HZ, microphone, report, server


class Speaker(FrameProcessor):
    """Stands in for the loudspeaker of a transport; `answered` once a whole sentence was heard."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.sound = "", b""
        self.answered = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self.text += frame.text
        elif isinstance(frame, TTSAudioRawFrame | SpeechOutputAudioRawFrame):
            self.sound += frame.audio
        if "seven" in self.text:
            self.answered.set()
        await self.push_frame(frame, direction)


async def main() -> None:
    if sys.argv[2:] == ["live"]:
        service = OpenAILiveLLMService(api_key="unused", base_url=f"ws://{server()}/v1/live/sessions")
    else:
        service = OpenAIRealtimeLLMService(api_key="unused", base_url=f"ws://{server()}/v1/realtime")
    speaker = Speaker()
    task = PipelineTask(Pipeline([service, speaker]), params=PipelineParams(audio_in_sample_rate=RATE_HZ))

    async def ask() -> None:
        await task.queue_frame(LLMContextFrame(LLMContext()))  # the conversation begins
        async for audio in microphone():
            await task.queue_frame(InputAudioRawFrame(audio, RATE_HZ, 1))
        await speaker.answered.wait()
        await task.cancel()

    asking = asyncio.create_task(ask())
    await PipelineRunner(handle_sigint=False).run(task)
    await asking
    report(speaker.text, speaker.sound)


asyncio.run(asyncio.wait_for(main(), 60))
