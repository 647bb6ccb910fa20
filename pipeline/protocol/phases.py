"""Who may say what when, as two tables: everything that changes a phase is here.

The tables do not know which end we are, so no rule can differ between what we do and what
we demand of the peer. A phase is joint: both ends pass through the same ones in the same
order, each when it writes or reads the packet that turns the page.

    GREETING ──connection_established──▶ WAITING ──ready, resumed──▶ READY
        └──────────────bye──────────────────┴─────────bye────────▶ PARTED
    any ──close──▶ CLOSED
"""

from enum import Enum

from pipeline.protocol.metadata import VOCABULARY, Role


class Phase(Enum):
    """How far a conversation has come."""

    GREETING = "connected, the server has not introduced itself"
    WAITING = "introduced, without a lane"
    READY = "the session has a lane"
    PARTED = "the client has said bye"
    CLOSED = "the connection is over"


_ALWAYS = frozenset({"ack", "heartbeat"})
_SERVER_NOTICES = _ALWAYS | {"error", "stats", "draining", "dropped", "recording"}
_SERVER_METADATA = frozenset(VOCABULARY["server"])
_CLIENT_WORDS = _ALWAYS | {"text"} | frozenset(VOCABULARY["client"])

MAY_SAY: dict[Phase, dict[Role, frozenset[str]]] = {
    Phase.GREETING: {
        "server": _SERVER_NOTICES | {"connection_established"},
        "client": _CLIENT_WORDS,
    },
    Phase.WAITING: {
        "server": _SERVER_NOTICES | {"queued", "ready", "resumed"},
        "client": _CLIENT_WORDS,
    },
    Phase.READY: {
        "server": _SERVER_NOTICES | {"audio", "text"},
        "client": _CLIENT_WORDS | {"audio"},
    },
    Phase.PARTED: {
        # Whatever was on its way when the client said bye.
        "server": _ALWAYS | _SERVER_METADATA | {"audio", "text"},
        "client": _ALWAYS,
    },
    Phase.CLOSED: {"server": frozenset(), "client": frozenset()},
}

TURNS: dict[tuple[Phase, Role, str], Phase] = {
    (Phase.GREETING, "server", "connection_established"): Phase.WAITING,
    (Phase.WAITING, "server", "ready"): Phase.READY,
    (Phase.WAITING, "server", "resumed"): Phase.READY,
    (Phase.GREETING, "client", "bye"): Phase.PARTED,
    (Phase.WAITING, "client", "bye"): Phase.PARTED,
    (Phase.READY, "client", "bye"): Phase.PARTED,
}


def may_say(phase: Phase, speaker: Role, act: str) -> bool:
    """Whether `speaker` may say `act` now."""
    return act in MAY_SAY[phase][speaker]


def after(phase: Phase, speaker: Role, act: str) -> Phase:
    """The phase once `speaker` has said `act`; most acts turn no page."""
    return TURNS.get((phase, speaker, act), phase)
