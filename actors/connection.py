"""Carries a session over one transport, until exactly one reason ends it.

Ingress, egress, heartbeats and the wait for a lane run side by side until one of them has a reason
to end; the first reason counts. Whatever it is, the client is informed if it still reads, the
transport is closed, and no wait in between is without a deadline.

Neighbours: `ingress` and `egress` move the packets; `registry` decides what becomes of the session.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from actors import egress
from actors.ingress import Ingress, log_unsupported
from actors.runtime import awake_clock
from actors.runtime.awake_clock import awake_time
from actors.sessions.dispatcher import Dispatcher
from actors.sessions.input_buffer import InputBuffer
from actors.sessions.prompting import Prompter
from actors.sessions.send_queue import SendQueue, SendQueueFullError
from actors.sessions.session import Session
from actors.sessions.transcoding import Transcoding
from actors.sessions.transport import SlowPeerError, Transport, TransportClosedError
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError, LaneFailedError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import CloseReason
from pipeline.protocol.conversation import ConversationStatistics
from pipeline.protocol.dialect import Dialect
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.metadata import Draining, ErrorNotice
from pipeline.protocol.outgoing import OutgoingPacket

log = structlog.get_logger()

NOT_READING: Final = "not_reading"  # the last of the overload actions


@dataclass(frozen=True, slots=True)
class CloseInfo:
    """Why a connection ends: for the peer, and in one word for the log and the counters.

    `resumable`: the peer may not know that the connection is gone, and would come back.
    """

    close_reason: CloseReason
    cause: str
    resumable: bool = False


class Connection:
    """One session on one transport.

    Attributes:
        session: the session that it carries.
        dialect: how its client speaks.
        peer: the peer's address, for the log.
        close_info: why it ends; None until there is a reason.
        queue: packets that wait to be written.

    Args:
        prompter: computes the voice and the role that the session begins with.
        on_end: called once it has ended; decides what becomes of the session.
    """

    def __init__(
        self,
        transport: Transport,
        session: Session,
        dispatcher: Dispatcher,
        settings: Settings,
        on_end: Callable[["Connection", CloseInfo], None],
        *,
        dialect: Dialect,
        prompter: Prompter,
    ) -> None:
        self.session = session
        self.dialect = dialect
        self.peer = transport.peer
        self.close_info: CloseInfo | None = None
        self.queue = SendQueue(max_lag_s=settings.limits.max_lag_ms / 1000)
        self._on_end = on_end
        self._prompter = prompter
        self._transport = transport
        self._dispatcher = dispatcher
        self._settings = settings
        self._transcoding = Transcoding(dialect)
        self._buffer = InputBuffer(dialect, session) if dialect.input_buffer_s else None
        self._opening: tuple[OutgoingPacket, ...] = ()
        self._cannot_write = False
        self._scope = trio.CancelScope()
        self._closing = trio.Event()
        self._broken: BrokenInvariantError | None = None

    async def run(self, opening: Sequence[OutgoingPacket]) -> None:
        """Carry the session until there is a `close_info`. The transport is closed on every way out.

        `opening` is written first, ahead of anything that the session sends.

        Raises:
            BrokenInvariantError: nothing after it can be trusted.
        """
        try:
            self._opening = tuple(opening)
            self._apply_request()
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for task in (
                        self._read,
                        self._write,
                        self._keep_alive,
                        self._ping,
                        self._pass_on_input,
                        self._admit,
                        self._begin_personas,
                        self._finish_session,
                        self._end_when_idle,
                        self._expire,
                    ):
                        nursery.start_soon(self._supervise, task)
        finally:
            info = self._end(CloseInfo(CloseReason.GOING_AWAY, "cancelled"))
            self._on_end(self, info)
            self.queue.close()
            with trio.CancelScope(shield=True, deadline=self._write_deadline_s()):
                if info.close_reason is CloseReason.INTERNAL_ERROR and not self._cannot_write:
                    await self._send_internal_error()
                await self._transport.close(info.close_reason)
            self.dialect.close()
        if self._broken is not None:
            raise self._broken

    def packets(self) -> ConversationStatistics:
        """Counters of packets sent and received, by type."""
        return self.dialect.statistics()

    def close_gracefully(self, info: CloseInfo) -> None:
        """End once all audio that was accepted is answered, within `drain_s`."""
        self._end(info)
        self._closing.set()

    def drain(self) -> None:
        """The server shuts down: inform the client, once, and close gracefully."""
        if self.close_info is not None:
            return
        self.session.send_metadata(Draining())
        self.close_gracefully(CloseInfo(CloseReason.GOING_AWAY, "drained"))

    def hang_up(self) -> None:
        """Close gracefully because of a request from outside the connection."""
        self.close_gracefully(CloseInfo(CloseReason.NORMAL, "hangup"))

    def supersede(self) -> None:
        """Another connection carries the session from now on: end."""
        self.abort(CloseInfo(CloseReason.REPLACED, "replaced"))

    def abort(self, info: CloseInfo) -> None:
        """End now, without writing what waits."""
        self._end(info)
        self._scope.cancel()

    def _end(self, info: CloseInfo) -> CloseInfo:
        self.close_info = self.close_info or info
        return self.close_info

    def _write_deadline_s(self) -> float:
        return trio.current_time() + self._settings.limits.send_timeout_s

    async def _supervise(self, task: Callable[[], Awaitable[None]]) -> None:
        """Turn a failure of one task into the end of this connection, and of no other."""
        try:
            await task()
        except (SlowPeerError, SendQueueFullError):
            self.abort(CloseInfo(CloseReason.TRY_AGAIN_LATER, NOT_READING, resumable=self.dialect.resumable))
        except TransportClosedError as closed:
            resumable = self.dialect.resumable and not closed.deliberate
            self.abort(CloseInfo(CloseReason.GOING_AWAY, "peer_closed", resumable=resumable))
        except RemoteProtocolError as fault:
            self.queue.put(outgoing.metadata(ErrorNotice(fault.fault, str(fault))))
            resumable = self.dialect.resumable and fault.fault is Fault.SILENT
            self._end_after_writing(CloseInfo(fault.close_reason, fault.fault, resumable=resumable))
        except LocalProtocolError as error:
            self.abort(CloseInfo(error.close_reason, "local_protocol"))
        except LaneFailedError:
            self.abort(CloseInfo(CloseReason.INTERNAL_ERROR, "model_failed"))
        except BrokenInvariantError as error:
            self._broken = error
            self.abort(CloseInfo(CloseReason.INTERNAL_ERROR, "broken_invariant"))
        except Exception:
            log.exception("session_crashed", session=self.session.id)
            self._cannot_write = task == self._write  # it would only fail again
            self.abort(CloseInfo(CloseReason.INTERNAL_ERROR, "crashed"))

    def _end_after_writing(self, info: CloseInfo) -> None:
        """Write what waits, for as long as one write may take, then end."""
        self._end(info)
        self._scope.deadline = min(self._scope.deadline, self._write_deadline_s())
        self.queue.close()

    async def _send_internal_error(self) -> None:
        """Inform the peer, although nothing that waits in the queue is written any more."""
        notice = outgoing.metadata(ErrorNotice("internal_error", CloseReason.INTERNAL_ERROR.value))
        with contextlib.suppress(TransportClosedError):
            await egress.send(self._transport, self.dialect, notice)

    async def _read(self) -> None:
        def on_bye() -> None:
            self.close_gracefully(CloseInfo(CloseReason.NORMAL, "bye"))

        reader = Ingress(self._transport, self._transcoding, self.session, buffer=self._buffer, on_bye=on_bye)
        await reader.read(self.queue)

    async def _pass_on_input(self) -> None:
        if self._buffer is not None:
            await self._buffer.run()

    async def _write(self) -> None:
        await egress.write(self._transport, self._transcoding, self.session, self.queue, self._opening)
        if self.close_info is not None:
            for message in self.dialect.farewell(self.close_info.cause):
                await self._transport.send(message)
        self._scope.cancel()

    async def _keep_alive(self) -> None:
        await egress.keep_alive(self.dialect, self.queue)

    async def _ping(self) -> None:
        if not self.dialect.has_heartbeats:
            await egress.ping(self._transport, self._settings.heartbeat)

    async def _admit(self) -> None:
        """Open the session once it may run; each time that it is put back, wait for its next turn."""
        if not self.session.is_open:
            await self.session.wait_admitted()
            if self.close_info is not None:
                return
            try:
                self.session.open(self._dispatcher)
            except trio.ClosedResourceError:
                self.abort(CloseInfo(CloseReason.INTERNAL_ERROR, "engine_ended"))
                return
        while True:
            await self.session.wait_put_back()
            await self.session.wait_admitted()
            self.session.continue_after_wait()

    async def _begin_personas(self) -> None:
        await self.session.begin_personas(self._prompter)

    async def _end_when_idle(self) -> None:
        """Close a session that sends no audio, to free its lane; a muted microphone sends zeros."""
        idle_s = self._settings.lanes.idle_s
        while (left_s := self.session.last_audio_s + idle_s - awake_time()) > 0:  # noqa: ASYNC110 - frames are many
            await trio.sleep(left_s)
        notice = ErrorNotice("idle", f"Session ended: no audio for {idle_s:g} s.")
        self.queue.put(outgoing.metadata(notice))
        self.close_gracefully(CloseInfo(CloseReason.NORMAL, "idle"))

    async def _expire(self) -> None:
        """Close a session that has lasted for as long as its dialect announced."""
        await trio.sleep(self.dialect.lifetime_s)
        self.close_gracefully(CloseInfo(CloseReason.NORMAL, "expired"))

    def _apply_request(self) -> None:
        """What the client asked for when it connected."""
        if self.dialect.request is not None:
            self.session.configure(self.dialect.request)
        if self.dialect.unsupported:
            log_unsupported(self.session, self.dialect, self.dialect.unsupported)

    async def _finish_session(self) -> None:
        await self._closing.wait()
        assert self.close_info is not None
        self.session.close_input()
        with awake_clock.move_on_after(self._settings.drain_s):
            await self.session.finished.wait()
        self._end_after_writing(self.close_info)
