"""The ingress depacketizer: reads a connection's messages and passes their content to the session.

It reads at once and never waits for a model: frames that the models cannot take in time are
dropped in the first channel, oldest first.

Neighbours: the `pipeline.protocol.dialect` decodes the messages; `egress` writes.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from actors.runtime.awake_clock import awake_time
from actors.sessions.input_buffer import InputBuffer
from actors.sessions.send_queue import SendQueue
from actors.sessions.session import Session
from actors.sessions.transcoding import Transcoding
from actors.sessions.transport import Transport
from pipeline.protocol.dialect import Dialect
from pipeline.protocol.events import (
    AudioReceived,
    EncodedAudioReceived,
    Event,
    InputCleared,
    InputEnded,
    MetadataReceived,
    Refused,
    SessionChanged,
)
from pipeline.protocol.metadata import Bye, ClientStats, Configure, ErrorNotice

log = structlog.get_logger()


class Ingress:
    """Reads the messages of one connection.

    Args:
        transport: where they come from.
        transcoding: decodes their audio; its dialect decodes the rest.
        session: what they are for.
        buffer: for clients that may send audio ahead of real time; None: it is passed on at once.
        on_bye: called when the client wants to end.
    """

    def __init__(
        self,
        transport: Transport,
        transcoding: Transcoding,
        session: Session,
        *,
        buffer: InputBuffer | None,
        on_bye: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._transcoding = transcoding
        self._dialect = transcoding.dialect
        self._session = session
        self._buffer = buffer
        self._on_bye = on_bye

    async def read(self, queue: SendQueue) -> None:
        """Read until the peer is gone or breaks the protocol. ACKs and other replies go into the queue.

        Raises:
            TransportClosedError: the peer is gone.
            RemoteProtocolError: the peer broke the protocol.
        """
        while True:
            await queue.wait_room()
            message = await self._transport.receive()
            received_s = trio.current_time()
            event, replies = self._dialect.receive(message, now_s=awake_time())
            for reply in replies:
                queue.put(reply)
            match event:
                case AudioReceived():
                    self._session.receive_audio(event, received_s)
                case EncodedAudioReceived(pieces):
                    await self._receive_encoded(pieces, received_s)
                case InputEnded(silence) if self._buffer is not None:
                    await self._receive_encoded((silence,), received_s)
                    self._buffer.end_turn()
                case _:
                    self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case MetadataReceived(Configure() as change):
                self._session.configure(change)
            case MetadataReceived(ClientStats() as stats):
                self._session.update_client_stats(stats)
            case MetadataReceived(Bye()):
                self._on_bye()
            case InputCleared() if self._buffer is not None:
                self._buffer.clear()
            case SessionChanged(wanted, unsupported):
                if unsupported:
                    log_unsupported(self._session, self._dialect, unsupported)
                if wanted is not None:
                    self._session.configure(wanted)
            case Refused(code, why):
                self._session.send_metadata(ErrorNotice(code, why))

    async def _receive_encoded(self, pieces: Sequence[bytes], received_s: float) -> None:
        decoded = await self._transcoding.decode(pieces)
        self._transport.charge(decoded.thread_s)
        refusal = decoded.refusal
        for audio in decoded.audio:
            if self._buffer is None:
                self._session.receive_audio(audio, received_s)
            else:
                refusal = self._buffer.put(audio) or refusal
        if refusal is not None:
            self._session.refuse_audio(refusal)


def log_unsupported(session: Session, dialect: Dialect, what: Sequence[str]) -> None:
    """A client asked for something that it is not given, and goes on without."""
    log.info("request_not_supported", session=session.id, dialect=dialect.name, what=list(what))
