"""What the server says first, and a client, for dialects that are tested without a server."""

import json

from pipeline.protocol import outgoing
from pipeline.protocol.dialect import ConnectionParameters
from pipeline.protocol.metadata import ConnectionEstablished, LimitsInfo, ModelInfo
from pipeline.protocol.unacked import UnackedPackets

ESTABLISHED = ConnectionEstablished(
    protocol=1,
    session_id="5e55",
    resume_token=None,
    server_time=0.25,
    sample_rate=24_000,
    frame_samples=1920,
    model=ModelInfo("tiny", "moshi", trained=True, model_delay_ms=80, text="text"),
    limits=LimitsInfo(65_552, 8, 400, 5000, 15_000),
)


class DialectPeer:
    """A client of one dialect, without a socket; `send` returns what the server sends in reply, parsed."""

    def __init__(self, dialect, *, voices=None):
        self.dialect = dialect(
            ConnectionParameters(5, 15, 3600, 0.0, 1_000_000.5, UnackedPackets(), voices=voices)
        )
        self.write(outgoing.metadata(ESTABLISHED))

    def write(self, packet):
        return [self.parse(message) for message in self.dialect.messages(packet, timestamp_ms=0.0)]

    def parse(self, message):
        return json.loads(message)

    def send(self, message):
        text = message if isinstance(message, bytes | str) else json.dumps(message)
        self.event, replies = self.dialect.receive(text, now_s=0.0)
        return [answer for reply in replies for answer in self.write(reply)]

    def error(self, message):
        (answer,) = self.send(message)
        assert answer["type"] == "error"
        assert answer["event_id"]
        return answer["error"]
