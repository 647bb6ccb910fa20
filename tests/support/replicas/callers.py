"""Clients that come through the balancer: one that keeps what it hears, and what tests ask of the others."""

import json
from collections import defaultdict
from contextlib import asynccontextmanager

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

from pipeline.loadtest.client import speech, talking
from pipeline.loadtest.misbehaving import leaves
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, MetadataReceived
from pipeline.units import FRAME_MS

HANG_S = 30  # no law is about this number: it turns a hang into a failure


class Caller:
    """One conversation in lock step: a frame is said when the one before is answered, and none is late."""

    def __init__(self, ws, stream):
        self.ws = ws
        self._stream = stream
        self.answers = []
        self.told = defaultdict(list)
        self.conversation = Conversation(
            "client", heartbeat_every_s=1e9, heartbeat_timeout_s=1e9, now_s=trio.current_time()
        )

    @property
    def home(self):
        return home_of(self.told["connection_established"][0].resume_token)

    async def hear(self):
        message = await self.ws.get_message()
        event, replies = self.conversation.receive(message, now_s=trio.current_time())
        for reply in replies:
            await self.say(reply)
        if isinstance(event, AudioReceived):
            self.answers.append(bytes(event.payload))
        elif isinstance(event, MetadataReceived):
            self.told[event.value.TYPE].append(event.value)
        return event

    async def say(self, said):
        await self.ws.send_message(self.conversation.number(said, timestamp_ms=0.0))

    async def hear_of(self, kind):
        while not self.told[kind]:
            await self.hear()
        return self.told[kind][0]

    async def talk(self, first, count):
        """Say frames `first` and following of a conversation; its first ones release no answer."""
        delay = self.told["connection_established"][0].model.model_delay_ms // FRAME_MS
        for index in range(first, first + count):
            heard = len(self.answers)
            await self.say(outgoing.audio(speech()[index], float(index)))
            while index >= delay and len(self.answers) == heard:
                await self.hear()

    def lose(self):
        """Close the connection under the WebSocket, as a network does that breaks."""
        self._stream.socket.close()

    async def close_code(self):
        """Hear everything to the end; the code that it ends with, None where there was no goodbye."""
        try:
            while True:
                await self.hear()
        except ConnectionClosed as closed:
            return closed.reason and closed.reason.code


@asynccontextmanager
async def calling(servers, path="/ws", *, origin=None):
    """A conversation through the balancer; left in the middle, it is ended with a goodbye."""
    headers = [] if origin is None else [(b"Origin", origin.encode())]
    host = f"127.0.0.1:{servers.balancer.port}"
    with trio.fail_after(HANG_S):
        stream = await trio.open_tcp_stream("127.0.0.1", servers.balancer.port)
        async with (
            stream,
            trio.open_nursery() as nursery,
            await wrap_client_stream(nursery, stream, host, path, extra_headers=headers) as ws,
        ):
            yield Caller(ws, stream)


@asynccontextmanager
async def visiting(port, path="/ws"):
    """A conversation that accounts for every frame; left in the middle, it is lost."""
    with trio.fail_after(HANG_S):
        async with talking(port, path) as talker:
            yield talker


async def refusal(servers, path="/ws", *, origin=None):
    """The answer in place of a conversation: status, code, headers."""
    answers = []
    try:
        async with calling(servers, path, origin=origin):
            pass
    except* ConnectionRejected as group:
        answers = leaves(group)
    (answer,) = answers
    headers = {name.lower(): value for name, value in answer.headers}
    return answer.status_code, json.loads(answer.body)["error"]["code"], headers


def home_of(token):
    """The replica that made this token."""
    name, dot, _ = token.partition(".")
    assert dot
    return name


def home(talker):
    return home_of(talker.established.resume_token)


async def until(condition):
    """Poll, in a thread."""
    with trio.fail_after(HANG_S):
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 - of another process
            await trio.sleep(0.05)


async def see(servers, condition, backend="lanes"):
    """Wait until the balancer sees the replicas so."""
    await until(lambda: condition(servers.balancer.seen(backend)))
