"""Decides which late frames are dropped instead of decoded.

Neighbours: `actors.decoder` asks before each frame; `channel` and `actors.sessions.send_queue` drop
frames that have waited too long, before a model and before the socket.
"""

import math
from dataclasses import dataclass
from typing import Final

# Frames that are all late by the same amount leave no gap in playout. Only a frame that is later
# than recent ones is too late; a new session allows for a server that is slow from the start.
ALLOWED_LATENESS_S: Final = 0.160
LATENESS_DECAY_S: Final = 0.001  # per frame: 80 ms decay in 6.4 s
MAX_CONSECUTIVE_SKIPS: Final = 5  # after that, lateness is permanent, and skipping would not reduce it


@dataclass(slots=True)
class LatenessTracker:
    """How late one lane's frames may be, and how many have been skipped in a row."""

    allowed_s: float = ALLOWED_LATENESS_S
    skipped: int = 0

    def skips(self, late_s: float) -> bool:
        """Whether to skip a frame that is late by `late_s` (negative if it is early)."""
        if self.allowed_s < late_s and (self.skipped < MAX_CONSECUTIVE_SKIPS or late_s == math.inf):
            self.skipped += 1
            if late_s != math.inf:  # adapt to a server whose lateness varies
                self.allowed_s += (late_s - self.allowed_s) / 4
            return True
        self.skipped = 0
        self.allowed_s = max(0.0, late_s, self.allowed_s - LATENESS_DECAY_S)
        return False
