"""A client of OpenAI's Live or Realtime API over a real socket: JSON events, sound in base64."""

import base64
import json

import numpy as np
import trio_websocket


class EventClient:
    """Receives events one by one; `audio` is all sound so far, as 16-bit samples.

    `SOUND`: the type of the events with sound.
    """

    SOUND: str

    def __init__(self, connection):
        self.connection = connection
        self.events = []
        self._audio = b""

    @property
    def audio(self):
        return np.frombuffer(self._audio, "<i2")

    async def receive(self):
        event = json.loads(await self.connection.get_message())
        if event["type"] == self.SOUND:
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


def encoded(pcm):
    """16-bit samples as an event carries them."""
    return base64.b64encode(np.asarray(pcm, "<i2").tobytes()).decode()
