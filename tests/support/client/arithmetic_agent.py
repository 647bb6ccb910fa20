"""A small real server for client tests: a WebSocket on loopback, the protocol, arithmetic for a model.

Its model has a delay of `DELAY_FRAMES` and answers frame k with frame k - 2, reversed and at
half volume, so that a frame lost, repeated, swapped or answered to another timestamp is visible
in the samples.
"""

from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import trio
from trio_websocket import ConnectionClosed, WebSocketServer

from pipeline.audio.framing import frames_of, payload_of
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, MetadataReceived
from pipeline.protocol.metadata import Bye, ConnectionEstablished, LimitsInfo, ModelInfo, Ready
from pipeline.protocol.packets import Packet, encode

DELAY_FRAMES = 2
GREETING = ConnectionEstablished(
    protocol=1,
    session_id="5e55",
    resume_token=None,
    server_time=0,
    sample_rate=24_000,
    frame_samples=1920,
    model=ModelInfo(name="arithmetic", shape="none", trained=True, model_delay_ms=160, text="text"),
    limits=LimitsInfo(
        message_bytes=65_552,
        burst_frames=8,
        max_lag_ms=400,
        heartbeat_every_ms=5000,
        heartbeat_timeout_ms=15_000,
    ),
)


def answers_to(pcm):
    """All samples that the agent answers to `pcm [S]`."""
    frames = np.pad(pcm, (0, -len(pcm) % 1920)).reshape(-1, 1920)
    return 0.5 * frames[: len(frames) - DELAY_FRAMES, ::-1].ravel()


class Agent:
    """One session that behaves correctly. Subclasses override where they differ."""

    greeting = GREETING

    def __init__(self, ws):
        self.ws = ws
        self.events = []
        self.frames = []
        self.closed = None
        self.over = trio.Event()
        self.conversation = Conversation(
            "server", heartbeat_every_s=5, heartbeat_timeout_s=15, now_s=trio.current_time()
        )

    async def send(self, packet):
        await self.ws.send_message(self.conversation.encode_next(packet, timestamp_ms=0.0))

    async def greet(self):
        await self.send(outgoing.metadata(self.greeting))
        await self.send(outgoing.metadata(Ready()))

    async def answer(self, index, timestamp_ms):
        """Answer user frame `index`."""
        if index >= DELAY_FRAMES:
            pcm = 0.5 * self.frames[index - DELAY_FRAMES][::-1]
            await self.send(outgoing.audio(payload_of(pcm), timestamp_ms))
        await self.send(outgoing.text_partial(" ".join(f"w{k}" for k in range(index + 1))))

    async def finish(self):
        await self.send(outgoing.text_final(" ".join(f"w{k}" for k in range(len(self.frames)))))

    async def run(self):
        await self.greet()
        while True:
            event, replies = self.conversation.receive(await self.ws.get_message(), now_s=trio.current_time())
            self.events.append(event)
            for reply in replies:
                await self.send(reply)
            match event:
                case AudioReceived(timestamp_ms=timestamp_ms, payload=payload):
                    for frame in frames_of(payload):
                        self.frames.append(frame)
                        await self.answer(len(self.frames) - 1, timestamp_ms)
                case MetadataReceived(Bye()):
                    await self.finish()
                    # As the server does: close once the last packets are acknowledged.
                    while self.conversation.unacked:
                        message = await self.ws.get_message()
                        self.events.append(self.conversation.receive(message, now_s=trio.current_time())[0])
                    await self.ws.aclose(1000)


class Served:
    """The URL of the server, and the agents of its sessions."""

    def __init__(self, port):
        self.url = f"ws://127.0.0.1:{port}/ws"
        self.agents = []

    @property
    def agent(self):
        (agent,) = self.agents
        return agent


@asynccontextmanager
async def serving(kind=Agent):
    """A server on a free port whose sessions are agents of a `kind`, for the length of the block."""
    async with trio.open_nursery() as nursery:
        served = None

        async def session(request):
            ws = await request.accept()
            agent = kind(ws)
            served.agents.append(agent)
            try:
                await agent.run()
            except ConnectionClosed as closed:
                agent.closed = closed.reason.code
                agent.over.set()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        served = Served(listeners[0].socket.getsockname()[1])
        await nursery.start(WebSocketServer(session, listeners).run)
        yield served
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tcp_server(handle):
    """A plain TCP server whose connections go to `handle(stream)`; gives its port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def raw(kind, payload, timestamp_ms=0.0):
    """A packet that no `Conversation` would send."""
    return encode(Packet(kind, 0, 0, timestamp_ms, payload, wants_ack=False))
