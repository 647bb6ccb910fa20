"""When to send a heartbeat, when to answer one, and when a peer has been silent for too long.

A heartbeat on the wire does not say whether it is a request or a reply, so each end counts its
own open requests. One that arrives while a request is open is the reply to it; any other is a
request, and is answered. Between two ends that keep this rule the heartbeats in flight never
outnumber the open requests of both: sending a request adds one to each side, a reply takes the
place of its request, receiving a reply takes one from each, and a heartbeat dropped under
pressure only lowers the first. So whenever an end replies, it has no request open, all open
requests are the other's, and the reply closes one of them: no reply is ever answered.

A peer that answers every heartbeat, replies included, would still cause an endless exchange.
Replies are therefore also spaced, and its echo, which comes back at once, is not answered.
"""

from typing import Final

ANSWER_SPACING_S: Final = 1.0


class Liveness:
    """The heartbeats and the silence of one end; time is passed in, in seconds, and never goes back."""

    def __init__(self, *, every_s: float, timeout_s: float, now_s: float) -> None:
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._received_s = now_s
        self._sent_s = now_s
        self._answered_s = now_s - ANSWER_SPACING_S
        self._open_requests = 0

    def record_received(self, now_s: float) -> None:
        """A packet of any type has arrived: the silence starts anew."""
        self._received_s = now_s

    def record_sent(self, now_s: float) -> None:
        """A heartbeat of our own goes out."""
        self._sent_s = now_s
        self._open_requests += 1

    def should_answer(self, now_s: float) -> bool:
        """Record that a heartbeat arrived; whether it has to be answered."""
        if self._open_requests:
            self._open_requests -= 1
            return False
        if now_s - self._answered_s < ANSWER_SPACING_S:
            return False
        self._answered_s = now_s
        return True

    def silence_s(self, now_s: float) -> float:
        """Seconds since the last packet of the peer."""
        return now_s - self._received_s

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for a heartbeat of our own."""
        return now_s >= self._sent_s + self._every_s

    def is_timed_out(self, now_s: float) -> bool:
        """Whether the peer has been silent for too long."""
        return now_s >= self._received_s + self._timeout_s

    def next_deadline_s(self) -> float:
        """When `is_due` or `is_timed_out` becomes true, if nothing happens before."""
        return min(self._sent_s + self._every_s, self._received_s + self._timeout_s)
