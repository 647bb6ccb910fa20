"""A Live client over a real socket, for servers of `small_engine`."""

import json
from contextlib import asynccontextmanager

from support.web.openai_events import EventClient, encoded
from support.web.sockets import websocket

PATH = "/v1/live/sessions"
START = {"type": "session.start", "event_id": "e1", "session": {"model": "any"}}


class LiveClient(EventClient):
    """Sends events and audio."""

    SOUND = "session.output_audio.delta"

    async def send(self, event):
        await self.connection.send_message(event if isinstance(event, str) else json.dumps(event))

    async def append(self, pcm):
        await self.send({"type": "session.input_audio.append", "audio": encoded(pcm)})


@asynccontextmanager
async def live_client(served, *, start=START, headers=()):
    """A client whose session has started, unless `start` is None."""
    async with websocket(served, PATH, headers=headers) as connection:
        client = LiveClient(connection)
        if start is not None:
            await client.send(start)
            client.started = await client.until("session.started")
        yield client
