"""The tables of who may send what: small enough to be checked completely."""

from pipeline.protocol.metadata import VOCABULARY
from pipeline.protocol.phases import SENDABLE, TRANSITIONS, Phase, can_send, next_phase

OPEN = [phase for phase in Phase if phase is not Phase.CLOSED]


def test_only_a_sendable_packet_causes_a_transition():
    """The kind of every transition may be sent in its phase, and leads to another phase."""
    for (phase, sender, kind), then in TRANSITIONS.items():
        assert can_send(phase, sender, kind)
        assert then is not phase


def test_every_phase_but_the_last_is_reached_from_the_first():
    """CLOSED is reached by closing, all others by packets."""
    reached = {Phase.GREETING}
    for _ in Phase:
        reached |= {then for (phase, _, _), then in TRANSITIONS.items() if phase in reached}
    assert reached == set(OPEN)


def test_heartbeats_and_acks_may_be_sent_in_every_open_phase():
    """Heartbeats and ACKs are never out of turn, so that a reply never has to be withheld."""
    for phase in OPEN:
        for sender in ("server", "client"):
            assert {"ack", "heartbeat"} <= SENDABLE[phase][sender]


def test_nothing_may_be_sent_once_closed():
    """CLOSED allows no kind of packet to either end."""
    assert not any(SENDABLE[Phase.CLOSED].values())


def test_audio_flows_only_with_a_lane():
    """A client's audio needs `ready`; the server's also drains after `bye`."""
    talking = [Phase.READY, Phase.PUT_BACK]
    assert [phase for phase in Phase if can_send(phase, "client", "audio")] == talking
    assert [phase for phase in Phase if can_send(phase, "server", "audio")] == [*talking, Phase.CLOSING]


def test_after_bye_the_server_may_send_what_it_could_before():
    """Whatever the server could say before `bye` may still be on its way after it."""
    for phase in OPEN:
        assert SENDABLE[phase]["server"] <= SENDABLE[next_phase(phase, "client", "bye")]["server"]


def test_a_client_may_send_bye_at_any_time():
    """`bye` leads to CLOSING from every phase but CLOSING and CLOSED."""
    for phase in set(OPEN) - {Phase.CLOSING}:
        assert can_send(phase, "client", "bye")
        assert next_phase(phase, "client", "bye") is Phase.CLOSING


def test_after_bye_a_client_only_acknowledges():
    """In CLOSING the client may send ACKs and heartbeats only."""
    assert SENDABLE[Phase.CLOSING]["client"] == {"ack", "heartbeat"}


def test_the_tables_name_the_vocabulary_and_nothing_else():
    """Every kind is a packet kind or a metadata `type`, and every `type` may be sent in some phase."""
    for sender, known in VOCABULARY.items():
        kinds = set().union(*(SENDABLE[phase][sender] for phase in Phase))
        assert known.keys() <= kinds
        assert kinds - known.keys() <= {"ack", "heartbeat", "audio", "text"}
