"""The ingress depacketizer: reads a connection's messages and passes their content to the session.

It reads at once and never waits for a model: frames that the models cannot take in time are
dropped in the first channel, oldest first.

Neighbours: `pipeline.protocol.conversation` decodes the messages; `egress` writes.
"""

from collections.abc import Callable

import trio

from actors.runtime.awake_clock import awake_time
from actors.sessions.send_queue import SendQueue
from actors.sessions.session import Session
from actors.sessions.transport import Transport
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.events import AudioReceived, MetadataReceived, Refused
from pipeline.protocol.metadata import Bye, ClientStats, Configure, ErrorNotice


async def read(
    transport: Transport,
    conversation: Conversation,
    session: Session,
    queue: SendQueue,
    on_bye: Callable[[], None],
) -> None:
    """Read until the peer is gone or breaks the protocol. ACKs and other replies go into the queue.

    Raises:
        TransportClosedError: the peer is gone.
        RemoteProtocolError: the peer broke the protocol.
    """
    while True:
        message = await transport.receive()
        received_s = trio.current_time()
        event, replies = conversation.receive(message, now_s=awake_time())
        for reply in replies:
            queue.put(reply)
        match event:
            case AudioReceived():
                session.receive_audio(event, received_s)
            case MetadataReceived(Configure() as change):
                session.configure(change)
            case MetadataReceived(ClientStats() as stats):
                session.update_client_stats(stats)
            case MetadataReceived(Bye()):
                on_bye()
            case Refused(code, why):
                session.send_metadata(ErrorNotice(code, why))
