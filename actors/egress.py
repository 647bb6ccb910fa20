"""The egress packetizer: urgent packets first, numbered at the write, and a heartbeat when it is time.

What could not wait any longer never gets here: the outbox left it out.
"""

import time
from collections.abc import Iterable
from typing import NoReturn

import trio

from actors.sessions.send_queue import Outbox
from actors.sessions.session import Session
from actors.sessions.transport import Transport
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.outgoing import Outgoing


async def write(
    transport: Transport,
    conversation: Conversation,
    session: Session,
    outbox: Outbox,
    opening: Iterable[Outgoing],
) -> None:
    """Write the opening, then what the outbox holds until it is closed and empty.

    Raises:
        TransportClosedError: the peer is gone, or (SlowPeerError) does not read.
        OutboxFullError: the peer reads too slowly for what must not be left out.
        LocalProtocolError: too much was never acknowledged.
    """
    for said in opening:
        await transport.send(conversation.number(said, timestamp_ms=wall_clock_ms()))
    while True:
        try:
            posted = await outbox.take()
        except trio.EndOfChannel:
            return
        await transport.send(conversation.number(posted.said, timestamp_ms=wall_clock_ms()))
        if posted.frame is not None:
            session.sent(posted.frame)


async def keep_alive(conversation: Conversation, outbox: Outbox) -> NoReturn:
    """Send a heartbeat whenever one is due.

    Raises:
        RemoteProtocolError: nothing came from the peer for too long.
    """
    while True:
        now_s = trio.current_time()
        conversation.check_alive(now_s)
        if conversation.heartbeat_due(now_s):
            outbox.put(conversation.heartbeat(now_s=now_s))
        await trio.sleep_until(conversation.next_deadline_s())


def wall_clock_ms() -> float:
    """Milliseconds since the Unix epoch, as packets carry them."""
    return time.time() * 1000
