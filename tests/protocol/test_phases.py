"""The tables of who may say what: small enough to be checked whole."""

from pipeline.protocol.metadata import VOCABULARY
from pipeline.protocol.phases import MAY_SAY, TURNS, Phase, after, may_say

OPEN = [phase for phase in Phase if phase is not Phase.CLOSED]


def test_only_what_may_be_said_turns_a_page():
    """Every turn is an act that its phase allows, and leads to another phase."""
    for (phase, speaker, act), then in TURNS.items():
        assert may_say(phase, speaker, act)
        assert then is not phase


def test_every_phase_but_the_last_is_reached_from_the_first():
    """CLOSED is reached by closing, all others by what is said."""
    reached = {Phase.GREETING}
    for _ in Phase:
        reached |= {then for (phase, _, _), then in TURNS.items() if phase in reached}
    assert reached == set(OPEN)


def test_life_and_receipts_may_be_told_in_every_open_phase():
    """Heartbeats and ACKs are never out of turn, so that a reply never has to be withheld."""
    for phase in OPEN:
        for speaker in ("server", "client"):
            assert {"ack", "heartbeat"} <= MAY_SAY[phase][speaker]


def test_nothing_is_said_once_closed():
    """CLOSED allows no act to anyone."""
    assert not any(MAY_SAY[Phase.CLOSED].values())


def test_audio_flows_only_with_a_lane():
    """A client's audio needs `ready`; the server's also drains after `bye`."""
    assert [phase for phase in Phase if may_say(phase, "client", "audio")] == [Phase.READY]
    assert [phase for phase in Phase if may_say(phase, "server", "audio")] == [Phase.READY, Phase.PARTED]


def test_the_server_may_finish_what_it_began_when_the_client_parts():
    """Whatever the server could say before `bye` may still be on its way after it."""
    for phase in OPEN:
        assert MAY_SAY[phase]["server"] <= MAY_SAY[after(phase, "client", "bye")]["server"]


def test_a_client_may_part_at_any_time():
    """`bye` leads to PARTED from every phase that is neither that nor over."""
    for phase in set(OPEN) - {Phase.PARTED}:
        assert may_say(phase, "client", "bye")
        assert after(phase, "client", "bye") is Phase.PARTED


def test_after_bye_a_client_only_acknowledges():
    """In PARTED the client has nothing left but ACKs and heartbeats."""
    assert MAY_SAY[Phase.PARTED]["client"] == {"ack", "heartbeat"}


def test_the_tables_speak_of_the_vocabulary_and_nothing_else():
    """Every act is a packet kind or a metadata `type`, and every `type` may be said in some phase."""
    for speaker, known in VOCABULARY.items():
        said = set().union(*(MAY_SAY[phase][speaker] for phase in Phase))
        assert known.keys() <= said
        assert said - known.keys() <= {"ack", "heartbeat", "audio", "text"}
