"""A whole engine of small arithmetic stages, and clients of it over real sockets.

The stages are stateful: a lane's output depends on all of its input since it was opened, so a frame
that is lost, repeated, reordered or given to another lane changes every output after it.
"""

from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import numpy as np
import trio
import trio_websocket
from msgspec.structs import replace

from actors import decoder
from actors.engine import Engine, Loaders
from actors.runtime.late_frames import LatenessTracker
from pipeline.config import Limits, Server, Settings
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, MetadataReceived, TextReceived
from pipeline.protocol.metadata import Vad
from pipeline.units import FRAME_SAMPLES
from pipeline.values import ModelCard, TextFinal, TextPartial
from support.web.sockets import serving, websocket
from web.app import create_app
from web.security.forwarded import ReverseProxy
from web.security.rate_limit import RateLimiter

CARD = ModelCard(
    name="small",
    shape="2 codebooks",
    trained=False,
    model_delay_ms=80,
    text="ids",
    about="It adds up.",
    suggestions=("what is <b>three</b> plus four", "how much is that"),
)
WEIGHTS = {"name": "small", "trained": False, "lm": {"parameters": 7}}
DELAY_FRAMES = 1
HOUR_S = 3600.0
# All clients of a test come from one address: on a busy machine they would use up its budget for each other.
LIMITS = Limits(
    send_timeout_s=0.3, max_lag_ms=60_000, requests_processor_share=1e6, address_processor_share=1e6
)
SETTINGS = Settings(server=Server(port=0), limits=LIMITS, drain_s=1.0)


class SumEncoder:
    def __init__(self):
        self.sums = {}

    def open(self, lane, _sampling):
        self.sums[lane] = 0

    def close(self, lane):
        del self.sums[lane]

    def encode(self, lanes, pcm):
        for lane, frame in zip(lanes, pcm, strict=True):
            self.sums[lane] = (31 * self.sums[lane] + round(float(np.abs(frame).sum()))) % 2048
        return np.array([[self.sums[lane], self.sums[lane] ^ 1] for lane in lanes], np.int32)


@dataclass
class SmallStep:
    token: int
    text: tuple
    codes: np.ndarray | None


class DelayStepper:
    def __init__(self):
        self.inputs = {}

    def open(self, lane, _sampling):
        self.inputs[lane] = []

    def configure(self, lane, _sampling):
        pass

    def close(self, lane):
        inputs = self.inputs.pop(lane)
        return (TextFinal(" ".join(map(str, inputs))),) if inputs else ()

    def warmup(self, *, reset):
        if reset:
            self.rehearsed = 0
        self.rehearsed += 1

    def step(self, lanes, codes):
        steps = []
        for lane, row in zip(lanes, codes, strict=True):
            inputs = self.inputs[lane]
            inputs.append(int(row[0]))
            output = row if len(inputs) > DELAY_FRAMES else None
            steps.append(SmallStep(inputs[-1], (TextPartial(" ".join(map(str, inputs))),), output))
        return steps


class RampDecoder:
    def __init__(self):
        self.levels = {}

    def open(self, lane, _sampling):
        self.levels[lane] = 0.0

    def close(self, lane):
        del self.levels[lane]

    def decode(self, lanes, codes):
        for lane, row in zip(lanes, codes, strict=True):
            self.levels[lane] = (self.levels[lane] + int(row[0]) / 4096) % 1.0
        ramp = np.linspace(0, 1, FRAME_SAMPLES, dtype=np.float32)
        return np.stack([ramp * np.float32(self.levels[lane]) for lane in lanes])


def small_loaders(before=lambda: None):
    """Loaders that call `before` on their thread first."""

    def load(stage):
        def loader():
            before()
            return stage()

        return loader

    return Loaders(load(SumEncoder), load(DelayStepper), load(RampDecoder))


