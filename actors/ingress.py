"""The ingress depacketizer: it reads at once, and never waits for what is downstream.

Each message becomes what it means to the session: frames for the line, a change of
sampling, the end. What the line cannot take in time is left out there, oldest first.
"""

from collections.abc import Callable

import trio

from actors.sessions.send_queue import Outbox
from actors.sessions.session import Session
from actors.sessions.transport import Transport
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, MetadataReceived, Refused
from pipeline.protocol.metadata import Bye, ClientStats, Configure, ErrorNotice


async def read(
    transport: Transport,
    conversation: Conversation,
    session: Session,
    outbox: Outbox,
    on_bye: Callable[[], None],
) -> None:
    """Read until the peer is gone or breaks the protocol. Acknowledgements and answers go to the outbox.

    Raises:
        TransportClosedError: the peer is gone.
        RemoteProtocolError: the peer broke the protocol.
    """
    while True:
        message = await transport.receive()
        received_s = trio.current_time()
        event, replies = conversation.receive(message, now_s=received_s)
        for reply in replies:
            outbox.put(reply)
        match event:
            case AudioReceived():
                session.hear(event, received_s)
            case MetadataReceived(Configure() as change):
                session.configure(change)
            case MetadataReceived(ClientStats() as stats):
                session.note(stats)
            case MetadataReceived(Bye()):
                on_bye()
            case Refused(code, why):
                session.tell(ErrorNotice(code, why))
