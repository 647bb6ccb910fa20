"""A Realtime client over a real socket, for servers of `small_engine`."""

import json
from contextlib import asynccontextmanager

from support.web.openai_events import EventClient, encoded
from support.web.sockets import websocket

PATH = "/v1/realtime?model=any"


class RealtimeClient(EventClient):
    """Sends events and audio."""

    SOUND = "response.output_audio.delta"

    async def send(self, kind, **fields):
        await self.connection.send_message(json.dumps({"type": kind, **fields}))

    async def append(self, pcm):
        await self.send("input_audio_buffer.append", audio=encoded(pcm))


@asynccontextmanager
async def realtime_client(served, *, headers=()):
    """A client whose session has been created."""
    async with websocket(served, PATH, headers=headers) as connection:
        client = RealtimeClient(connection)
        client.created = await client.until("session.created")
        yield client
