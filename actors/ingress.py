"""The ingress depacketizer: reads a connection's messages and passes their content to the session.

It reads at once and never waits for a model: frames that the models cannot take in time are
dropped in the first channel, oldest first.

Neighbours: the `pipeline.protocol.dialect` decodes the messages; `egress` writes.
"""

from collections.abc import Callable, Sequence

import trio

from actors.runtime.awake_clock import awake_time
from actors.sessions.send_queue import SendQueue
from actors.sessions.session import Session
from actors.sessions.transcoding import Transcoding
from actors.sessions.transport import Transport
from pipeline.protocol.events import AudioReceived, EncodedAudioReceived, MetadataReceived, Refused
from pipeline.protocol.metadata import Bye, ClientStats, Configure, ErrorNotice


async def read(
    transport: Transport,
    transcoding: Transcoding,
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
        event, replies = transcoding.dialect.receive(message, now_s=awake_time())
        for reply in replies:
            queue.put(reply)
        match event:
            case AudioReceived():
                session.receive_audio(event, received_s)
            case EncodedAudioReceived(pieces):
                await _receive_encoded(pieces, transcoding, session, received_s)
            case MetadataReceived(Configure() as change):
                session.configure(change)
            case MetadataReceived(ClientStats() as stats):
                session.update_client_stats(stats)
            case MetadataReceived(Bye()):
                on_bye()
            case Refused(code, why):
                session.send_metadata(ErrorNotice(code, why))


async def _receive_encoded(
    pieces: Sequence[bytes], transcoding: Transcoding, session: Session, received_s: float
) -> None:
    decoded = await transcoding.decode(pieces)
    for audio in decoded.audio:
        session.receive_audio(audio, received_s)
    if decoded.refusal is not None:
        session.refuse_audio(decoded.refusal)
