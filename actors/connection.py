"""A connection has exactly one ending, and the first reason for it counts.

It carries a session over one transport: ingress, egress, heartbeats and the wait for a lane
run side by side until one of them has a reason to end. Whatever the reason, the client is
told while it listens, the transport is closed, and no wait in between is without a deadline.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from actors import egress, ingress
from actors.sessions.dispatcher import Delivery
from actors.sessions.send_queue import Outbox, OutboxFullError
from actors.sessions.session import Session
from actors.sessions.transport import SlowPeerError, Transport, TransportClosedError
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError, LaneFailedError
from pipeline.protocol import outgoing
from pipeline.protocol.close_reason import Farewell
from pipeline.protocol.conversation import Conversation, ConversationStatistics
from pipeline.protocol.faults import Fault, LocalProtocolError, RemoteProtocolError
from pipeline.protocol.metadata import Draining, ErrorNotice
from pipeline.protocol.outgoing import Outgoing

log = structlog.get_logger()

NOT_READING: Final = "not_reading"  # the last rung of the ladder


@dataclass(frozen=True, slots=True)
class Ending:
    """How the peer is bid farewell, and why, in one word for the log and the counters.

    `resumable`: the peer may not know that it has gone, and would come back.
    """

    farewell: Farewell
    reason: str
    resumable: bool = False


class Connection:
    """One session on one transport; `on_end` decides what becomes of the session."""

    def __init__(
        self,
        transport: Transport,
        session: Session,
        delivery: Delivery,
        settings: Settings,
        on_end: Callable[["Connection", Ending], None],
    ) -> None:
        self.session = session
        self.peer = transport.peer
        self.began_s = trio.current_time()
        self.ending: Ending | None = None
        self.outbox = Outbox(max_lag_s=settings.limits.max_lag_ms / 1000)
        self._on_end = on_end
        self._transport = transport
        self._delivery = delivery
        self._settings = settings
        self._conversation = Conversation(
            "server",
            heartbeat_every_s=settings.heartbeat.every_s,
            heartbeat_timeout_s=settings.heartbeat.timeout_s,
            now_s=trio.current_time(),
            kept=session.kept,
        )
        self._opening: tuple[Outgoing, ...] = ()
        self._is_mute = False
        self._scope = trio.CancelScope()
        self._parting_asked = trio.Event()
        self._broken: BrokenInvariantError | None = None

    async def run(self, opening: Sequence[Outgoing]) -> None:
        """Hold the conversation to its end; `ending` says which. The transport is closed on every way out.

        `opening` is written first, ahead of anything the session may have to say.

        Raises:
            BrokenInvariantError: nothing after it can be trusted.
        """
        try:
            self._opening = tuple(opening)
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for task in (
                        self._read,
                        self._write,
                        self._keep_alive,
                        self._admit,
                        self._part,
                        self._watch_idleness,
                    ):
                        nursery.start_soon(self._supervise, task)
        finally:
            ending = self._end(Ending(Farewell.GOING_AWAY, "cancelled"))
            self._on_end(self, ending)
            self.outbox.close()
            with trio.CancelScope(shield=True, deadline=self._deadline_s()):
                if ending.farewell is Farewell.INTERNAL_ERROR and not self._is_mute:
                    await self._say_sorry()
                await self._transport.close(ending.farewell)
            self._conversation.close()
        if self._broken is not None:
            raise self._broken

    def packets(self) -> ConversationStatistics:
        """What went over the wire, by type."""
        return self._conversation.statistics()

    def part(self, ending: Ending) -> None:
        """End once all that was heard is answered, for at most `drain_s`."""
        self._end(ending)
        self._parting_asked.set()

    def drain(self) -> None:
        """The server shuts down: say so, once, and part."""
        if self.ending is not None:
            return
        self.session.tell(Draining())
        self.part(Ending(Farewell.GOING_AWAY, "drained"))

    def replace(self) -> None:
        """Another connection carries the session from now on."""
        self.lose(Ending(Farewell.REPLACED, "replaced"))

    def lose(self, ending: Ending) -> None:
        """End now; nothing that waits is written."""
        self._end(ending)
        self._scope.cancel()

    def _end(self, ending: Ending) -> Ending:
        self.ending = self.ending or ending
        return self.ending

    def _deadline_s(self) -> float:
        return trio.current_time() + self._settings.limits.send_timeout_s

    async def _supervise(self, task: Callable[[], Awaitable[None]]) -> None:
        """Turn the failure of one task into the ending of its connection, and of nothing else."""
        try:
            await task()
        except (SlowPeerError, OutboxFullError):
            self.lose(Ending(Farewell.TRY_AGAIN_LATER, NOT_READING, resumable=True))
        except TransportClosedError as closed:
            self.lose(Ending(Farewell.GOING_AWAY, "peer_closed", resumable=not closed.parted))
        except RemoteProtocolError as fault:
            self._tell(ErrorNotice(fault.fault, str(fault)))
            self._finish(Ending(fault.farewell, fault.fault, resumable=fault.fault is Fault.SILENT))
        except LocalProtocolError as error:
            self.lose(Ending(error.farewell, "local_protocol"))
        except LaneFailedError:
            self.lose(Ending(Farewell.INTERNAL_ERROR, "model_failed"))
        except BrokenInvariantError as error:
            self._broken = error
            self.lose(Ending(Farewell.INTERNAL_ERROR, "broken_invariant"))
        except Exception:
            log.exception("session_crashed", session=self.session.id)
            self._is_mute = task == self._write  # it would only fail again
            self.lose(Ending(Farewell.INTERNAL_ERROR, "crashed"))

    def _tell(self, notice: ErrorNotice) -> None:
        self.outbox.put(outgoing.metadata(notice))

    def _finish(self, ending: Ending) -> None:
        """Write what waits, for as long as one write may take, then end."""
        self._end(ending)
        self._scope.deadline = min(self._scope.deadline, self._deadline_s())
        self.outbox.close()

    async def _say_sorry(self) -> None:
        """What failed is ours, and nothing that waits is written any more; but the peer is told."""
        sorry = outgoing.metadata(ErrorNotice("internal_error", Farewell.INTERNAL_ERROR.value))
        with contextlib.suppress(TransportClosedError):
            message = self._conversation.number(sorry, timestamp_ms=egress.wall_clock_ms())
            await self._transport.send(message)

    async def _read(self) -> None:
        def on_bye() -> None:
            self.part(Ending(Farewell.NORMAL, "bye"))

        await ingress.read(self._transport, self._conversation, self.session, self.outbox, on_bye)

    async def _write(self) -> None:
        await egress.write(self._transport, self._conversation, self.session, self.outbox, self._opening)
        self._scope.cancel()

    async def _keep_alive(self) -> None:
        await egress.keep_alive(self._conversation, self.outbox)

    async def _admit(self) -> None:
        await self.session.admitted()
        if self.ending is not None or self.session.is_open:
            return
        try:
            self.session.open(self._delivery)
        except trio.ClosedResourceError:
            self.lose(Ending(Farewell.INTERNAL_ERROR, "line_ended"))

    async def _watch_idleness(self) -> None:
        """A lane is for talking; a muted microphone sends zeros."""
        idle_s = self._settings.lanes.idle_s
        while (due_s := self.session.spoke_s + idle_s) > trio.current_time():  # noqa: ASYNC110 - frames are many
            await trio.sleep_until(due_s)
        self._tell(ErrorNotice("idle", f"no audio came for {idle_s:g} s; the lane is for somebody else"))
        self.part(Ending(Farewell.NORMAL, "idle"))

    async def _part(self) -> None:
        await self._parting_asked.wait()
        assert self.ending is not None
        self.session.hang_up()
        with trio.move_on_after(self._settings.drain_s):
            await self.session.finished.wait()
        self._finish(self.ending)
