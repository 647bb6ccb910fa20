"""A Live client over a real socket, for servers of `small_engine`."""

import base64
import json
from contextlib import asynccontextmanager

import numpy as np
import trio_websocket

from support.web.sockets import websocket

PATH = "/v1/live/sessions"
START = {"type": "session.start", "event_id": "e1", "session": {"model": "any"}}


class LiveClient:
    """Sends events, and receives them one by one; `audio` is all sound so far, as 16-bit samples."""

    def __init__(self, connection):
        self.connection = connection
        self.events = []
        self._audio = b""

    @property
    def audio(self):
        return np.frombuffer(self._audio, "<i2")

    async def send(self, event):
        await self.connection.send_message(event if isinstance(event, str) else json.dumps(event))

    async def append(self, pcm):
        data = base64.b64encode(np.asarray(pcm, "<i2").tobytes()).decode()
        await self.send({"type": "session.input_audio.append", "audio": data})

    async def receive(self):
        event = json.loads(await self.connection.get_message())
        if event["type"] == "session.output_audio.delta":
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
async def live_client(served, *, start=START, headers=()):
    """A client whose session has started, unless `start` is None."""
    async with websocket(served, PATH, headers=headers) as connection:
        client = LiveClient(connection)
        if start is not None:
            await client.send(start)
            client.started = await client.until("session.started")
        yield client
