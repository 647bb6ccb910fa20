"""Heartbeats never echo for ever, and a peer that says nothing is noticed.

A heartbeat on the wire does not say whether it asks or answers, so each end counts the
questions it has open. One that arrives while a question is open is the answer to it; any
other is a question, and is answered. Then between two ends that keep this rule the
heartbeats in flight never outnumber the open questions of both: originating one adds one
to each side, an answer takes the place of its question, closing takes one from each, and
a heartbeat left out under pressure only lowers the first. So whenever an end answers, it
has no question open, all of them are the other's, and the answer finds one: no answer is
ever answered.

A peer that answers everything, answers too, would still ping-pong; answers are therefore
also spaced, and its echo, coming back at once, goes unanswered.
"""

from typing import Final

ANSWER_SPACING_S: Final = 1.0


class Liveness:
    """The heartbeats and the silence of one end; time is handed in, in seconds, and never goes back."""

    def __init__(self, *, every_s: float, timeout_s: float, now_s: float) -> None:
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._heard_s = now_s
        self._asked_s = now_s
        self._answered_s = now_s - ANSWER_SPACING_S
        self._open = 0

    def hear(self, now_s: float) -> None:
        """Any packet is a sign of life."""
        self._heard_s = now_s

    def ask(self, now_s: float) -> None:
        """A heartbeat of our own goes out."""
        self._asked_s = now_s
        self._open += 1

    def answers(self, now_s: float) -> bool:
        """A heartbeat came in: whether it is to be answered."""
        if self._open:
            self._open -= 1
            return False
        if now_s - self._answered_s < ANSWER_SPACING_S:
            return False
        self._answered_s = now_s
        return True

    def silence_s(self, now_s: float) -> float:
        """How long nothing came."""
        return now_s - self._heard_s

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for a heartbeat of our own."""
        return now_s >= self._asked_s + self._every_s

    def is_over(self, now_s: float) -> bool:
        """Whether the peer has been silent for too long."""
        return now_s >= self._heard_s + self._timeout_s

    def next_deadline_s(self) -> float:
        """When one of the two becomes true, if nothing happens before."""
        return min(self._asked_s + self._every_s, self._heard_s + self._timeout_s)
