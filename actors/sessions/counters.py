"""What is counted of one session, and of all of them together."""

import dataclasses
from dataclasses import dataclass


@dataclass(slots=True)
class SessionCounters:
    """Counters of one session, or of all of them. A frame is 80 ms.

    Attributes:
        frames_in: frames accepted from the client.
        frames_dropped: of those, dropped before the language model.
        frames_out: frames written to the client.
        audio_refused: audio packets refused.
        underruns: frames that arrived in time and were written late.
        audio_dropped: frames for the client that were dropped on the way to it.
        partials_dropped: partial texts dropped under pressure.
        low_dropped: LOW packets dropped under pressure.
        decodes_skipped: frames that were too late to be decoded.
        frames_put_back: frames not accepted while the session was put back into the queue.
        frames_early: frames not accepted because the session had not begun with its voice and role yet.
        client_underruns: gaps in the playback, as reported by the client.
    """

    frames_in: int = 0
    frames_dropped: int = 0
    frames_out: int = 0
    audio_refused: int = 0
    underruns: int = 0
    audio_dropped: int = 0
    partials_dropped: int = 0
    low_dropped: int = 0
    decodes_skipped: int = 0
    client_underruns: int = 0
    frames_put_back: int = 0
    frames_early: int = 0

    def add(self, other: "SessionCounters") -> None:
        """Add the other's counters to these."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
