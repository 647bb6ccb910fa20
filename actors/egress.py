"""The egress packetizer: writes a connection's packets, urgent ones first, and heartbeats when they are due.

Packets are numbered as they are written. Those that would be too late never get here: the send
queue drops them.

Neighbours: `sessions.send_queue` orders the packets; `ingress` reads.
"""

import time
from collections.abc import Iterable
from typing import NoReturn

import trio

from actors.runtime.awake_clock import awake_time
from actors.sessions.send_queue import SendQueue
from actors.sessions.session import Session
from actors.sessions.transport import Transport
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.outgoing import OutgoingPacket


async def write(
    transport: Transport,
    conversation: Conversation,
    session: Session,
    queue: SendQueue,
    opening: Iterable[OutgoingPacket],
) -> None:
    """Write the opening, then the packets in the queue, until it is closed and empty.

    Raises:
        TransportClosedError: the peer is gone, or (SlowPeerError) does not read.
        SendQueueFullError: the peer reads too slowly for packets that must not be dropped.
        LocalProtocolError: too many packets were never acknowledged.
    """
    for packet in opening:
        await transport.send(conversation.encode_next(packet, timestamp_ms=wall_clock_ms()))
    while True:
        try:
            queued = await queue.take()
        except trio.EndOfChannel:
            return
        await transport.send(conversation.encode_next(queued.packet, timestamp_ms=wall_clock_ms()))
        if queued.frame is not None:
            session.record_sent(queued.frame)


async def keep_alive(conversation: Conversation, queue: SendQueue) -> NoReturn:
    """Send a heartbeat whenever one is due.

    Raises:
        RemoteProtocolError: nothing came from the peer for too long.
    """
    while True:
        now_s = awake_time()
        conversation.check_alive(now_s)
        if conversation.heartbeat_due(now_s):
            queue.put(conversation.heartbeat(now_s=now_s))
        await trio.sleep(max(0.0, conversation.next_deadline_s() - awake_time()))


def wall_clock_ms() -> float:
    """Milliseconds since the Unix epoch, as packets carry them."""
    return time.time() * 1000
