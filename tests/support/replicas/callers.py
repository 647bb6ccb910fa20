"""Clients that connect through the balancer, one of them in lock step, and helpers for their tests."""

import json
from collections import defaultdict
from contextlib import asynccontextmanager

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

from pipeline.loadtest.client import connect_client, speech
from pipeline.loadtest.misbehaving import flatten_errors
from pipeline.protocol import outgoing
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, MetadataReceived
from pipeline.units import FRAME_MS

HANG_S = 120  # turns a hang into a failure


class Caller:
    """One conversation in lock step: each frame is sent when the one before is answered."""

    def __init__(self, ws, stream):
        self.ws = ws
        self._stream = stream
        self.answers = []
        self.metadata = defaultdict(list)
        self.conversation = Conversation(
            "client", heartbeat_every_s=1e9, heartbeat_timeout_s=1e9, now_s=trio.current_time()
        )

    @property
    def home(self):
        return home_of(self.metadata["connection_established"][0].resume_token)

    async def receive(self):
        message = await self.ws.get_message()
        event, replies = self.conversation.receive(message, now_s=trio.current_time())
        for reply in replies:
            await self.send(reply)
        if isinstance(event, AudioReceived):
            self.answers.append(bytes(event.payload))
        elif isinstance(event, MetadataReceived):
            self.metadata[event.value.TYPE].append(event.value)
        return event

    async def send(self, packet):
        await self.ws.send_message(self.conversation.encode_next(packet, timestamp_ms=0.0))

    async def wait_for(self, kind):
        while not self.metadata[kind]:
            await self.receive()
        return self.metadata[kind][0]

    async def talk(self, first, count):
        """Send frames from `first` on; those within the model's delay have no answer."""
        delay = self.metadata["connection_established"][0].model.model_delay_ms // FRAME_MS
        for index in range(first, first + count):
            answered = len(self.answers)
            await self.send(outgoing.audio(speech()[index], float(index)))
            while index >= delay and len(self.answers) == answered:
                await self.receive()

    def reset_connection(self):
        """Close the socket under the WebSocket, as when a network breaks."""
        self._stream.socket.close()

    async def close_code(self):
        """Receive until the connection closes; the close code, None without a close handshake."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as closed:
            return closed.reason and closed.reason.code


@asynccontextmanager
async def calling(servers, path="/ws", *, origin=None):
    """A conversation through the balancer; at the end of the block it is closed normally."""
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
    """A conversation that checks its frames; at the end of the block the socket is closed."""
    with trio.fail_after(HANG_S):
        async with connect_client(port, path) as client:
            yield client


async def refusal(servers, path="/ws", *, origin=None):
    """The HTTP response instead of a conversation: status, code, headers."""
    responses = []
    try:
        async with calling(servers, path, origin=origin):
            pass
    except* ConnectionRejected as group:
        responses = flatten_errors(group)
    (response,) = responses
    headers = {name.lower(): value for name, value in response.headers}
    return response.status_code, json.loads(response.body)["error"]["code"], headers


def home_of(token):
    """The replica that issued this token."""
    name, dot, _ = token.partition(".")
    assert dot
    return name


def home(client):
    return home_of(client.established.resume_token)


async def until(condition):
    """Poll, in a thread."""
    with trio.fail_after(HANG_S):
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 - of another process
            await trio.sleep(0.05)


async def wait_for_states(servers, condition, backend="lanes"):
    """Wait until `condition` holds for the balancer's states of the replicas."""
    await until(lambda: condition(servers.balancer.server_states(backend)))
