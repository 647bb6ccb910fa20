"""Counters of one connection's messages, for dialects without packets."""

from collections import Counter
from types import MappingProxyType

from pipeline.protocol.conversation import ConversationStatistics


class MessageCounters:
    """Messages sent and received by name, ignored and refused by reason; unknown names count as one."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def statistics(self) -> ConversationStatistics:
        """The counters so far."""
        counters = (self.sent, self.received, self.ignored, self.refused)
        sent, received, ignored, refused = (MappingProxyType(dict(counter)) for counter in counters)
        return ConversationStatistics(sent, received, ignored, refused, unacked=0)
