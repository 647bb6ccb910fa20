"""The sessions of the engine: those with a connection, and those that wait for their client to come back.

A connection gets a `Reservation` before it is upgraded: a lease for a new session or, in exchange
for a resume token, the session that waits for it. A session whose connection is lost keeps its
lane, and the models' state of it, for the grace time; its lane receives no frames meanwhile, and
packets that want an ACK are kept. A connection that is closed deliberately, or for a fault, ends
its session at once.

| object | what it is | exists |
|---|---|---|
| `LaneLease` (`sessions.admission`) | the right to a lane, or a place in the queue | until closed |
| `Reservation` | what one connection may begin with: a lease, or a session to resume | before its upgrade |
| `SessionEntry` | a session and its connection, or the one it lost | until the session is over |

Neighbours: `sessions.admission` has the lanes, `connection` carries a session, `engine` joins
them. What does not belong here: the packets that are kept, which are the session's.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from actors.connection import CloseInfo, Connection
from actors.runtime import awake_clock
from actors.sessions.admission import Admission, LaneLease
from actors.sessions.session import Session

TOKEN_BYTES = 24


@dataclass(eq=False, slots=True)
class SessionEntry:
    """A session with the connection that carries it, or the one that was lost and why.

    `claimed`: a reservation has it, whose connection is not there yet. `expired`: the grace time
    passed meanwhile.
    """

    session: Session
    token: str | None = None
    connection: Connection | None = None
    lost: tuple[Connection, CloseInfo] | None = None
    claimed: bool = False
    expired: bool = False


class Reservation:
    """What one connection may begin with. Its holder only has to leave it, as a context manager.

    Attributes:
        lease: the lane, or the place in the queue.
        resumed: the session to resume; None for a new one.
        token_rejected: a resume token was given that is not valid any more.
    """

    def __init__(
        self,
        registry: "SessionRegistry",
        lease: LaneLease,
        entry: SessionEntry | None = None,
        *,
        token_rejected: bool = False,
    ) -> None:
        self.lease = lease
        self.resumed = None if entry is None else entry.session
        self.token_rejected = token_rejected
        self._registry = registry
        self._entry = entry
        self._used = False

    def use(self, session: Session, connection: Connection) -> str | None:
        """Carry the session, new or resumed, over this connection; return the token to resume it with.

        From now on the lane is the session's. None: a lost connection ends the session.
        """
        self._used = True
        return self._registry.attach(session, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._used:
            return
        if self._entry is None:
            self.lease.close()
        else:
            self._registry.release(self._entry)


class SessionRegistry:
    """All sessions, with a connection or waiting for one.

    Args:
        admission: admits new sessions.
        grace_s: how long a session waits for its client; with 0 it does not, and has no token.
        replica: the name of this server at its load balancer; the prefix of each token, with a dot.
        on_end: called with each session's last connection once the session is over.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        grace_s: float,
        on_end: Callable[[Connection, CloseInfo], None],
        replica: str | None = None,
    ) -> None:
        self.resumed = 0
        self._admission = admission
        self._grace_s = grace_s
        self._on_end = on_end
        self._token_prefix = "" if replica is None else f"{replica}."
        self._entries: dict[Session, SessionEntry] = {}
        self._tokens: dict[str, SessionEntry] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Sessions may wait for their clients for as long as this runs."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def __iter__(self) -> Iterator[Session]:
        return iter(self._entries)

    @property
    def waiting(self) -> int:
        """Sessions without a connection."""
        return sum(entry.lost is not None for entry in self._entries.values())

    def reserve(self, token: str | None, *, may_wait: bool = True) -> Reservation:
        """Reserve a new session or, with a valid `token`, the one to resume. The token is used up.

        A new session gets a place in the queue only if it `may_wait`.

        Raises:
            SessionRefusedError: there is no room for a new session, or all sessions are refused.
        """
        self._admission.check_open()
        entry = self._tokens.get(token) if token else None
        if entry is None or not entry.session.is_open:
            return Reservation(self, self._admission.request(may_wait=may_wait), token_rejected=bool(token))
        self._forget_token(entry)
        entry.claimed = True
        return Reservation(self, entry.session.lease, entry)

    def release(self, entry: SessionEntry) -> None:
        """The connection that was to resume the session did not use its reservation."""
        entry.claimed = False
        if entry.expired:
            self._end(entry)

    def attach(self, session: Session, connection: Connection) -> str | None:
        """Carry the session over this connection, and close an older one; return the next resume token.

        None if a lost connection ends the session.
        """
        entry = self._entries.setdefault(session, SessionEntry(session))
        if entry.connection is not None:
            entry.connection.supersede()
        if entry.claimed:
            self.resumed += 1
        entry.connection, entry.lost = connection, None
        entry.claimed = entry.expired = False
        session.wakeup.set()
        if self._grace_s:
            entry.token = self._token_prefix + secrets.token_urlsafe(TOKEN_BYTES)
            self._tokens[entry.token] = entry
        return entry.token

    def connection_closed(self, connection: Connection, info: CloseInfo) -> None:
        """A connection has ended: its session waits for another one, or is over."""
        entry = self._entries.get(connection.session)
        if entry is None or entry.connection is not connection:
            return  # another one carries it now
        entry.connection, entry.lost = None, (connection, info)
        may_wait = self._nursery is not None and self._admission.closed_for is None and self._grace_s > 0
        if self._nursery is not None and may_wait and info.resumable and connection.session.is_open:
            connection.session.detach()
            wakeup = connection.session.wakeup = trio.Event()
            self._nursery.start_soon(self._expire, entry, wakeup)
        else:
            self._end(entry)

    def end_waiting(self, info: CloseInfo) -> None:
        """End every session that waits for its client."""
        for entry in list(self._entries.values()):
            if entry.lost is not None:
                entry.lost = entry.lost[0], info
                self._end(entry)

    async def _expire(self, entry: SessionEntry, wakeup: trio.Event) -> None:
        """End the session after the grace time, unless it is resumed before."""
        with awake_clock.move_on_after(self._grace_s):
            await wakeup.wait()
        if entry.lost is None or entry.session.wakeup is not wakeup:
            return  # it was resumed, or is over
        if entry.claimed and entry.session.is_open:
            entry.expired = True
        else:
            self._end(entry)

    def _forget_token(self, entry: SessionEntry) -> None:
        if entry.token is not None:
            del self._tokens[entry.token]
            entry.token = None

    def _end(self, entry: SessionEntry) -> None:
        if entry.lost is None:
            return  # it is over already
        entry.session.close_input()
        entry.session.wakeup.set()
        self._forget_token(entry)
        if self._entries.pop(entry.session, None) is not None:
            connection, info = entry.lost
            entry.lost = None
            self._on_end(connection, info)
