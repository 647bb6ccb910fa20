"""A Realtime client over a real socket, for servers of `small_engine`."""

import base64
import json
from contextlib import asynccontextmanager

import numpy as np
import trio_websocket

from support.web.sockets import websocket

PATH = "/v1/realtime?model=any"


class RealtimeClient:
    """Sends events, and receives them one by one; `audio` is all sound so far, as 16-bit samples."""

    def __init__(self, connection):
        self.connection = connection
        self.events = []
        self._audio = b""

    @property
    def audio(self):
        return np.frombuffer(self._audio, "<i2")

    async def send(self, kind, **fields):
        await self.connection.send_message(json.dumps({"type": kind, **fields}))

    async def append(self, pcm):
        audio = base64.b64encode(np.asarray(pcm, "<i2").tobytes()).decode()
        await self.send("input_audio_buffer.append", audio=audio)

    async def receive(self):
        event = json.loads(await self.connection.get_message())
        if event["type"] == "response.output_audio.delta":
            self._audio += base64.b64decode(event["delta"])
        else:
            self.events.append(event)
        return event

    async def until(self, kind):
        """The next event of this type."""
        while (event := await self.receive())["type"] != kind:
            pass
        return event

    async def close_code(self):
        try:
            while True:
                await self.receive()
        except trio_websocket.ConnectionClosed as closed:
            return closed.reason.code


@asynccontextmanager
async def realtime_client(served, *, headers=()):
    """A client whose session has been created."""
    async with websocket(served, PATH, headers=headers) as connection:
        client = RealtimeClient(connection)
        client.created = await client.until("session.created")
        yield client
