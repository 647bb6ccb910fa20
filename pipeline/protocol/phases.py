"""Who may send what when, as two tables: everything that changes a phase is here.

The tables do not depend on which end we are, so the rules for what we send and for what we accept
cannot differ. A phase is shared: both ends pass through the same phases in the same order, each
when it writes or reads the packet that causes the transition.

    GREETING ──connection_established──▶ WAITING ──ready, resumed──▶ READY
        └──────────────bye──────────────────┴─────────bye────────▶ CLOSING
    any ──close──▶ CLOSED
"""

from enum import Enum

from pipeline.protocol.metadata import VOCABULARY, Role


class Phase(Enum):
    """How far a conversation has come."""

    GREETING = "connected; the server has not sent connection_established"
    WAITING = "connection_established was sent; the session has no lane"
    READY = "the session has a lane"
    PUT_BACK = "the session has a lane, and waits for its turn again"
    CLOSING = "the client has sent bye"
    CLOSED = "the connection is over"


_ALWAYS = frozenset({"ack", "heartbeat"})
_SERVER_NOTICES = _ALWAYS | {"error", "stats", "draining", "dropped", "recording"}
_SERVER_METADATA = frozenset(VOCABULARY["server"])
_CLIENT_KINDS = _ALWAYS | {"text"} | frozenset(VOCABULARY["client"])

# Kinds are those of `OutgoingPacket.kind`.
SENDABLE: dict[Phase, dict[Role, frozenset[str]]] = {
    Phase.GREETING: {
        "server": _SERVER_NOTICES | {"connection_established"},
        "client": _CLIENT_KINDS,
    },
    Phase.WAITING: {
        "server": _SERVER_NOTICES | {"queued", "ready", "resumed"},
        "client": _CLIENT_KINDS,
    },
    Phase.READY: {
        # Ready again: the session has the voice and the role that were asked for.
        "server": _SERVER_NOTICES | {"audio", "text", "queued", "ready"},
        "client": _CLIENT_KINDS | {"audio"},
    },
    Phase.PUT_BACK: {
        # Answers that were on their way, and audio from a client that does not know yet.
        "server": _SERVER_NOTICES | {"audio", "text", "queued", "ready"},
        "client": _CLIENT_KINDS | {"audio"},
    },
    Phase.CLOSING: {
        # Whatever was on its way when the client sent bye.
        "server": _ALWAYS | _SERVER_METADATA | {"audio", "text"},
        "client": _ALWAYS,
    },
    Phase.CLOSED: {"server": frozenset(), "client": frozenset()},
}

TRANSITIONS: dict[tuple[Phase, Role, str], Phase] = {
    (Phase.GREETING, "server", "connection_established"): Phase.WAITING,
    (Phase.WAITING, "server", "ready"): Phase.READY,
    (Phase.WAITING, "server", "resumed"): Phase.READY,
    (Phase.READY, "server", "queued"): Phase.PUT_BACK,
    (Phase.PUT_BACK, "server", "ready"): Phase.READY,
    (Phase.PUT_BACK, "client", "bye"): Phase.CLOSING,
    (Phase.GREETING, "client", "bye"): Phase.CLOSING,
    (Phase.WAITING, "client", "bye"): Phase.CLOSING,
    (Phase.READY, "client", "bye"): Phase.CLOSING,
}


def can_send(phase: Phase, sender: Role, kind: str) -> bool:
    """Whether `sender` may send a packet of this kind now."""
    return kind in SENDABLE[phase][sender]


def next_phase(phase: Phase, sender: Role, kind: str) -> Phase:
    """The phase once `sender` has sent a packet of this kind; most kinds change nothing."""
    return TRANSITIONS.get((phase, sender, kind), phase)
