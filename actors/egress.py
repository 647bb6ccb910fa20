"""The egress packetizer: writes a connection's packets, urgent ones first, and heartbeats when they are due.

Packets become messages of the client's dialect as they are written. Those that would be too late
never get here: the send queue drops them.

Neighbours: `sessions.send_queue` orders the packets; `ingress` reads.
"""

import time
from collections.abc import Iterable
from typing import NoReturn

import trio

from actors.runtime.awake_clock import awake_time
from actors.sessions.send_queue import SendQueue
from actors.sessions.session import Session
from actors.sessions.transcoding import Transcoding
from actors.sessions.transport import Transport
from pipeline.config import Heartbeat
from pipeline.protocol.dialect import Dialect
from pipeline.protocol.faults import Fault, RemoteProtocolError
from pipeline.protocol.outgoing import OutgoingPacket


async def write(
    transport: Transport,
    transcoding: Transcoding,
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
        await send(transport, transcoding.dialect, packet)
    while True:
        try:
            queued = await queue.take()
        except trio.EndOfChannel:
            return
        await send(transport, transcoding.dialect, await transcoding.encode(queued.packet))
        if queued.frame is not None:
            session.record_sent(queued.frame)


async def send(transport: Transport, dialect: Dialect, packet: OutgoingPacket) -> None:
    """Write whatever the dialect says for one packet.

    Raises:
        TransportClosedError: the peer is gone, or (SlowPeerError) does not read.
        LocalProtocolError: it must not be sent now.
    """
    for message in dialect.messages(packet, timestamp_ms=wall_clock_ms()):
        await transport.send(message)


async def keep_alive(dialect: Dialect, queue: SendQueue) -> NoReturn:
    """Send a heartbeat whenever one is due.

    Raises:
        RemoteProtocolError: nothing came from the peer for too long.
    """
    while True:
        now_s = awake_time()
        dialect.check_alive(now_s)
        if dialect.heartbeat_due(now_s):
            queue.put(dialect.heartbeat(now_s=now_s))
        await trio.sleep(max(0.0, dialect.next_deadline_s() - awake_time()))


async def ping(transport: Transport, heartbeat: Heartbeat) -> NoReturn:
    """Ping a client whose messages do not show that it is alive, whenever nothing came for a while.

    A client that was suspended, or whose network is gone, does not answer and would keep its lane.

    Raises:
        RemoteProtocolError: nothing came from the peer for too long.
        TransportClosedError: the peer is gone, or (SlowPeerError) does not read.
    """
    pinged_s = awake_time()
    while True:
        now_s = awake_time()
        received_s = transport.received_s
        if now_s >= received_s + heartbeat.timeout_s:
            raise RemoteProtocolError(Fault.SILENT, f"nothing received for {now_s - received_s:.1f} s")
        due_s = max(received_s, pinged_s) + heartbeat.every_s
        if now_s >= due_s:
            await transport.ping()
            pinged_s = awake_time()
        else:
            await trio.sleep(min(due_s, received_s + heartbeat.timeout_s) - now_s)


def wall_clock_ms() -> float:
    """Milliseconds since the Unix epoch, as packets carry them."""
    return time.time() * 1000
