"""A connection has exactly one ending, and the first reason for it counts.

It carries a session over one transport: ingress, egress, heartbeats and the wait for a lane
run side by side until one of them has a reason to end. Whatever the reason, the client is
told while it listens, the transport is closed, and no wait in between is without a deadline.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from actors import egress, ingress
from actors.delivery import Delivery
from actors.outbox import OutboxFullError
from actors.session import Session
from actors.transport import SlowPeerError, Transport, TransportClosedError
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError
from pipeline.protocol.conversation import Conversation
from pipeline.protocol.farewell import Farewell
from pipeline.protocol.faults import LocalProtocolError, RemoteProtocolError
from pipeline.protocol.metadata import ConnectionEstablished, Draining, ErrorNotice

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ending:
    """How the peer is bid farewell, and why, in one word for the log and the counters."""

    farewell: Farewell
    reason: str


class Connection:
    """One session on one transport."""

    def __init__(
        self, transport: Transport, session: Session, delivery: Delivery, settings: Settings
    ) -> None:
        self.session = session
        self.peer = transport.peer
        self.ending: Ending | None = None
        self._transport = transport
        self._delivery = delivery
        self._settings = settings
        self._conversation = Conversation(
            "server",
            heartbeat_every_s=settings.heartbeat.every_s,
            heartbeat_timeout_s=settings.heartbeat.timeout_s,
            now_s=trio.current_time(),
        )
        self._scope = trio.CancelScope()
        self._parting_asked = trio.Event()
        self._broken: BrokenInvariantError | None = None

    async def run(self, greeting: ConnectionEstablished) -> None:
        """Hold the conversation to its end; `ending` says which. The transport is closed on every way out.

        Raises:
            BrokenInvariantError: nothing after it can be trusted.
        """
        try:
            self.session.tell(greeting)
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for task in (self._read, self._write, self._keep_alive, self._admit, self._part):
                        nursery.start_soon(self._supervise, task)
        finally:
            ending = self._end(Ending(Farewell.GOING_AWAY, "cancelled"))
            self.session.hang_up()
            self.session.outbox.close()
            with trio.CancelScope(shield=True, deadline=self._deadline_s()):
                await self._transport.close(ending.farewell)
            self._conversation.close()
        if self._broken is not None:
            raise self._broken

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
            self.lose(Ending(Farewell.TRY_AGAIN_LATER, "not_reading"))
        except TransportClosedError:
            self.lose(Ending(Farewell.GOING_AWAY, "peer_closed"))
        except RemoteProtocolError as fault:
            self.session.tell(ErrorNotice(fault.fault, str(fault)))
            self._finish(Ending(fault.farewell, fault.fault))
        except LocalProtocolError as error:
            self.lose(Ending(error.farewell, "local_protocol"))
        except BrokenInvariantError as error:
            self._broken = error
            self.lose(Ending(Farewell.INTERNAL_ERROR, "broken_invariant"))
        except Exception:
            log.exception("session_crashed", session=self.session.id)
            self.lose(Ending(Farewell.INTERNAL_ERROR, "crashed"))

    def _finish(self, ending: Ending) -> None:
        """Write what waits, for as long as one write may take, then end."""
        self._end(ending)
        self._scope.deadline = min(self._scope.deadline, self._deadline_s())
        self.session.outbox.close()

    async def _read(self) -> None:
        def on_bye() -> None:
            self.part(Ending(Farewell.NORMAL, "bye"))

        await ingress.read(self._transport, self._conversation, self.session, on_bye)

    async def _write(self) -> None:
        await egress.write(self._transport, self._conversation, self.session)
        self._scope.cancel()

    async def _keep_alive(self) -> None:
        await egress.keep_alive(self._conversation, self.session.outbox)

    async def _admit(self) -> None:
        await self.session.admitted()
        if self.ending is not None:
            return
        try:
            self.session.open(self._delivery)
        except trio.ClosedResourceError:
            self.lose(Ending(Farewell.INTERNAL_ERROR, "line_ended"))

    async def _part(self) -> None:
        await self._parting_asked.wait()
        assert self.ending is not None
        self.session.hang_up()
        with trio.move_on_after(self._settings.drain_s):
            await self.session.finished.wait()
        self._finish(self.ending)
