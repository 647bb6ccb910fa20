"""A session outlives the loss of its connection for a while, and is taken up again by one token, once.

Who comes is given a seat at once, before the connection is upgraded: a ticket of its own, or,
against the token, the session that waits for it. A session whose connection was lost keeps its
lane, and what the models remember, for the grace time; its lane receives no frames meanwhile,
and what must not be lost is kept. Who leaves on purpose, or for a fault, keeps nothing.

Neighbours: `admission` has the lanes, `connection` carries a session, `line` joins them. What
does not belong here: what is kept, which is the session's.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from actors.connection import Connection, Ending
from actors.sessions.admission import Admission, Ticket
from actors.sessions.session import Session

TOKEN_BYTES = 24


@dataclass(eq=False, slots=True)
class Guest:
    """A session, with who carries it, or how it was lost. `claimed`: its token was shown."""

    session: Session
    token: str | None = None
    connection: Connection | None = None
    lost: tuple[Connection, Ending] | None = None
    claimed: bool = False
    overdue: bool = False


class Seat:
    """What one connection may begin with; leaving it is all that its holder owes.

    `guest` has the session that is taken up again, or is None: a new one, with `ticket`. `stale`
    says that a token was shown which is good for nothing any more.
    """

    def __init__(
        self, reception: "Reception", ticket: Ticket, guest: Guest | None = None, *, stale: bool = False
    ) -> None:
        self._reception = reception
        self.ticket = ticket
        self.guest = guest
        self.stale = stale
        self.taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.taken:
            return  # the lane is its session's, to keep or to give up
        if self.guest is None:
            self.ticket.close()
        else:
            self._reception.disclaim(self.guest)


class Reception:
    """All sessions, talking or waiting for a connection.

    Args:
        admission: what new sessions are admitted by.
        grace_s: how long a session waits; 0 is not at all, and no token is given out.
        replica: what a balancer calls this server; it goes before each token, with a dot.
        on_end: told of each session once it is over, with the last connection that carried it.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        grace_s: float,
        on_end: Callable[[Connection, Ending], None],
        replica: str | None = None,
    ) -> None:
        self.resumed = 0
        self._admission = admission
        self._grace_s = grace_s
        self._on_end = on_end
        self._home = "" if replica is None else f"{replica}."
        self._guests: dict[Session, Guest] = {}
        self._tokens: dict[str, Guest] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Sessions may wait for as long as this runs."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def __iter__(self) -> Iterator[Session]:
        return iter(self._guests)

    @property
    def waiting(self) -> int:
        """Sessions without a connection."""
        return sum(guest.lost is not None for guest in self._guests.values())

    def seat(self, token: str | None, *, may_wait: bool = True) -> Seat:
        """A seat, at once. A token is spent by it, whatever comes of the connection.

        A new session gets a place in the queue only if it `may_wait`.

        Raises:
            RefusedError: there is no room for a new session, or the doors are closed to all.
        """
        self._admission.check_open()
        guest = self._tokens.get(token) if token else None
        if guest is None or not guest.session.is_open:
            return Seat(self, self._admission.request(may_wait=may_wait), stale=bool(token))
        self._forget_token(guest)
        guest.claimed = True
        return Seat(self, guest.session.ticket, guest)

    def disclaim(self, guest: Guest) -> None:
        """Who showed the token did not come after all."""
        guest.claimed = False
        if guest.overdue:
            self._end(guest)

    def carry(self, session: Session, connection: Connection) -> str | None:
        """The session goes on over this connection, and an older one is closed; give the client's next token.

        None if a lost connection is the end.
        """
        guest = self._guests.setdefault(session, Guest(session))
        if guest.connection is not None:
            guest.connection.replace()
        if guest.claimed:
            self.resumed += 1
        guest.connection, guest.lost = connection, None
        guest.claimed = guest.overdue = False
        session.disturbed.set()
        if self._grace_s:
            guest.token = self._home + secrets.token_urlsafe(TOKEN_BYTES)
            self._tokens[guest.token] = guest
        return guest.token

    def left(self, connection: Connection, ending: Ending) -> None:
        """A connection has ended: its session waits for another, or is over."""
        guest = self._guests.get(connection.session)
        if guest is None or guest.connection is not connection:
            return  # another carries it now
        guest.connection, guest.lost = None, (connection, ending)
        may_wait = self._nursery is not None and self._admission.closed_for is None and self._grace_s > 0
        if self._nursery is not None and may_wait and ending.resumable and connection.session.is_open:
            connection.session.detach()
            disturbed = connection.session.disturbed = trio.Event()
            self._nursery.start_soon(self._await_return, guest, disturbed)
        else:
            self._end(guest)

    def dismiss(self, ending: Ending) -> None:
        """Every session that waits is over."""
        for guest in list(self._guests.values()):
            if guest.lost is not None:
                guest.lost = guest.lost[0], ending
                self._end(guest)

    async def _await_return(self, guest: Guest, disturbed: trio.Event) -> None:
        with trio.move_on_after(self._grace_s):
            await disturbed.wait()
        if guest.lost is None or guest.session.disturbed is not disturbed:
            return  # it was taken up, or is over
        if guest.claimed and guest.session.is_open:
            guest.overdue = True
        else:
            self._end(guest)

    def _forget_token(self, guest: Guest) -> None:
        if guest.token is not None:
            del self._tokens[guest.token]
            guest.token = None

    def _end(self, guest: Guest) -> None:
        if guest.lost is None:
            return  # it is over already
        guest.session.hang_up()
        guest.session.disturbed.set()
        self._forget_token(guest)
        if self._guests.pop(guest.session, None) is not None:
            connection, ending = guest.lost
            guest.lost = None
            self._on_end(connection, ending)