@asynccontextmanager
async def small_server(
    settings=SETTINGS, *, lanes=4, admit=None, before=None, weights=lambda: WEIGHTS, tls=None, proxy=None
):
    """A served engine; without `before`, the block starts when it is ready.

    All lanes may run, however busy the machine that runs the test is, unless `admit` says otherwise; and no
    frame is skipped because that machine was late with it: clients wait for each answer.
    """
    settings = replace(settings, lanes=replace(settings.lanes, admit=admit or lanes))
    engine = Engine(settings, small_loaders(before) if before else small_loaders(), CARD, lanes=lanes)
    limiter = RateLimiter(settings.limits, ReverseProxy.from_settings(settings.server))
    app = create_app(
        engine,
        settings,
        backend={"device": "abacus", "kernels": "off"},
        weights=weights,
        limiter=limiter,
        proxy=proxy,
    )

    async def drain():
        async with trio.open_nursery() as draining:
            draining.start_soon(engine.drain)
            if proxy is not None:
                draining.start_soon(proxy.drain)

    never_late = patch.object(decoder, "LatenessTracker", partial(LatenessTracker, HOUR_S))
    with never_late:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            if proxy is not None:
                await nursery.start(proxy.run)
            if before is None:
                await engine.ready.wait()
            async with serving(app, settings, drain, limiter, tls) as served:
                served.engine, served.app, served.limiter = engine, app, limiter
                yield served
            nursery.cancel_scope.cancel()


def speech(frames, seed=0):
    """`frames` frames of 80 ms of noise, all different."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, FRAME_SAMPLES)).astype("<f4")


def spoken(frames):
    """`speech` to the nearest step of 16 bits, `[frames, 1920]` int16: what 16-bit clients send exactly."""
    return np.rint(speech(frames) * 32_768).astype("<i2")


class PacketClient:
    """A client that waits for every answer before it sends the next frame, so nothing is ever late."""

    def __init__(self, connection):
        self.connection = connection
        self.conversation = Conversation(
            "client", heartbeat_every_s=1e9, heartbeat_timeout_s=1e9, now_s=trio.current_time()
        )
        self.frames = 0
        self.texts = []
        self.metadata = defaultdict(list)

    async def send(self, packet):
        await self.connection.send_message(self.conversation.encode_next(packet, timestamp_ms=0.0))

    async def receive(self):
        """The next event from the server; texts and metadata are also collected."""
        message = await self.connection.get_message()
        event, replies = self.conversation.receive(message, now_s=trio.current_time())
        for reply in replies:
            await self.send(reply)
        if isinstance(event, MetadataReceived):
            self.metadata[event.value.TYPE].append(event.value)
        elif isinstance(event, TextReceived):
            self.texts.append(event)
        return event

    async def receive_metadata(self, kind):
        """Wait for a METADATA packet of this type."""
        while True:
            event = await self.receive()
            if isinstance(event, MetadataReceived) and kind == event.value.TYPE:
                return event.value

    async def close_code(self):
        """Receive everything to the end; the close code."""
        try:
            while True:
                await self.receive()
        except trio_websocket.ConnectionClosed as closed:
            return closed.reason.code

    async def receive_metadata_silently(self, kind):
        """The same without sending anything, not even replies to heartbeats."""
        while True:
            message = await self.connection.get_message()
            event, _ = self.conversation.receive(message, now_s=trio.current_time())
            if isinstance(event, MetadataReceived) and kind == event.value.TYPE:
                return event.value

    async def keep_alive_until(self, done):
        """Reply to everything received, so that the server does not time out; send no audio."""
        while not done.is_set():
            await self.receive()
            await self.send(outgoing.metadata(Vad(speaking=False)))

    async def receive_audio(self):
        """The payload of the next AUDIO_CHUNK."""
        while True:
            event = await self.receive()
            if isinstance(event, AudioReceived):
                return bytes(event.payload)

    async def exchange(self, pcm):
        """Send frames, each after the answer to the one before; the answers."""
        answers = []
        for frame in pcm:
            await self.send(outgoing.audio(frame.tobytes(), 80.0 * self.frames))
            self.frames += 1
            if self.frames > DELAY_FRAMES:
                answers.append(await self.receive_audio())
        return answers


@asynccontextmanager
async def packet_client(served, path="/ws", *, headers=(), ready=True):
    """A client with a lane of its own."""
    async with websocket(served, path, headers=headers) as connection:
        client = PacketClient(connection)
        if ready:
            await client.receive_metadata("ready")
        yield client
